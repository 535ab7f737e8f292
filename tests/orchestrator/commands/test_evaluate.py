"""`eg-grpo evaluate`: a checkpoint measured on real workers, killed, gone on with, compared."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from orchestrator.cli import main
from tests.command_line import ROOT, command_on_test_cluster

MODEL = ROOT / "shapes" / "checkpoint"
# 8 prompts of each of the two files, and two images of each prompt.
SMALL = ("prompts=8", "images_per_prompt=2", "rollout.batch_size=4", "rollout.workers=1")


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


@pytest.fixture(scope="module")
def measured(ray_cluster: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An evaluation that was killed after it had drawn some images, and gone on with."""
    out = tmp_path_factory.mktemp("evaluate") / "base"
    arguments = ["evaluate", "shapes", "--model", str(MODEL), "--out", str(out), *SMALL]
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrator", *arguments],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
    )  # fmt: skip
    deadline = time.monotonic() + 300
    while len(rows(out / "drawn.jsonl")) < 4:
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)  # its Ray cluster with it
    process.communicate()
    drawn = len(rows(out / "drawn.jsonl"))
    assert 4 <= drawn < 16
    with (out / "drawn.jsonl").open("a") as file:
        file.write('{"place": 15, "prom')  # what a crash of the machine may leave
    times = {file: file.stat().st_mtime_ns for file in out.rglob("images/*/*.png")}
    printed = command_on_test_cluster(*arguments)
    assert "held_out total" in printed
    assert f"result: {out}/result.json\n" in printed
    unchanged = [row["place"] for row in rows(out / "drawn.jsonl")[:drawn]]
    for place in unchanged:
        for index in range(2):
            image = out / "images" / f"{place:05d}" / f"{index:02d}.png"
            assert image.stat().st_mtime_ns == times[image]
    return out


@pytest.mark.slow
@pytest.mark.cluster
def test_nothing_is_drawn_or_scored_twice(measured: Path) -> None:
    """After a kill -9 the same command draws the rest: one row for each prompt, and its images.

    When all is done, this machine need not have the GPUs that a scorer asks for."""
    places = [row["place"] for row in rows(measured / "drawn.jsonl")]
    assert sorted(places) == list(range(16))
    for scorer in ("attributes", "structure", "cleanliness"):
        scored = [row["place"] for row in rows(measured / "scores" / f"{scorer}.jsonl")]
        assert sorted(scored) == list(range(16))
    assert len(list(measured.glob("images/*/*.png"))) == 32
    before = (measured / "result.json").read_text()
    gpus = ["rewards.0.workers=99", "rewards.0.gpus_per_worker=1"]
    command_on_test_cluster(
        "evaluate", "shapes", "--model", MODEL, "--out", measured, *SMALL, *gpus
    )
    assert (measured / "result.json").read_text() == before


@pytest.mark.slow
@pytest.mark.cluster
def test_the_result_says_how_it_was_measured(measured: Path) -> None:
    """Everything that a dispute about a figure is about."""
    result = json.loads((measured / "result.json").read_text())
    known = {
        "suite": "shapes", "prompts": 16, "whole": False, "images_per_prompt": 2, "cot": True,
        "template": "shapes", "guidance_scale": 1.0, "temperature": 1.0, "max_cot_tokens": 24,
        "seed": 0, "model": str(MODEL), "failures": {}, "engine": "transformers",
    }  # fmt: skip
    assert {key: result[key] for key in known} == known
    assert len(result["weights"]) == len(result["prompts_sha256"]) == 64
    assert result["scorers"][0]["factory"] == "shapes.rewards:Attributes"
    assert result["versions"]["torch"]
    values = result["values"]
    assert len(values["seen/total"]) == len(values["held_out/total"]) == 8
    columns = {column["name"]: column["value"] for column in result["columns"]}
    total = sum(values["seen/total"].values()) / 8
    assert columns["seen total"] == pytest.approx(100 * total)
    assert 40 < columns["seen total"] < 95


