"""Runs the tests that are marked ``gpu`` on the GPU. They need no cluster and also run on a CPU."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from xml.etree import ElementTree

from benchmarks.gpu_check.task import Measure, Task

ROOT = Path(__file__).parents[2]
MARK = "pytest.mark." + "gpu"
FEW = (
    "tests/rollout/test_rollout_drawing.py",
    "tests/learner/test_learner_objective.py",
)  # a dry run's: the others run with the tests


def measures(task: Task) -> Iterator[Measure]:
    if find_spec("pytest") is None:
        yield Measure("passed", "pytest is not installed")
        return
    report = task.folder / "report.xml"
    ended = subprocess.run(
        [
            sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider",
            "--basetemp", str(task.folder / "tests"), "--junitxml", str(report),
            *task.sized(marked_files(), list(FEW)),
        ],
        cwd=ROOT,
        # Hypothesis would write into the repository.
        env=os.environ | {"HYPOTHESIS_STORAGE_DIRECTORY": str(task.folder / "hypothesis")},
        check=False,
    )  # fmt: skip
    if not report.is_file():
        raise RuntimeError(f"pytest ended with code {ended.returncode} and no report")
    (suite,) = ElementTree.parse(report).iter("testsuite")
    count = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
    passed = count.pop("tests") - sum(count.values())
    if not passed:
        raise RuntimeError(f"pytest ended with code {ended.returncode} and no test passed")
    yield Measure("passed", passed, "tests")
    for name, number in count.items():
        yield Measure(name, number)
    for case in suite.iter("testcase"):
        for problem in (*case.iter("failure"), *case.iter("error")):
            said = (problem.get("message") or "").splitlines() or [""]
            yield Measure(f"failed: {case.get('classname')}.{case.get('name')}", said[0][:200])


def marked_files() -> list[str]:
    """Those with a marked test. Others are not even read: some import what is not installed."""
    return [
        str(file.relative_to(ROOT))
        for file in sorted((ROOT / "tests").rglob("test_*.py"))
        if MARK in file.read_text(encoding="utf-8")
    ]
