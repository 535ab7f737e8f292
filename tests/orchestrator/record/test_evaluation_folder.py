"""The folder of an evaluation goes on with the same protocol alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.record.evaluation_folder import EvaluationFolder
from policy.errors import UserError
from policy.types import Score

ASKED = {"seed": 0, "versions": {"torch": "2.13.0", "transformers": "5.19.0"}}


def test_another_version_of_a_library_is_named(tmp_path: Path) -> None:
    """One half of the scores would be of one version, and the other half of another."""
    EvaluationFolder(tmp_path / "out", ASKED).close()
    EvaluationFolder(tmp_path / "out", ASKED).close()
    newer = {"seed": 0, "versions": {"torch": "2.13.0", "transformers": "5.23.0"}}
    with pytest.raises(UserError, match=r"with another versions\.transformers; give another"):
        EvaluationFolder(tmp_path / "out", newer)
    with pytest.raises(UserError, match="with another seed; give another"):
        EvaluationFolder(tmp_path / "out", {**ASKED, "seed": 1})


def test_a_judge_at_another_address_goes_on(tmp_path: Path) -> None:
    """A job that is queued again finds its server on another host. The folder names the new one as
    soon as it has scored there. Where nothing is scored, nothing was moved."""
    out = tmp_path / "out"
    files = {"clip": {"model": "files/clip"}}

    def begun(port: int) -> EvaluationFolder:
        url = f"http://127.0.0.1:{port}/v1"
        return EvaluationFolder(out, {**ASKED, "locations": {"judge": {"url": url}, **files}})

    def named() -> str:
        locations = json.loads((out / "evaluation.json").read_text())["locations"]
        assert locations["clip"] == {"model": "files/clip"}
        return str(locations["judge"]["url"])

    first = begun(8000)
    first.keep_scored("judge", None, 0, [Score(0.5)])
    first.close()
    assert named() == "http://127.0.0.1:8000/v1"
    other = begun(8001)
    assert named() == "http://127.0.0.1:8000/v1"
    other.keep_scored("judge", None, 1, [Score(0.5)])
    other.close()
    assert named() == "http://127.0.0.1:8001/v1"
    begun(8002).close()
    assert named() == "http://127.0.0.1:8001/v1"