@pytest.mark.slow
@pytest.mark.cluster
def test_images_of_another_model_get_the_same_scores(measured: Path, tmp_path: Path) -> None:
    """The images of the folder, as if another program had drawn them: equal values."""
    out = tmp_path / "others"
    command_on_test_cluster(
        "evaluate", "shapes", "--images", measured / "images", "--out", out, *SMALL
    )
    first, second = (json.loads((f / "result.json").read_text()) for f in (measured, out))
    assert second["values"] == first["values"]
    assert not (out / "images").exists()
    assert len(second["images_sha256"]) == 64
    table = command_on_test_cluster("evaluate", "table", measured, out)
    assert "| others | +0.00 [+0.00, +0.00] |" in table
    image = measured / "images" / "00003" / "01.png"
    shutil.copytree(measured / "images", tmp_path / "some")
    (tmp_path / "some" / "00003" / "01.png").unlink()
    arguments = ["evaluate", "shapes", "--images", str(tmp_path / "some"), "--out", str(out)]
    assert main([*arguments, *SMALL]) == 2
    assert image.is_file()


@pytest.mark.slow
@pytest.mark.cluster
def test_another_protocol_needs_another_folder(
    measured: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Rows of two protocols in one folder would be a mean of nothing."""
    arguments = ["evaluate", "shapes", "--model", str(MODEL), "--out", str(measured), *SMALL]
    assert main([*arguments, "rollout.guidance_scale=2"]) == 2
    expected = f"--out: {measured} holds an evaluation with another guidance_scale"
    assert expected in capsys.readouterr().err


def test_mistakes_are_named_before_anything_is_drawn(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No model, an unknown stratum, missing images, a folder with other files."""
    out = str(tmp_path / "out")
    shapes = ["evaluate", "shapes", "--out", out]
    assert main(shapes) == 2
    assert "give either --model or --images" in capsys.readouterr().err
    model = [*shapes, "--model", str(MODEL)]
    assert main([*model, "strata=[sen]"]) == 2
    assert "strata: shapes has no 'sen', only seen, held_out" in capsys.readouterr().err
    assert main([*model, "rolout.workers=2"]) == 2
    assert "unknown key rolout; did you mean rollout?" in capsys.readouterr().err
    assert main([*shapes, "--images", str(tmp_path), *SMALL]) == 2
    missing = f"--images: {tmp_path} lacks 32 of 32 images: 00000/00.png, 00000/01.png"
    assert missing in capsys.readouterr().err
    assert main([*model, "rewards.0.workers=99", "rewards.0.gpus_per_worker=1"]) == 2
    assert "rewards.attributes: its workers ask for 99 GPUs" in capsys.readouterr().err
    assert main([*model, "rollout.resources={rollout_host: 0.001}"]) == 2
    refused = "rollout.resources: a private cluster has no rollout_host; give the cluster.address"
    assert refused in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main(["evaluate", "shapes", "--model", str(MODEL), "--out", str(tmp_path)]) == 2
    assert f"--out: {tmp_path} is not an empty folder" in capsys.readouterr().err


def test_a_table_of_a_folder_without_a_result(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The evaluation was not run to its end."""
    assert main(["evaluate", "table", str(tmp_path)]) == 2
    expected = f"eg-grpo: {tmp_path} holds no result.json: run its evaluation to the end\n"
    assert capsys.readouterr().err == expected


def test_images_are_exported_under_the_authors_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The programs of T2I-CompBench look for <prompt>_<number>.png; a name may not leave the
    folder."""
    folder = tmp_path / "done"
    (folder / "images" / "00000").mkdir(parents=True)
    (folder / "images" / "00000" / "00.png").write_bytes(b"an image")
    name = "color/a red book_000000.png"
    row = {"place": 0, "official_names": [name]}
    (folder / "prompts.jsonl").write_text(json.dumps(row) + "\n")
    out = tmp_path / "out"
    assert main(["evaluate", "export", str(folder), str(out)]) == 0
    assert (out / name).read_bytes() == b"an image"
    (folder / "prompts.jsonl").write_text(json.dumps({**row, "official_names": ["../x"]}) + "\n")
    assert main(["evaluate", "export", str(folder), str(tmp_path / "other")]) == 2
    assert "'../x' is no safe name of a file" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()
