"""compbench, geneval, quality and wise as commands, to the last digit of their results.

The scorers are the real classes with random weights of a few thousand numbers, and the judge is a
server on loopback. The commands run one after the other on the cluster of the test session. Two of
them end in the middle, and the same command goes on: compbench is stopped after the first of its
scorers, and the judge of wise gives some answers without a score.
"""

from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.small_models.tiny_rewards import save_clip, save_grounding_dino
from benchmarks.small_models.tiny_scorers import save_blip, save_blip2, save_openai_clip
from evaluation.diversity import vendi
from evaluation.suites.registry import suite_named
from orchestrator.cli import main
from policy.types import Prompt, Score
from rewards.config import RewardConfig
from rewards.factory import build_reward
from tests.command_line import ROOT, command_on_test_cluster, on_test_cluster
from tests.suite_files import JUDGE_PROGRAM, compbench_files, geneval_file, wise_files
from tests.written_weights import rewrite_weights

# A dozen processes load their libraries: minutes on a busy machine.
pytestmark = [pytest.mark.slow, pytest.mark.cluster, pytest.mark.timeout(1800)]


class Judge(ThreadingHTTPServer):
    """Gives the prompt with number n of WISE the consistency n % 3. Refuses every odd prompt once,
    with one of its two images, in words that are no scores."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.seen: list[tuple[int, NDArray[np.uint8]]] = []
        self.seeing = threading.Lock()


class _Answer(BaseHTTPRequestHandler):
    server: Judge

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        text, image = body["messages"][1]["content"]
        number = int(re.findall(r"PROMPT: prompt (\d+)\nEXPLANATION: why$", text["text"])[0])
        data = base64.b64decode(image["image_url"]["url"].partition(",")[2])
        with self.server.seeing:
            first = number not in [seen for seen, _ in self.server.seen]
            self.server.seen.append((number, np.asarray(Image.open(io.BytesIO(data)))))
        scores = f"Consistency: {number % 3}\nRealism: 1\nAesthetic Quality: 2"
        said = "I am sorry." if first and number % 2 else scores
        answer = json.dumps({"choices": [{"message": {"content": said}}]}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, format: str, *args: object) -> None: ...


@dataclass
class Measured:
    """A suite that was measured, and what its folder held in the middle."""

    suite: str
    folder: Path
    rewards: list[RewardConfig]
    stopped: dict[str, str]  # the content of each file of rows; empty if it was not stopped
    times: dict[Path, int]  # when each image was written
    printed: str

    @property
    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        return found

    @property
    def count(self) -> int:
        return len(self.rows("prompts.jsonl"))

    def rows(self, name: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in (self.folder / name).read_text().splitlines()]

    def results(self, scorer: str) -> dict[int, list[dict[str, Any]]]:
        """The newest results of a scorer by place."""
        return {row["place"]: row["results"] for row in self.rows(f"scores/{scorer}.jsonl")}

    def image(self, place: int, index: int) -> NDArray[np.uint8]:
        return np.asarray(Image.open(self.folder / "images" / f"{place:05d}" / f"{index:02d}.png"))


def scorer(name: str, factory: str, **options: Any) -> RewardConfig:
    return RewardConfig(
        name=name, factory=factory, options=options, cpus_per_worker=0.1, batch_size=4
    )


@pytest.fixture(scope="module")
def judge() -> Iterator[Judge]:
    server = Judge()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    (folder / "judge.py").write_text(JUDGE_PROGRAM)
    return geneval_file(wise_files(compbench_files(folder)))


@pytest.fixture(scope="module")
def rewards(
    tmp_path_factory: pytest.TempPathFactory, data: Path, judge: Judge
) -> dict[str, list[RewardConfig]]:
    """The scorers of each suite, as its file names them, with small models."""
    models = tmp_path_factory.mktemp("models")
    blip = str(rewrite_weights(save_blip(models / "blip")))
    dino = str(save_grounding_dino(models / "dino"))
    clip = str(save_openai_clip(models / "clip"))
    torch.save({"weight": torch.linspace(-1, 1, 32)[None], "bias": torch.ones(1)}, models / "head")
    pick = str(save_clip(models / "pick"))
    return {
        "compbench": [
            scorer("blip_vqa", "rewards.scorers.blip_vqa:BlipVqaReward", model=blip,
                   tokenizer=blip),
            scorer("clip_score", "rewards.scorers.compbench_clip:CompBenchClipReward", model=clip),
            scorer("spatial", "rewards.scorers.compbench_detection:CompBenchSpatialReward",
                   model=dino),
        ],
        "geneval": [
            scorer("geneval", "rewards.scorers.geneval:GenEvalReward", model=dino, clip=clip,
                   counting_threshold=0.3),
        ],
        "quality": [
            scorer("blip2_itm", "rewards.scorers.blip2:Blip2Reward",
                   model=str(save_blip2(models / "blip2"))),
            scorer("laion", "rewards.scorers.aesthetic:AestheticReward", model=clip,
                   head=str(models / "head")),
            scorer("pickscore", "rewards.models.clip_score:ClipScoreReward", model=pick,
                   processor=pick, logit_scale=True),
            scorer("features", "rewards.scorers.image_features:ImageFeaturesReward", model=clip),
        ],
        "wise": [
            scorer("judge", "rewards.judge:WiseJudge", model="stand-in",
                   url=f"http://127.0.0.1:{judge.server_port}/v1",
                   questions=str(data / "judge.py")),
        ],
    }  # fmt: skip


# Images of each prompt, and what else is set.
SUITES: dict[str, tuple[int, list[str]]] = {
    "compbench": (
        2,
        ["prompts=1", "strata=[color, color_2023, texture, non_spatial, spatial, complex]"],
    ),
    "geneval": (2, []),
    "quality": (3, []),
    "wise": (2, ["prompts=1"]),
}
GO_ON = "the same command goes on where this one ended"


def words(suite: str, folder: Path, *settings: str) -> list[str]:
    """The command that measures a suite."""
    return ["evaluate", suite, "--model", "shapes/checkpoint", "--out", str(folder),
            f"images_per_prompt={SUITES[suite][0]}", *SUITES[suite][1], "rollout.batch_size=4",
            "rollout.cpus_per_worker=0.1", *settings]  # fmt: skip


def stop_in_the_middle(command: list[str], folder: Path) -> None:
    """Send Ctrl-C to the command as soon as BLIP has scored its four prompts."""
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", *command],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env=os.environ | {"HF_HUB_OFFLINE": "1"},
    )  # fmt: skip
    deadline = time.monotonic() + 400
    blip = folder / "scores" / "blip_vqa.jsonl"
    try:
        while not (blip.exists() and blip.read_text().count("\n") == 4):
            assert process.poll() is None, process.communicate()[0]
            assert time.monotonic() < deadline, "compbench was not in its middle"
            time.sleep(0.01)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=120)
    finally:
        process.kill()  # does nothing if it has ended
    assert process.returncode == 130, said
    assert GO_ON in said


@pytest.fixture(scope="module")
def all_measured(
    tmp_path_factory: pytest.TempPathFactory,
    rewards: dict[str, list[RewardConfig]],
    data: Path,
    ray_cluster: None,
) -> dict[str, Measured]:
    address = ray.get_runtime_context().gcs_address
    root = tmp_path_factory.mktemp("measured")

    def measure(suite: str) -> Measured:
        folder = root / suite
        given = [reward.model_dump(mode="json", exclude_defaults=True) for reward in rewards[suite]]
        # A process of its own has to be told of the cluster. Then the hosts are checked as well,
        # which costs a process for each command.
        where = [f"cluster.address={address}"] if suite == "compbench" else []
        command = words(
            suite, folder, f"data={data}", "model.instruction=null",
            f"rewards={json.dumps(given)}", *where,
        )  # fmt: skip
        stopped: dict[str, str] = {}
        if suite == "compbench":
            stop_in_the_middle(command, folder)
        if suite == "wise":
            failed = on_test_cluster(*command)
            assert failed.returncode == 1, failed.stderr
            assert GO_ON in failed.stderr
        if suite in ("compbench", "wise"):
            files = [*folder.glob("*.jsonl"), *folder.glob("scores/*.jsonl")]
            stopped = {str(file.relative_to(folder)): file.read_text() for file in files}
        times = {file: file.stat().st_mtime_ns for file in folder.glob("images/*/*.png")}
        printed = command_on_test_cluster(*command)
        return Measured(suite, folder, rewards[suite], stopped, times, printed)

    return {suite: measure(suite) for suite in SUITES}


@pytest.fixture(params=tuple(SUITES))
def measured(request: pytest.FixtureRequest, all_measured: dict[str, Measured]) -> Measured:
    return all_measured[request.param]


def items(measured: Measured, data: Path) -> list[Prompt]:
    """The prompt of each place, with what its scorers read."""
    known = {item.prompt.id: item.prompt for item in suite_named(measured.suite).load(data)}
    return [known[row["prompt_id"]] for row in measured.rows("prompts.jsonl")]


@pytest.mark.parametrize("suite", ["compbench", "wise"])
def test_nothing_was_done_twice(suite: str, all_measured: dict[str, Measured]) -> None:
    """What was there in the middle stays, byte by byte. A second command scores what the first had
    not scored; only the five odd prompts, of which an image had no score, have a second row."""
    measured = all_measured[suite]
    assert len(measured.times) == measured.count * SUITES[suite][0]  # all were drawn by then
    assert all(file.stat().st_mtime_ns == then for file, then in measured.times.items())
    for name, text in measured.stopped.items():
        assert (measured.folder / name).read_text().startswith(text)
    scored_then = [name for name in measured.stopped if name.startswith("scores/")]
    assert scored_then == [f"scores/{measured.rewards[0].name}.jsonl"]
    for reward in measured.rewards:
        rows = measured.rows(f"scores/{reward.name}.jsonl")
        failed = sum(any("failure" in result for result in row["results"]) for row in rows)
        assert failed == (5 if suite == "wise" else 0)
        assert len(rows) - failed == len({row["place"] for row in rows})


def test_each_prompt_was_drawn_once(measured: Measured) -> None:
    """A row and its images for each place."""
    drawn = [row["place"] for row in measured.rows("drawn.jsonl")]
    assert sorted(drawn) == list(range(measured.count))
    assert measured.count == {"compbench": 6, "geneval": 6, "quality": 3, "wise": 6}[measured.suite]
    images = list(measured.folder.glob("images/*/*.png"))
    assert len(images) == measured.count * SUITES[measured.suite][0]


def test_every_score_is_that_of_the_class(measured: Measured, data: Path) -> None:
    """The class in this process, given the files of the images one prompt at a time, says the same:
    no image was given to the scorer with the prompt of another."""
    if measured.suite == "wise":
        pytest.skip("its judge is looked at below")
    prompts, suite = items(measured, data), suite_named(measured.suite)
    by_scorer = {item.prompt.id: item.scorers for item in suite.load(data)}
    for reward in measured.rewards:
        built = build_reward(reward)
        found = measured.results(reward.name)
        assert set(found) == {
            place for place, p in enumerate(prompts) if reward.name in by_scorer[p.id]
        }
        values = []
        for place, results in found.items():
            images = [measured.image(place, index) for index in range(SUITES[measured.suite][0])]
            expected = built.score(images, [prompts[place]] * len(images))
            for result, score in zip(results, expected, strict=True):
                assert isinstance(score, Score)
                assert result["value"] == pytest.approx(score.value, abs=2e-4)
                assert result.get("detail", {}) == pytest.approx(score.detail or {}, abs=2e-4)
                values.append(result["value"])
        assert measured.result["digests"][reward.name] == [built.digest]
        # This BLIP-2 of random weights tells prompts apart, and images hardly.
        if reward.name in ("blip_vqa", "clip_score", "laion", "pickscore"):
            assert len(set(values)) == len(values)  # else a confusion would not be seen


def test_the_result_has_the_means_and_says_how_they_came_about(
    measured: Measured, data: Path
) -> None:
    """Each prompt's value is the mean over images of the mean over its scorers."""
    result = measured.result
    assert (result["suite"], result["whole"], result["failures"]) == (measured.suite, False, {})
    assert (result["model"], result["cot"]) == ("shapes/checkpoint", True)
    assert {"torch", "transformers", "python", "ray"} <= result["versions"].keys()
    asked = json.loads((measured.folder / "evaluation.json").read_text())
    assert set(asked["versions"]) == {"torch", "transformers"}
    for scorer, places in zip(result["scorers"], asked["locations"].values(), strict=True):
        assert places  # a folder of a model, or the judge's address and questions
        assert not places.keys() & scorer["options"].keys()
    assert f"result: {measured.folder}/result.json" in measured.printed
    if measured.suite == "quality":
        return
    scorers = {item.prompt.id: item.scorers for item in suite_named(measured.suite).load(data)}
    for row in measured.rows("prompts.jsonl"):
        name = row["prompt_id"]
        of_scorers = [measured.results(one)[row["place"]] for one in scorers[name]]
        expected = np.mean([[one["value"] for one in results] for results in of_scorers])
        assert result["values"][row["stratum"]][name] == pytest.approx(expected)
    named = {column["name"]: column for column in result["columns"]}
    if measured.suite == "compbench":
        assert result["analysed_by"] == {"spacy": "3.8.0", "model": "en_core_web_sm 3.8.0"}
        assert set(result["values"]["color_2023"]) == {"color_val:1", "color_2023:2"}
        assert named["spatial"]["not_comparable"]
        assert named["shape"]["value"] is None  # not asked for
    if measured.suite == "geneval":
        tasks = [column["value"] for name, column in named.items() if name != "overall"]
        assert named["overall"]["value"] == pytest.approx(np.mean(tasks))


