"""The report of a run says what the files of its folder say, whatever stage the run reached."""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from orchestrator.record.metrics import STEP_METRICS
from orchestrator.record.run_folder import RunFolder, read_rows
from orchestrator.record.sheets import save_png
from orchestrator.report.comparison import compare
from orchestrator.report.curves import MAX_POINTS, Series, drawn, over_seeds, thin
from orchestrator.report.embedding import embedded
from orchestrator.report.gallery import LIMITS, MAX_BYTES, gallery, spaced
from orchestrator.report.page import MAX_PAGE_BYTES, write_page, write_report
from orchestrator.report.run_comparison import run_table
from orchestrator.report.run_files import RunFiles
from policy.errors import UserError
from policy.types import JsonDict
from tests.written_runs import COT, evaluation_row, keep_samples, row_of, write_run

ROOT = Path(__file__).parents[3]
EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)> & \"quoted\" 'too' [[DATA]]"


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 80 steps: seen at both ends, held_out every 20 steps."""
    folder = tmp_path_factory.mktemp("runs") / "shapes"
    at = {"seen": (0, 80), "held_out": (0, 20, 40, 60, 80)}
    return write_run(folder, 80, at, groups=(1, 2, 41))


@pytest.fixture(scope="module")
def page(finished: Path) -> str:
    """The finished run's report."""
    return write_report(finished).read_text()


def data_of(page: str) -> JsonDict:
    """The numbers in a page, as its script reads them."""
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    assert found is not None
    data: JsonDict = json.loads(found[1])
    return data


def test_a_finished_run_is_told_in_numbers(page: str) -> None:
    """Headline, alarms, charts, table, what was dropped and the settings are on the page."""
    data = data_of(page)
    (run,) = data["runs"]
    found = compare("seen", [evaluation_row(0, "seen"), evaluation_row(80, "seen")])
    assert found.difference is not None
    seen, held_out = run["cards"]
    assert (run["step"], run["planned"]) == (80, 80)
    assert (seen["before"], seen["after"], seen["difference"]) == (
        found.before, found.after, found.difference.mean,
    )  # fmt: skip
    assert (seen["prompts"], seen["samples"], held_out["failed"]) == (96, 384, 1)
    assert run["alarms"] == [
        {"text": "the gradient is exactly zero", "count": 2, "first": 4, "last": 9}
    ]
    titles = [chart["title"] for chart in data["charts"]]
    assert titles[:2] == ["Reward on fixed prompts", "Reward in training"]
    assert {"Entropy spread", "KL to the reference", "Time of a step"} <= set(titles)
    assert [row["name"] for row in run["table"]][:2] == ["reward", "attributes"]
    (dropped,) = run["dropped"]
    assert dropped["reason"] == "6 × structure: no reply within 30 s"
    assert run["settings"].startswith("name: shapes\n")


def test_a_chart_has_the_values_of_the_rows(finished: Path, page: str) -> None:
    """Up to five digits; a missing value is a gap, and a chart without a value is left out."""
    charts = {chart["title"]: chart for chart in data_of(page)["charts"]}
    rows = read_rows(finished / "metrics.jsonl")
    (line,) = charts["KL to the reference"]["lines"]
    assert line["steps"] == list(range(1, 81))
    assert line["values"][6] is None
    assert line["values"][79] == pytest.approx(rows[79]["kl/mean"], rel=1e-4)
    seen, held_out = charts["Reward on fixed prompts"]["lines"]
    assert (seen["label"], seen["steps"], held_out["steps"]) == (
        "seen",
        [0, 80],
        [0, 20, 40, 60, 80],
    )
    error = evaluation_row(80, "seen")["reward/standard_error"]
    assert seen["errors"][1] == pytest.approx(error, rel=1e-4)
    assert "Guided minus conditional" not in charts


