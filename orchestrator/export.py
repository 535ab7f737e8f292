"""``eg-grpo export``: the model of a checkpoint as a folder that transformers loads by itself."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from learner.checkpoint import MODEL, verified_manifest
from policy.errors import UserError


def export(checkpoint: Path, output: Path) -> Path:
    """Copy the model of a ``step-N`` folder to ``output``, which appears whole or not at all.

    What the checkpoint's manifest does not vouch for is not copied. Raises ``UserError`` when the
    checkpoint is damaged, or ``output`` is not empty or cannot be written.
    """
    files = [Path(name) for name in verified_manifest(checkpoint).files]
    files = [file for file in files if file.parts[0] == MODEL]
    if not files:
        raise UserError(f"checkpoint {checkpoint} holds no {MODEL}/ folder")
    output = output.absolute()
    if output.exists() and not (output.is_dir() and not any(output.iterdir())):
        raise UserError(f"{output} is not an empty folder; nothing was written")
    unfinished = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        for file in files:
            target = unfinished / file.relative_to(MODEL)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(checkpoint / file, target)
        unfinished.replace(output)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return output
