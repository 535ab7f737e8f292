"""The rollout benchmark: every candidate generates, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from benchmarks import rollout
from benchmarks.rollout_candidates import BASELINE, candidates
from benchmarks.timing import take_turns

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_every_candidate_is_measured(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row for each, all with a rate and a ratio, and a profile that names the model's work."""
    options = ["--model", "shapes", "--prompts", "1", "--rounds", "1", "--profile"]
    monkeypatch.setattr("sys.argv", ["rollout", *options])
    assert rollout.main() == 0
    output = capfd.readouterr().out
    rows = [line.strip("| ").split(" | ") for line in output.splitlines() if line.startswith("| ")]
    names = [row[0] for row in rows[1:]]
    measured = candidates("cpu")
    assert names[: len(measured)] == measured
    assert names[0] == BASELINE
    assert ("vLLM engine" in measured) == (find_spec("vllm") is not None)
    for row in rows[1 : 1 + len(measured)]:
        assert float(row[1]) > 0
        assert float(row[2]) > float(row[1])
        assert row[3] == "1" or row[3].endswith("x")
    assert output.count("{built-in method torch._C._nn.linear}") == len(measured)


@pytest.mark.slow
def test_it_needs_no_cluster() -> None:
    """With torch and transformers alone, as on a rented GPU, two rows can be measured."""
    blocked = "import sys; sys.modules |= dict.fromkeys(['ray', 'deepspeed', 'vllm', 'redis']); "
    used = "import benchmarks.rollout, rollout.transformers_engine; print('imported')"
    run = subprocess.run(
        [sys.executable, "-c", blocked + used],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.stdout == "imported\n", run.stderr


def test_turns_are_taken_and_results_stay_in_their_columns() -> None:
    """Who goes first changes from round to round; results do not move."""
    order: list[str] = []

    def call(name: str) -> str:
        order.append(name)
        return name

    table = take_turns([lambda: call("a"), lambda: call("b"), lambda: call("c")], rounds=3)
    assert table == [["a", "b", "c"]] * 3
    assert order == ["a", "b", "c", "b", "c", "a", "c", "a", "b"]