def test_a_sample_is_shown_with_all_that_was_recorded(page: str) -> None:
    """Fixed prompts of each step, and whole groups of training with their advantages; the failed
    trajectory has none, and its reason instead."""
    (run,) = data_of(page)["runs"]
    fixed = [sample for sample in run["samples"] if sample["fixed"]]
    assert len(fixed) == 3 * 2 * (2 + 5)
    group = [s for s in run["samples"] if (s["step"], s.get("group")) == (1, 0)]
    assert len(group) == 8
    advantages = [sample["advantage"] for sample in group]
    assert sum(advantages[:7]) == pytest.approx(0)
    assert (advantages[7], group[7]["total"]) == (None, None)
    assert group[7]["failures"] == {"structure": "no reply within 30 s"}
    assert group[0]["seed"] == str(2**62)  # as text: a script would round the number
    assert "".join(group[0]["tokens"]["cot"]["pieces"]) == group[0]["cot"] == COT
    assert group[0]["source"].startswith("data:image/png;base64,")


def test_model_words_cannot_become_markup(tmp_path: Path) -> None:
    """A prompt, CoT, failure, set name or setting full of HTML ends no element of the page."""
    folder = write_run(tmp_path / "run", 1, {"seen": (0,)}, prompts=1)
    record = read_rows(folder / "samples" / "records.jsonl")[0]
    record |= {"prompt": EVIL, "cot": EVIL * 3, "failures": {"hps": EVIL}, "set": EVIL}
    (folder / "samples" / "records.jsonl").write_text(json.dumps(record) + "\n")
    rows = [evaluation_row(step, "seen") | {"set": EVIL} for step in (0, 1)]
    (folder / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text(json.dumps({"name": EVIL}))
    page = write_report(folder).read_text()
    assert page.count("<script") == page.count("</script>") == 2
    assert "<img src=x" not in page
    data = data_of(page)
    assert data["runs"][0]["samples"][0]["prompt"] == EVIL
    assert (data["title"], data["runs"][0]["sets"]) == (EVIL, [EVIL])


def test_embedded_json_is_the_same_json() -> None:
    """No "<", ">", "&" or line separator is left, and what is read is what was written."""
    text = embedded({"a": "<!-- <script> & \u2028 \u2029 é"})
    assert not set(text) & set("<>&\u2028\u2029")
    assert json.loads(text) == {"a": "<!-- <script> & \u2028 \u2029 é"}


def test_the_page_asks_nothing_of_the_network(page: str) -> None:
    """No address but data: URIs and places in the page itself; a policy forbids the rest."""
    without_data = re.sub(r'data:image/[^"]*', "", page)
    assert re.findall(r"https?:[^\"']*", without_data) == ["http://www.w3.org/2000/svg"]  # a name
    assert not re.search(r"@import|<link (?!rel=\"icon\" href=\"data:,\")|<iframe|<object", page)
    assert "Content-Security-Policy\" content=\"default-src 'none'" in page
    assert "connect-src 'none'" in page


def test_the_same_folder_gives_the_same_bytes(finished: Path, page: str) -> None:
    """A second process, which orders its sets otherwise, writes the same report."""
    code = (
        "import sys; from pathlib import Path; from orchestrator.report.page import write_report\n"
        "write_report(Path(sys.argv[1]))"
    )
    command, environment = [sys.executable, "-c", code, str(finished)], {"PYTHONHASHSEED": "7"}
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | environment)
    assert (finished / "report.html").read_text() == page
    assert not list(finished.glob(".report*"))


def test_a_run_stopped_early_still_has_a_report(tmp_path: Path) -> None:
    """Three steps and the evaluation of step 0: there is nothing to compare yet."""
    (run,) = data_of(write_report(write_run(tmp_path / "run", 3, {"seen": (0,)})).read_text())[
        "runs"
    ]
    (card,) = run["cards"]
    assert (run["step"], run["planned"]) == (3, 80)
    assert (card["once"], card["difference"], card["after_step"]) == (True, None, 0)


