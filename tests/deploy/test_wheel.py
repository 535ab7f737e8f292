"""What ``pip install .`` puts beside the packages is enough to begin a run in an empty folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from house import ROOMS

from orchestrator.settings.shipped import shipped_names
from tests.command_line import ROOT


@pytest.mark.slow
def test_an_installation_finds_its_configurations_from_an_empty_folder(tmp_path: Path) -> None:
    """The wheel has the configurations, the files that they name, the ledger's script and what a
    report is made of; nothing is read from the checkout."""
    source, site, empty = tmp_path / "source", tmp_path / "site", tmp_path / "empty"
    source.mkdir()
    empty.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for name in (*ROOMS, "configs"):
        shutil.copytree(ROOT / name, source / name)
    build = "import setuptools.build_meta as build; print(build.build_wheel('.'))"
    subprocess.run([sys.executable, "-c", build], cwd=source, capture_output=True, check=True)
    (wheel,) = source.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)

    def eg_grpo(*words: str) -> str:
        return subprocess.run(
            [sys.executable, "-m", "orchestrator", *words],
            cwd=empty, env=os.environ | {"PYTHONPATH": str(site)},
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip

    listed = [line.split()[0] for line in eg_grpo("configs").splitlines()]
    assert listed == shipped_names()
    resolved = eg_grpo("train", "shapes", "--dry-run")
    assert f"path: {site}/shapes/checkpoint\n" in resolved
    assert f"train: {site}/shapes/data/train.jsonl\n" in resolved
    row = '{"step": 1, "time": 0.0, "reward/mean": 0.5, "seconds/step": 3.0, "alarms": []}\n'
    (empty / "metrics.jsonl").write_text(row, encoding="utf-8")
    assert eg_grpo("report", ".") == "report: report.html\n"
    for pattern in ("pipeline/*.lua", "report/templates/*"):
        files = [path.relative_to(ROOT) for path in (ROOT / "orchestrator").glob(pattern)]
        assert files
        assert [path for path in files if not (site / path).is_file()] == []
