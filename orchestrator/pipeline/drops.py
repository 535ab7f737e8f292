"""Writes down the groups that a step loses, and why.

A group may lose trajectories to failed rewards. If too few are left, its prompt is sampled again
with fresh seeds, so that the optimizer batch stays whole. The seeds depend only on the step, the
place in the batch and the draw: a run that meets the same faults takes the same steps.
"""

from __future__ import annotations

import logging

from orchestrator.record.run_folder import RunFolder
from policy.errors import RunFailed
from policy.types import Prompt
from rewards.scored_group import ScoredGroup, failure_reasons

log = logging.getLogger("eg_grpo")


class Drops:
    """Writes ``dropped.jsonl`` of one run."""

    def __init__(self, folder: RunFolder, replacements: int) -> None:
        """``replacements`` is how often a prompt is sampled again."""
        self._folder, self._replacements = folder, replacements

    def too_few(self, step: int, draw: int, group: ScoredGroup, minimum: int) -> str:
        """A group has fewer than ``minimum`` scored trajectories; returns the reason.

        Raises ``RunFailed`` when that was its prompt's last draw.
        """
        survivors, size = sum(total is not None for total in group.totals), len(group.totals)
        reasons = failure_reasons([group])
        said = ", ".join(f"{count} x {reason}" for reason, count in reasons.items())
        log.warning(
            "step %d: group of prompt %s dropped, %d of %d trajectories scored: %s",
            step + 1, group.prompt.id, survivors, size, said,
        )  # fmt: skip
        self._append(
            step,
            group.prompt,
            {"attempt": draw + 1, "survivors": survivors, "group_size": size, "reasons": reasons},
        )
        if draw == self._replacements:
            raise RunFailed(
                f"step {step + 1}: prompt {group.prompt.id} was sampled"
                f" {1 + self._replacements} times, and each time fewer than {minimum} of"
                f" {size} trajectories were scored: {said}"
            )
        return f"{survivors} of {size} trajectories scored: {said}"

    def poisoned(self, step: int, prompt: Prompt, reason: str) -> None:
        """The step trains without this prompt."""
        log.warning("step %d: group of prompt %s dropped: %s", step + 1, prompt.id, reason)
        self._append(step, prompt, {"reasons": {reason: 1}})

    def _append(self, step: int, prompt: Prompt, more: dict[str, object]) -> None:
        who = {"step": step + 1, "prompt_id": prompt.id, "prompt": prompt.text}
        self._folder.append("dropped.jsonl", who | more)
