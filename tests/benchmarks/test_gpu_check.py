"""The check for a GPU, dry-run: every part measures, so that no typing error costs GPU minutes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu_check import cpu_tests
from benchmarks.gpu_check.parts import PARTS
from benchmarks.gpu_check.results import DONE, read

ROOT = Path(__file__).parents[2]
# What the machine with the GPU has not.
ABSENT = ("ray", "deepspeed", "vllm", "redis", "aiohttp", "matplotlib", "jinja2", "open_clip")
FIGURES = {
    "card": {"copy within its memory", "bfloat16 matrix product"},
    "head_kernel": {f"{head} head, our kernel: {what}" for head in ("text", "image")
                    for what in ("time", "memory")},
    "learner_1b": {"peak memory", "planned memory", "update", "trained tokens"},
    "learner_7b": {"peak memory", "planned memory", "update", "trained tokens"},
    "graphed_steps": {f"{dtype}: a step, {how}" for dtype in ("bfloat16", "float32")
                      for how in ("one by one", "graph, recording included")},
    "generation": {"64 rows, our engine", "64 rows, plain loop: share of the bandwidth limit"},
    "rollout_gap": {"CoT log-prob: largest difference", "image log-prob, guided: mean difference"},
    "cpu_tests": {"passed", "failures"},
    "not_finite": {f"{case}, {dtype}" for dtype in ("float32", "bfloat16")
                   for case in ("nothing wrong", "a gradient is NaN", "far from the reference",
                                "stale and far from the rollout")},
    "same_seed": {"update", "rollout"},
    "deterministic": {"update", "rollout"},
    "deepspeed_rank": {"deepspeed"},
    "weight_push": {"to the host, with digests", "load, with digests", "arrived bit for bit"},
    "sleep_wake": {"reserved asleep", "the same tokens after waking"},
    "reward_models": {"hps", "git", "grounding_dino", "orm", "clip_score"},
    "image_decoder": {"few at once", "many at once"},
}  # fmt: skip


def without_absent(folder: Path) -> dict[str, str]:
    """The environment of a process, and of all that it starts, that cannot import ``ABSENT``."""
    blocked = f"import sys\nsys.modules.update(dict.fromkeys({ABSENT}))\n"
    (folder / "sitecustomize.py").write_text(blocked)
    return os.environ | {"PYTHONPATH": f"{folder}:{ROOT}"}


@pytest.fixture(scope="module")
def dry_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run, in which what the GPU's machine lacks cannot be imported."""
    folder = tmp_path_factory.mktemp("gpu_check")
    (folder / "home").mkdir()
    home = str(folder / "home")
    environment = without_absent(folder) | {"HOME": home, "TMPDIR": home}
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu_check", "--device", "cpu", "--tiny",
         "--minutes", "9", "--out", str(folder / "out")],
        cwd=ROOT, env=environment, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


@pytest.mark.slow
def test_every_part_goes_to_its_end(dry_run: Path) -> None:
    """With the figures that it is there for, none of them 0, and no part without this list."""
    assert FIGURES.keys() == {part.name for part in PARTS}
    parts = read(dry_run / "out" / "results.json")
    for name, figures in FIGURES.items():
        assert parts[name].status == DONE
        values = {measure.what: measure.value for measure in parts[name].measures}
        assert figures <= values.keys(), name
        timed = [values[figure] for figure in figures if figure != "failures"]
        assert all(value if isinstance(value, str) else value > 0 for value in timed), name


@pytest.mark.slow
def test_the_numbers_agree_with_what_is_known_on_a_cpu(dry_run: Path) -> None:
    """What a dry run can tell right from wrong: equal bits, arrived weights, gaps of rounding."""
    parts = read(dry_run / "out" / "results.json")
    values = {(name, m.what): m.value for name, part in parts.items() for m in part.measures}
    assert values["weight_push", "arrived bit for bit"] == "yes"
    assert values["sleep_wake", "the same tokens after waking"] == "yes"
    for part in ("same_seed", "deterministic"):
        assert values[part, "update"] == values[part, "rollout"] == "equal bits"
    assert values["cpu_tests", "failures"] == 0
    assert values["rollout_gap", "CoT log-prob: largest difference"] < 0.1
    assert str(values["not_finite", "nothing wrong, float32"]).endswith("weights moved")
    nan = str(values["not_finite", "a gradient is NaN, float32"])
    assert nan.endswith("skipped; weights as before")


@pytest.mark.slow
def test_nothing_is_written_elsewhere(dry_run: Path) -> None:
    """A folder of two files is left, and neither home nor temporary folder was touched."""
    assert {file.name for file in (dry_run / "out").iterdir()} == {"results.json", "table.md"}
    assert not list((dry_run / "home").rglob("*"))


@pytest.mark.slow
def test_tests_marked_gpu_need_no_cluster(tmp_path: Path) -> None:
    """All are found by pytest where neither Ray, DeepSpeed, vLLM nor Redis can be imported."""
    files = cpu_tests.marked_files()
    assert len(files) >= 6
    found = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "gpu", "--collect-only", "-q",
         "-p", "no:cacheprovider", *files],
        cwd=ROOT, env=without_absent(tmp_path), capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert found.returncode == 0, found.stdout
    assert {line.split("::")[0] for line in found.stdout.splitlines() if "::" in line} == set(files)


def test_what_it_needs_fits_into_60_mb() -> None:
    """All tracked files together: more does not travel to a machine that is lent for minutes."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = [ROOT / name for name in listed.stdout.split("\0") if name]
    assert len(files) > 100
    assert sum(file.stat().st_size for file in files if file.is_file()) < 60e6
