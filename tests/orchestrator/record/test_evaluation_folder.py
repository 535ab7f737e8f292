"""The folder of an evaluation goes on with the same protocol alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator.record.evaluation_folder import EvaluationFolder
from policy.errors import UserError

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
    """A job that is queued again finds its server on another host. The folder names the new one."""
    for port in (8000, 8001):
        asked = {**ASKED, "locations": {"judge": {"url": f"http://127.0.0.1:{port}/v1"}}}
        EvaluationFolder(tmp_path / "out", asked).close()
        assert json.loads((tmp_path / "out" / "evaluation.json").read_text()) == asked
