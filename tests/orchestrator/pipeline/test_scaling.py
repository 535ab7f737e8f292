"""A whole run whose workers come and go: its own processes, a real cluster, real weights."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.pipeline.status import read_status
from tests.command_line import ONE_REWARD, ROOT, train
from tests.training_records import rows, untimed, weights_digest

SMALL = (
    "steps=5 prompts_per_step=6 rollout.group_size=4 rollout.batch_size=8 rollout.workers=1"
    " rollout.max_workers=3 learner.micro_batch_size=6 checkpoint.every=5"
    " evaluation.prompts=2 evaluation.samples_per_prompt=2 evaluation.every=5"
    f" cluster.object_store_mb=128 {ONE_REWARD} rewards.0.max_workers=2"
).split()
# The run goes on at once, and not before, when as many wishes were granted as are written here.
WAITS_FOR_WISHES = """
import sys
from orchestrator.workers.cluster import private_environment
private_environment()  # before Ray is imported
from orchestrator.cli import main
from orchestrator.pipeline.stages import Stages
batch = Stages.batch
def waits(self, step, clock):
    granted = {1: 1, 3: 2}.get(step, 0)
    while sum(wish.answer == "done" for wish in self._ledger.view().scaling) < granted:
        self._turn()
    return batch(self, step, clock)
Stages.batch = waits
sys.exit(main(sys.argv[1:]))
"""

pytestmark = [pytest.mark.slow, pytest.mark.cluster]


def scale(run: Path, *counts: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchestrator", "scale", str(run), *counts],
        cwd=ROOT, capture_output=True, text=True, timeout=200, check=False,
    )  # fmt: skip


def test_the_weights_do_not_depend_on_workers_that_come_and_go(tmp_path: Path) -> None:
    """One rollout worker, three and two while the run goes on, and one or two workers of a reward:
    at staleness 0 all metrics and the last weights are those of a run with one of each, to the bit.

    No group is sampled twice and no worker counts as lost. What cannot be done is refused in one
    line with exit code 2. The ledger has a row for every wish.
    """
    expected = train(tmp_path, "alone", *SMALL)
    run = tmp_path / "scaled"
    with subprocess.Popen(
        [
            *(sys.executable, "-c", WAITS_FOR_WISHES, "train", "configs/shapes.yaml"),
            *(f"root={tmp_path}", "name=scaled", *SMALL),
        ],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        assert "run folder" in process.stdout.readline()
        refused = scale(run, "rollout=4")
        assert (refused.returncode, refused.stdout) == (2, "")
        assert refused.stderr == "eg-grpo: refused: rollout=4 is above its max_workers, 3\n"
        grown = scale(run, "rollout=3", "attributes=2")
        assert grown.stdout.partition(": ")[2] == "rollout 1 -> 3, attributes 1 -> 2\n"
        shrunk = scale(run, "rollout=2", "attributes=1")
        assert shrunk.stdout.partition(": ")[2] == "rollout 3 -> 2, attributes 2 -> 1\n"
        said = process.stdout.read()
        assert process.wait(timeout=200) == 0, said
    assert weights_digest(run, 5) == weights_digest(expected, 5)
    workers = [(row["workers/rollout"], row["workers/attributes"]) for row in rows(run)]
    assert workers[3:] == [(2, 1), (2, 1)]  # before that, a wish may come early in a step
    assert without_workers(run) == without_workers(expected)
    ledger = read_status(run, 0.0).ledger
    assert {group.attempt for group in ledger.groups} == {1}
    assert "lost/rollout" not in ledger.counts
    assert [wish.answer[:7] for wish in ledger.scaling] == ["refused", "done", "done"]
    ended = scale(run, "rollout=1")  # for some seconds the last sign of life is still young
    assert ended.returncode == 2
    assert "the run has ended" in ended.stderr or "the run does not go on" in ended.stderr


def without_workers(run: Path) -> list[dict[str, object]]:
    """The metrics of every step but times and numbers of workers."""
    return [
        {key: value for key, value in row.items() if not key.startswith("workers/")}
        for row in untimed(run)
    ]
