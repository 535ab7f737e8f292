"""What is said where a run asks for vLLM and there is none."""

from __future__ import annotations

import importlib.machinery
import importlib.util
from pathlib import Path

import pytest

from orchestrator.cli import main
from tests.command_line import ROOT


def test_without_vllm_the_extra_is_named_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line and exit code 2, where Python is asked for vLLM and finds none."""
    find = importlib.util.find_spec

    def without_vllm(name: str, *rest: str) -> importlib.machinery.ModuleSpec | None:
        return None if name == "vllm" else find(name, *rest)

    monkeypatch.setattr("importlib.util.find_spec", without_vllm)
    monkeypatch.chdir(ROOT)
    assert (
        main(
            ["train", "configs/shapes.yaml", f"root={tmp_path}", "rollout.engine=vllm", "--dry-run"]
        )
        == 2
    )
    stderr = capsys.readouterr().err
    assert "rollout.engine: vllm is not installed" in stderr
    assert "[vllm]" in stderr
    assert len(stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())
