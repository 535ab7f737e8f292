"""The final weights of some runs, which the analyses of entropies and diversity need.

They are not in the repository: about 3 MB each, below ``weights`` in the root of the runs. The
record of a run has the digest of its file. So a machine that lacks the file can make the run again
and prove that it got the same weights, and an analysis never reads others. That takes a processor
of the same kind: another one rounds otherwise.
"""

from __future__ import annotations

from pathlib import Path

from benchmarks.experiments.arms import WEIGHTS_KEPT, Arm
from benchmarks.experiments.records import Records
from learner.step_checkpoint import MODEL
from policy.digest import sha256
from policy.types import JsonDict


def are_kept(arm: Arm) -> bool:
    return arm.name in {kept.name for kept in WEIGHTS_KEPT}


def folder(root: Path, arm: Arm, seed: int) -> Path:
    """The checkpoint of a finished run."""
    return root / "weights" / arm.cell(seed).name / MODEL


def digest(root: Path, arm: Arm, seed: int) -> str | None:
    """The digest of the file of weights; None if it is not there."""
    file = folder(root, arm, seed) / "model.safetensors"
    return sha256(file) if file.is_file() else None


def missing(records: Records, root: Path) -> list[tuple[Arm, int]]:
    """The recorded runs whose weights should be kept, and are not here or are others."""
    return [
        (arm, seed)
        for arm in WEIGHTS_KEPT
        for seed, run in records.runs(arm).items()
        if digest(root, arm, seed) != run["weights"]["file"]
    ]


def difference(recorded: JsonDict, again: JsonDict) -> str | None:
    """How a run that was made again differs from its record, in one line."""
    was, now = recorded["weights"], again["weights"]
    if was == now:
        return None
    return (
        f"the weights were {was}, now they are {now}; versions were {recorded['versions']}, now"
        f" they are {again['versions']}; with the same ones it is another kind of processor, which"
        " rounds otherwise"
    )
