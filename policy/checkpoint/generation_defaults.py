"""The file ``eg_grpo.json`` beside a checkpoint's weights: how to sample from the checkpoint.

Training writes it into every checkpoint. ``generate`` reads it, so that it uses the template and
the sampling settings that the policy was trained with. For a checkpoint without this file it uses
the template and sampling of the paper's runs, with our own CoT instruction: the authors' is a file
that is not part of this project.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Self

from pydantic import Field, ValidationError

from policy.base_settings import Settings
from policy.errors import UserError
from policy.sampling import PAPER_SAMPLING, Sampling
from policy.text_files import read_json

FILE_NAME = "eg_grpo.json"


class GenerationDefaults(Settings):
    """Template and sampling of a checkpoint; the fields are the keys of ``eg_grpo.json``."""

    template: str
    instruction: str | None
    guidance_scale: float = Field(ge=0)
    temperature: float = Field(gt=0)
    max_cot_tokens: int = Field(ge=1)

    @classmethod
    def of(cls, template: str, instruction: str | None, sampling: Sampling) -> Self:
        return cls(template=template, instruction=instruction, **asdict(sampling))

    @property
    def sampling(self) -> Sampling:
        return Sampling(self.guidance_scale, self.temperature, self.max_cot_tokens)


# Template and sampling of the paper's runs. They stand in for keys that a checkpoint does not give.
_PAPER = GenerationDefaults.of("janus-plain", None, PAPER_SAMPLING)


def load_defaults(folder: Path) -> GenerationDefaults:
    """Read ``eg_grpo.json``. A missing file or key gives the value of the paper's runs, and for the
    instruction None: the template's own.

    Raises ``UserError`` when the file is broken.
    """
    file = folder / FILE_NAME
    if not file.is_file():
        return _PAPER
    tree = read_json(file)
    if not isinstance(tree, dict):
        raise UserError(f"{file}: expected an object of settings")
    try:
        return GenerationDefaults.model_validate(_PAPER.model_dump() | tree)
    except ValidationError as error:
        raise UserError(f"{file}: {' '.join(str(error).split())}") from None


def save_defaults(folder: Path, defaults: GenerationDefaults) -> None:
    """Write ``eg_grpo.json``."""
    (folder / FILE_NAME).write_text(defaults.model_dump_json(indent=2) + "\n", encoding="utf-8")
