"""The file of noun chunks: what is in it, and what is wrong with it, in one line."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from evaluation.chunks import Analyses, Analysis, analyse, load_analyses, write_analyses
from policy.errors import UserError

ANALYSES = Analyses(
    "3.8.18",
    "en_core_web_sm 3.8.0",
    {
        "a red book": Analysis(("a red book",), (("a", "DET"), ("red", "ADJ"), ("book", "NOUN"))),
        "happy": Analysis((), (("happy", "ADJ"),)),
    },
)


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    """With the versions, and a prompt without a chunk."""
    write_analyses(tmp_path / "chunks.json", ANALYSES)
    read = load_analyses(tmp_path / "chunks.json")
    assert read == ANALYSES
    assert read.of("happy").chunks == ()


def test_a_prompt_that_is_not_there_is_an_error() -> None:
    """It is never analysed on the way, by another version."""
    with pytest.raises(UserError, match="no noun chunks of the prompt 'a blue book'"):
        ANALYSES.of("a blue book")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"spacy": "3.8.18", "prompts": {}}, "model: Field required"),
        ({"spacy": "3", "model": "m", "prompts": {"a": {"chunks": "a", "tokens": []}}},
         "prompts.a.chunks: Input should be a valid tuple"),
        ({"spacy": "3", "model": "m", "prompts": {}, "format": 2}, "format: Input should be 1"),
    ],
)  # fmt: skip
def test_another_file_is_refused(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    """With the place that is wrong."""
    file = tmp_path / "chunks.json"
    file.write_text(json.dumps(content))
    with pytest.raises(UserError, match=rf"chunk file .*chunks.json: {message}") as caught:
        load_analyses(file)
    assert "\n" not in str(caught.value)


def test_without_spacy_there_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """It says what to install."""
    monkeypatch.setitem(sys.modules, "spacy", None)
    with pytest.raises(UserError, match=r"pip install .* '\.\[chunks\]'"):
        analyse(["a red book"])


def test_without_its_model_there_is_one_line() -> None:
    """Where spaCy is installed."""
    pytest.importorskip("spacy", reason="spaCy is an extra")
    with pytest.raises(UserError, match="python -m spacy download en_nowhere"):
        analyse(["a red book"], "en_nowhere")
