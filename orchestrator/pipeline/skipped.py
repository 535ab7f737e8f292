"""Updates whose loss or gradient was not finite: their batches, and when to stop.

The learner has left the weights as they were, and the run goes on with the next batch. What made
the number is found by sampling the batch again, which its step and prompts determine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import takewhile

from orchestrator.pipeline.run import Run
from policy.errors import RunFailed
from policy.types import JsonDict
from rewards.scored_group import ScoredGroup

SKIPPED = "skipped.jsonl"


class UpdatesSkipped(RunFailed):
    """So many updates in a row were skipped that there is nothing to wait for."""


def record_skipped(run: Run, row: JsonDict, groups: Sequence[ScoredGroup]) -> None:
    """Write down the batch of an update if the learner skipped it; ``row`` is its metrics row."""
    if not row["updates/skipped"]:
        return
    by_loss = not math.isfinite(row["loss"])
    run.folder.append(
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


def stop_if_stuck(run: Run, row: JsonDict) -> None:
    """Raise ``UpdatesSkipped`` when too many updates in a row, up to that of ``row``, were skipped.

    Its step is in a checkpoint then: whoever resumes goes on with the next batch.
    """
    if not row["updates/skipped"]:
        return
    step = row["step"]
    rows = reversed(run.folder.rows("metrics.jsonl"))
    count = sum(1 for _ in takewhile(lambda row: row.get("updates/skipped"), rows))
    if count < run.config.learner.max_skipped_updates:
        return
    run.save(step)
    reason = run.folder.rows(SKIPPED)[-1]["reason"]
    raise UpdatesSkipped(
        f"the last {count} updates were skipped, that of step {step} for {reason};"
        f" {run.folder.path / SKIPPED} names their groups"
    )
