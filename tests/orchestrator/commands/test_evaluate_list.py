"""``eg-grpo evaluate list``: the names that images of other programs need."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.cli import main
from tests.suite_files import geneval_file


def test_the_prompts_of_a_suite_by_place(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Places count from 0 in the order of the suite. GenEval has names of its own, here for two
    images of each prompt; the embedded world has none."""
    geneval_file(tmp_path)
    assert main(["evaluate", "list", "geneval", f"data={tmp_path}", "images_per_prompt=2"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [row["place"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert rows[1] == {
        "place": 1,
        "stratum": "two_object",
        "prompt_id": "geneval:1",
        "prompt": "a photo of a bird and a car",
        "official_names": ["00001/samples/00000.png", "00001/samples/00001.png"],
    }
    assert main(["evaluate", "list", "shapes", "prompts=1"]) == 0
    first, second = map(json.loads, capsys.readouterr().out.splitlines())
    assert (first["stratum"], first["place"], first["official_names"]) == ("seen", 0, [])
    # The place is that in the whole suite, by which --images of a part of it are found as well.
    assert (second["stratum"], second["place"]) == ("held_out", 96)


def test_a_setting_that_is_not_there_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    """One line, as for an evaluation."""
    assert main(["evaluate", "list", "shapes", "promts=1"]) == 2
    assert "promts" in capsys.readouterr().err