def test_quality_has_the_diversity_of_the_same_images(all_measured: dict[str, Measured]) -> None:
    """Vendi of the features, three measures of each image, and all of it in a table."""
    measured = all_measured["quality"]
    result = measured.result
    for place, row in enumerate(measured.rows("prompts.jsonl")):
        details = [one["detail"] for one in measured.results("features")[place]]
        features = [[detail[f"f{number}"] for number in range(32)] for detail in details]
        name = row["prompt_id"]
        assert result["values"]["vendi"][name] == pytest.approx(vendi(np.array(features)))
        for number, measure in enumerate(("blip2_itm", "laion", "pickscore")):
            scored = [one["value"] for one in measured.results(measure)[place]]
            assert [row[number] for row in result["per_image"][name]["quality"]] == scored
            assert result["values"][measure][name] == pytest.approx(np.mean(scored))


def test_the_judge_saw_each_image_with_its_prompt(
    all_measured: dict[str, Measured], judge: Judge
) -> None:
    """Twelve requests. One of each of the five odd prompts fails, and its image alone is sent once
    more. WiScore of consistency c, realism 1 and aesthetic quality 2 is 0.35 c + 0.2."""
    measured = all_measured["wise"]
    numbers = [int(row["prompt"].split()[1]) for row in measured.rows("prompts.jsonl")]
    assert numbers == [1, 401, 568, 701, 801, 901]
    odd = [number for number in numbers if number % 2]
    for place, number in enumerate(numbers):
        seen = [image for one, image in judge.seen if one == number]
        images = [measured.image(place, index) for index in range(2)]
        times = [sum(np.array_equal(image, one) for one in seen) for image in images]
        assert sorted(times) == ([1, 2] if number in odd else [1, 1])
        assert times[0] + times[1] == len(seen)
        # The image that was refused is the one that was sent again.
        assert np.array_equal(seen[0], images[times.index(max(times))]) or number not in odd
        values = [result["value"] for result in measured.results("judge")[place]]
        assert values == pytest.approx([0.35 * (number % 3) + 0.2] * 2)


def test_a_table_of_each_result(measured: Measured, capsys: pytest.CaptureFixture[str]) -> None:
    """The result beside itself: no difference, and what its readers must know below."""
    assert main(["evaluate", "table", str(measured.folder), str(measured.folder)]) == 0
    text = capsys.readouterr().out
    assert f"# {measured.suite}: {measured.count} prompts" in text
    noted = {
        "compbench": "- Noun chunks: spaCy 3.8.0 with en_core_web_sm 3.8.0;",
        "geneval": "- Scorer geneval is not that of the suite's authors: objects are found by",
        "quality": "Diversity of quality and quality at equal quality",
        "wise": "- Culture, Spatio-temporal, Science: of means that were rounded to two decimals",
    }[measured.suite]
    assert noted in text
