"""Noun chunks and parts of speech of prompts, as spaCy finds them, and the file that keeps them.

Another version of spaCy or of its model finds other chunks: 3.6.0 and 3.8.0 of ``en_core_web_sm``
differ on 5 % of T2I-CompBench's prompts. So a file names both versions, and a prompt that is not in
it is an error and never analysed on the way.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

from pydantic import TypeAdapter, ValidationError

from policy.disk import write_whole
from policy.errors import UserError
from policy.extras import install_command
from policy.text_files import read_json

MODEL = "en_core_web_sm"


@dataclass(frozen=True)
class Analysis:
    """What spaCy says of one prompt.

    Example: of "a red book", ``chunks`` are ``("a red book",)`` and ``tokens`` are
    ``(("a", "DET"), ("red", "ADJ"), ("book", "NOUN"))``.
    """

    chunks: tuple[str, ...]
    tokens: tuple[tuple[str, str], ...]  # each token's text and its part of speech


@dataclass(frozen=True)
class Analyses:
    """The analyses of prompts by their texts, and the versions that made them."""

    spacy: str
    model: str
    prompts: dict[str, Analysis]
    format: Literal[1] = 1

    def of(self, text: str) -> Analysis:
        """The analysis of a prompt. Raises ``UserError`` when the file has none."""
        if text not in self.prompts:
            raise UserError(
                f"no noun chunks of the prompt {text!r}: write its chunk file anew, by eg-grpo data"
                " chunks"
            )
        return self.prompts[text]


_FILE = TypeAdapter(Analyses)


def load_analyses(path: Path) -> Analyses:
    """Read a file of ``write_analyses``; raises ``UserError`` that names it."""
    content = read_json(path, f"chunk file {path} (eg-grpo data chunks writes it)")
    try:
        return _FILE.validate_python(content)
    except ValidationError as error:
        reason = error.errors()[0]
        place = ".".join(str(part) for part in reason["loc"])
        raise UserError(f"chunk file {path}: {place}: {reason['msg']}") from None


def write_analyses(path: Path, analyses: Analyses) -> None:
    """Write the file whole, or raise ``NotWritten``."""
    write_whole(path, json.dumps(asdict(analyses), ensure_ascii=False, indent=1) + "\n")


def analyse(texts: Iterable[str], model: str = MODEL) -> Analyses:
    """Analyse each text once with spaCy. Raises ``UserError`` without spaCy or its model."""
    try:
        import spacy
    except ImportError:
        raise UserError(
            f"noun chunks need spaCy, which is not installed: {install_command('chunks')}; or use a"
            " chunk file that was written elsewhere"
        ) from None
    try:
        language = spacy.load(model)
    except OSError:
        raise UserError(
            f"spaCy has no model {model!r} here: python -m spacy download {model}"
        ) from None
    prompts = {}
    for text in dict.fromkeys(texts):
        document = language(text)
        prompts[text] = Analysis(
            tuple(chunk.text for chunk in document.noun_chunks),
            tuple((token.text, token.pos_) for token in document),
        )
    about = language.meta
    return Analyses(
        spacy.__version__, f"{about['lang']}_{about['name']} {about['version']}", prompts
    )
