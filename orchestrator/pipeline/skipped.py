"""Updates whose loss or gradient was not finite: their batches, and when to stop.

The learner leaves the weights as they were, and the run goes on with the next batch. A batch is
found again by its step and prompts, which determine every sample of it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import takewhile

from orchestrator.record.run_folder import RunFolder
from policy.errors import RunFailed
from policy.types import JsonDict
from rewards.scored_group import ScoredGroup

SKIPPED = "skipped.jsonl"


class UpdatesSkipped(RunFailed):
    """So many updates in a row were skipped that the run does not learn any more."""


def record_skipped(folder: RunFolder, row: JsonDict, groups: Sequence[ScoredGroup]) -> None:
    """Write down the batch of an update if the learner skipped it; ``row`` is its metrics row."""
    if not row.get("updates/skipped"):
        return
    by_loss = not math.isfinite(row["loss"])
    folder.append(
        SKIPPED,
        {
            "step": row["step"],
            "reason": f"loss {row['loss']}" if by_loss else f"gradient norm {row['grad_norm']}",
            "groups": [
                {"prompt_id": g.prompt.id, "prompt": g.prompt.text, "totals": g.totals}
                for g in groups
            ],
        },
    )


def skipped_in_a_row(folder: RunFolder) -> int:
    """How many of the last updates were skipped, up to the one whose row was written last."""
    rows = reversed(folder.rows("metrics.jsonl"))
    return sum(1 for _ in takewhile(lambda row: row.get("updates/skipped"), rows))


def updates_skipped(folder: RunFolder) -> UpdatesSkipped:
    """The error that ends such a run; it names the last step, its reason and the file of groups."""
    last = folder.rows(SKIPPED)[-1]
    return UpdatesSkipped(
        f"the last {skipped_in_a_row(folder)} updates were skipped, that of step {last['step']}"
        f" for {last['reason']}; {folder.path / SKIPPED} names their groups"
    )
