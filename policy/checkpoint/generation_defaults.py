"""The file ``eg_grpo.json`` beside a checkpoint's weights: how to sample from the checkpoint.

Training writes it into every checkpoint. ``generate`` reads it, so that it uses the template and
the sampling settings that the policy was trained with. For a checkpoint without this file it uses
the settings of the paper's runs.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, ValidationError

from policy.errors import UserError
from policy.settings import Settings
from policy.text_files import read_json

FILE_NAME = "eg_grpo.json"


class GenerationDefaults(Settings):
    """Template and sampling of a checkpoint. The defaults are those of the paper's runs."""

    template: str = "janus-plain"
    instruction: str | None = None
    guidance_scale: float = Field(5.0, ge=0)
    temperature: float = Field(1.0, gt=0)
    max_cot_tokens: int = Field(1024, ge=1)


def load_defaults(folder: Path) -> GenerationDefaults:
    """Read ``eg_grpo.json``, if there is one. Raises ``UserError`` when it is broken."""
    file = folder / FILE_NAME
    if not file.is_file():
        return GenerationDefaults()
    try:
        return GenerationDefaults.model_validate(read_json(file))
    except ValidationError as error:
        raise UserError(f"{file}: {' '.join(str(error).split())}") from None


def save_defaults(folder: Path, defaults: GenerationDefaults) -> None:
    """Write ``eg_grpo.json``."""
    (folder / FILE_NAME).write_text(defaults.model_dump_json(indent=2) + "\n", encoding="utf-8")
