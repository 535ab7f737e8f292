"""``eg-grpo export``: copies a checkpoint's model for transformers, or its adapter for peft."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from pathlib import Path

from learner.rank_settings import ADAPTER_NOTE
from learner.step_checkpoint import ADAPTER, MODEL, verified_manifest
from orchestrator.settings.inputs import refuse_run_folder
from policy.disk import check_vacant
from policy.errors import UserError


def run(parsed: argparse.Namespace) -> None:
    """Export and print the folder. A note on the adapter's base model goes to standard error."""
    output = export(parsed.checkpoint, parsed.output, parsed.adapter)
    print(output)
    if parsed.adapter and (note := output / ADAPTER_NOTE).is_file():
        print(note.read_text(encoding="utf-8"), end="", file=sys.stderr)


def export(checkpoint: Path, output: Path, adapter: bool = False) -> Path:
    """Copy the model of a ``step-N`` folder to ``output``, which appears whole or not at all.

    The model of a LoRA run is the merged one. With ``adapter``, only the adapter is copied. Files
    that the checkpoint's manifest does not list are left out. Raises ``UserError`` when the
    checkpoint is damaged or has no adapter, or ``output`` is not empty or cannot be written.
    """
    refuse_run_folder(checkpoint)
    files = [Path(name) for name in verified_manifest(checkpoint, others="leave").files]
    part = ADAPTER if adapter else MODEL
    files = [file for file in files if file.parts[0] == part]
    if not files:
        hint = ": the run had no learner.lora" if adapter else ""
        raise UserError(f"checkpoint {checkpoint} holds no {part}/ folder{hint}")
    output = output.absolute()
    check_vacant(output)
    unfinished = output.with_name(f".{output.name}.{os.getpid()}")
    try:
        for file in files:
            target = unfinished / file.relative_to(part)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(checkpoint / file, target)
        unfinished.replace(output)
    except OSError as error:
        raise UserError(f"{output} cannot be written: {error.strerror}") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return output