def test_a_folder_with_little_in_it(tmp_path: Path) -> None:
    """One step without settings, evaluations or samples; a picture that is gone; nothing at all."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "reward/mean": 0.5}\n{"step": 2, "rew')
    data = data_of(write_report(tmp_path).read_text())
    (run,) = data["runs"]
    assert (data["title"], run["step"], run["cards"], run["table"]) == (tmp_path.name, 1, [], [])
    assert [chart["title"] for chart in data["charts"]] == ["Reward in training"]

    folder = write_run(tmp_path / "run", 1, {"seen": (0,)})
    (folder / "samples" / "step-000000" / "seen-0-0.png").unlink()
    (run,) = data_of(write_report(folder).read_text())["runs"]
    assert [sample["source"] is None for sample in run["samples"]] == [True] + [False] * 5

    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no run"):
        write_report(tmp_path / "empty")


def test_rows_of_older_versions_are_shown(tmp_path: Path) -> None:
    """They have no tokens, task or seed."""
    folder = write_run(tmp_path / "run", 1, {"seen": (0,)}, prompts=1)
    file = folder / "samples" / "records.jsonl"
    rows = [
        {key: value for key, value in row.items() if key not in ("tokens", "task", "seed")}
        for row in read_rows(file)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (run,) = data_of(write_report(folder).read_text())["runs"]
    assert [sample["cot"] for sample in run["samples"]] == [COT, COT]


def test_a_long_run_stays_within_the_bound(tmp_path: Path) -> None:
    """2,000 steps with 51 evaluations of large noisy pictures and long CoTs: fewer steps are shown,
    the first and the last among them, and the page says how many."""
    folder = write_run(tmp_path / "run", 2000, {}, planned=2000)
    opened = RunFolder(folder, resume=True)
    at = range(0, 2001, 40)
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    save_png(noise, folder / "samples" / "noise.png")
    keep_samples(opened, 0, "seen", 1, 32)
    opened.close()
    row = read_rows(folder / "samples" / "records.jsonl")[0] | {"image": "noise.png"}
    rows = [
        row | {"step": step, "prompt_id": f"{place}", "cot": "word " * 1000}
        for step in at
        for place in range(8)
    ]
    text = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "samples" / "records.jsonl").write_text(text)
    page = write_report(folder).read_text()
    assert len(page.encode()) <= MAX_PAGE_BYTES
    data = data_of(page)
    shown = sorted({sample["step"] for sample in data["runs"][0]["samples"]})
    assert shown == [0, 280, 560, 840, 1160, 1440, 1720, 2000]
    assert data["thinned"].startswith("64 of the 408 recorded samples are shown: at most 8 evenly")
    assert max(len(line["steps"]) for chart in data["charts"] for line in chart["lines"]) <= 240


def test_what_fits_is_shown_whole(tmp_path: Path) -> None:
    """21 recorded steps, as a run of 80 steps has them, are all on the page."""
    at = range(0, 81, 4)
    folder = write_run(tmp_path / "run", 1, {"seen": at}, prompts=1)
    data = data_of(write_report(folder).read_text())
    assert sorted({sample["step"] for sample in data["runs"][0]["samples"]}) == list(at)
    assert data["thinned"] == ""


def test_a_page_of_several_runs_stays_within_the_bound(tmp_path: Path) -> None:
    """Four runs of 240 steps with 200 metrics, 300 dropped groups, long settings and 8 MB of
    samples each: the charts have fewer points, the lists are shared, and the samples get the bytes
    that are left."""
    first = write_run(tmp_path / "run-0", 1, {"seen": (0,)}, prompts=1)
    noise = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    save_png(noise, first / "samples" / "noise.png")
    sample = read_rows(first / "samples" / "records.jsonl")[0] | {"image": "noise.png"}
    values = {f"detail/hps/{part}": 1 / (part + 3) for part in range(200)}
    lost = {"step": 1, "prompt_id": "1", "prompt": "<é>" * 200, "reasons": {"<é>" * 200: 1}}
    files: dict[str, list[JsonDict]] = {
        "metrics.jsonl": [{"step": step} | values for step in range(1, 241)],
        "dropped.jsonl": [lost] * 300,
        "samples/records.jsonl": [sample | {"step": n, "cot": "<é>" * 3000} for n in range(40)],
    }
    for name, rows in files.items():
        (first / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    runs = [first, *(shutil.copytree(first, tmp_path / f"run-{place}") for place in (1, 2, 3))]
    for place, run in enumerate(runs):
        (run / "config.yaml").write_text(f"name: a\nsteps: {place}\nlong: {'x' * 60_000}\n")
    page = write_page(runs, tmp_path / "out.html").read_text()
    assert 5_000_000 < len(page.encode()) <= MAX_PAGE_BYTES
    data = data_of(page)
    assert max(len(line["steps"]) for chart in data["charts"] for line in chart["lines"]) == 120
    for run_data in data["runs"]:
        assert (len(run_data["dropped"]), run_data["more_dropped"]) == (50, 250)
        assert len(run_data["settings"]) == 50_000
        assert len(run_data["samples"]) == 16


def test_what_fits_no_limit_is_left_out(tmp_path: Path) -> None:
    """The last limit is no sample at all, so the bound holds for any number of sets and runs."""
    folder = write_run(tmp_path / "run", 1, {"seen": (0,)})
    assert (LIMITS[-1], MAX_BYTES < MAX_PAGE_BYTES) == ((0, 0), True)
    samples, thinned = gallery([folder], max_bytes=10)
    assert samples == [[]]
    assert thinned.startswith("0 of the 6 recorded samples")


def test_evenly_spaced_steps() -> None:
    """First and last are always there; of one step the last."""
    assert spaced([0, 20, 80], 6) == [0, 20, 80]
    assert spaced(range(0, 101, 10), 6) == [0, 20, 40, 60, 80, 100]
    assert spaced(range(100), 2) == [0, 99]
    assert (spaced(range(100), 1), spaced(range(100), 0)) == ([99], [])


def test_thinning_leaves_gaps_alone() -> None:
    """A missing value counts in no mean and stays missing; thinned lines keep their mean."""
    nan = math.nan
    steps, values = thin(np.arange(1.0, 8.0), np.array([1, 3, nan, 5, nan, nan, 9]), 4)
    np.testing.assert_array_equal(steps, [1.5, 3.5, 5.5, 7])
    np.testing.assert_array_equal(values, [2, 5, nan, 9])
    assert not Series("none", [1], [None]).present
    assert MAX_POINTS == 240


def test_the_mean_over_seeds_has_the_error_over_seeds() -> None:
    """0.2 and 0.4 have mean 0.3 and standard error 0.1; a step that one run lacks is left out."""
    runs = [Series("a", [1, 2, 3], [0.2, None, 5.0]), Series("b", [1, 2], [0.4, 0.6])]
    line = over_seeds("both", runs)
    assert line.steps == [1, 2]
    assert line.values == [pytest.approx(0.3), None]
    assert line.errors == [pytest.approx(0.1), None]
    alone = Series("a", [1], [0.2], [0.05])
    assert over_seeds("a", [alone]) == alone


def test_runs_that_differ_by_their_seed_share_a_line(tmp_path: Path) -> None:
    """Three runs: two of one configuration make one line with an error, the third has its own.

    The table sets each run against the first, paired by prompt: 0.1 more for every prompt.
    """
    at = {"seen": (0, 20)}
    first = write_run(tmp_path / "a", 20, at, seed=0)
    second = write_run(tmp_path / "b", 20, at, seed=1, shift=0.1)
    third = write_run(tmp_path / "c", 20, at, planned=60, shift=0.1)
    (third / "inputs.json").write_text('{"data.evaluation.seen": "other"}')
    data = data_of(write_page([first, second, third], tmp_path / "out.html").read_text())
    fixed = data["charts"][0]
    assert [line["label"] for line in fixed["lines"]] == ["a (2 runs)", "c"]
    assert fixed["lines"][0]["errors"] == [pytest.approx(0.05, rel=1e-3)] * 2
    (table,) = data["comparison"]
    assert (table["set"], table["step"]) == ("seen", 20)
    assert [row["run"] for row in table["rows"]] == ["a", "b", "c"]
    assert [row["difference"] for row in table["rows"]] == [None, pytest.approx(0.1), None]
    assert [row["unlike"] for row in table["rows"]] == ["", "", "other prompts"]
    titles = [chart["title"] for chart in data["charts"]]
    assert titles[-3:] == [f"Time of a step: {name}" for name in "abc"]


def run_files(label: str, **of_row: Any) -> RunFiles:
    """A run that evaluated the set "seen" at step 5 with two samples of each of two prompts."""
    row = row_of(5, [0.2, 0.4], set="seen", num_samples=4, guidance_scale=1.0) | of_row
    row |= {"reward/mean": 0.3, "reward/standard_error": 0.1}
    sets = {row["set"]: [row]}
    return RunFiles(Path(label), label, [], sets, [], [], {}, {"data.evaluation.seen": "1"})


def test_only_what_was_evaluated_alike_is_paired() -> None:
    """Another guidance scale or number of samples has no difference, and the row says which."""
    runs = [
        run_files("a"),
        run_files("same"),
        run_files("guided", guidance_scale=5.0),
        run_files("more", num_samples=8),
    ]
    (table,) = run_table(runs)
    assert [(row["run"], row["difference"], row["unlike"]) for row in table["rows"]] == [
        ("a", None, ""),
        ("same", 0, ""),
        ("guided", None, "guidance 5, not 1"),
        ("more", None, "4 samples of a prompt, not 2"),
    ]


def test_a_set_that_the_first_run_lacks_is_compared() -> None:
    """The first run that has the set is then the one that the others are set against."""
    runs = [run_files("a", set="other"), run_files("b"), run_files("c")]
    (table,) = run_table(runs)
    assert (table["set"], [row["run"] for row in table["rows"]]) == ("seen", ["b", "c"])


def test_every_number_of_the_metrics_is_drawn(tmp_path: Path) -> None:
    """A row with all keys of the table, each of another value: a line has each value.

    ``step`` and ``time`` say when, and the evaluations have a chart of their own. Of the stages
    the chart shows the seconds too.
    """
    names = {"modality": "cot", "part": "a", "reward": "r", "role": "w", "stage": "learn"}
    keys = [
        re.sub(r"\{(\w+)\}", lambda match: names[match[1]], metric.key)
        for metric in STEP_METRICS
        if metric.kind != "other" and metric.key not in ("step", "time", "evaluation/{set}")
    ]
    row = {"step": 1} | {key: place + 1.0 for place, key in enumerate(keys)}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row | {"seconds/step": 1e3}) + "\n")
    data = data_of(write_report(tmp_path).read_text())
    shown = {line["values"][0] for chart in data["charts"] for line in chart["lines"]}
    assert {key for key in keys if row[key] not in shown} == {"seconds/step"}  # their sum


def test_the_legend_names_what_differs_in_a_family(tmp_path: Path) -> None:
    """The reward, its part, or the role, with what is measured of it."""
    row = {"step": 1, "detail/hps/a/b": 1, "reward/hps": 2, "seconds/scoring/hps/max": 3}
    (tmp_path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    charts = data_of(write_report(tmp_path).read_text())["charts"]
    assert {chart["title"]: [line["label"] for line in chart["lines"]] for chart in charts} == {
        "Each reward in training": ["hps", "hps/a/b"],
        "Time of scoring": ["hps longest"],
    }


def test_a_point_reaches_half_way_to_its_neighbours() -> None:
    """480 steps become 240 points that are 2 steps apart; 240 steps keep theirs.

    A point that is no mean of several steps stands for its own step alone, however far the next."""
    long, short = (Series("a", range(1, n + 1), [1.0] * n) for n in (480, 240))
    assert (drawn(long)["steps"][0], drawn(long)["reach"]) == (1.5, 1)
    assert (drawn(short)["steps"][0], drawn(short)["reach"]) == (1, 0.5)
    assert drawn(Series("evaluated", [0, 80], [0.1, 0.2]))["reach"] == 0.5


def test_runs_of_one_name_are_told_apart(tmp_path: Path) -> None:
    """By as much of their path as differs; a folder that is given twice is an error."""
    for seed in (0, 1):
        write_run(tmp_path / f"seed-{seed}" / "shapes", 1, {}, seed=seed)
    folders = [tmp_path / f"seed-{seed}" / "shapes" for seed in (0, 1)]
    data = data_of(write_page(folders, tmp_path / "out.html").read_text())
    assert data["title"] == "seed-0/shapes, seed-1/shapes"
    with pytest.raises(UserError, match="given twice"):
        write_page([folders[0]] * 2, tmp_path / "out.html")


def test_rows_cut_off_by_a_crash_are_left_out(tmp_path: Path) -> None:
    """Only lines with their newline are rows; a missing file has none."""
    (tmp_path / "rows.jsonl").write_text('{"step": 1}\n\n{"step": 2}\n{"st')
    assert read_rows(tmp_path / "rows.jsonl") == [{"step": 1}, {"step": 2}]
    assert read_rows(tmp_path / "none.jsonl") == []
