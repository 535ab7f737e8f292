"""The table "What fits where" of docs/install.md is what ``eg-grpo doctor --plan`` prints."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from orchestrator.cli import main

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.split("| fits |\n|---|---|---|---|---|---|\n")[1].split("\n\n")[0].splitlines()
]
HPS = '{name: hps, factory: "rewards.models.hps:HpsReward", gpus_per_worker: 0.1}'
GIT = '{name: git, factory: "rewards.models.git:GitReward", gpus_per_worker: 0.1}'
DINO = (
    '{name: grounding_dino, factory: "rewards.models.grounding_dino:GroundingDinoReward",'
    " batch_size: 2, gpus_per_worker: 0.1}"
)
LORA = "janus-pro-1b-lora-1gpu.yaml"
# Of each row: the configuration, its settings, GPUs, GiB of each.
PLANS: list[tuple[str, str, int, int]] = [
    ("shapes.yaml", "", 0, 80),
    (LORA, f"rewards=[{HPS}]", 1, 24),
    (LORA, f"rewards=[{HPS},{GIT},{DINO}]", 1, 40),
    (LORA, "", 1, 40),
    (LORA, "", 1, 80),
    (LORA, "model.path=deepseek-community/Janus-Pro-7B", 1, 80),
    ("janus-pro-1b.yaml", "", 8, 40),
    ("janus-pro-7b.yaml", "", 8, 40),
    ("janus-pro-7b.yaml", "learner.lora.rank=16 learner.zero_stage=1", 8, 40),
    ("janus-pro-7b.yaml", "", 8, 80),
    ("janus-pro-7b-64gpus.yaml", "", 64, 80),
]


@pytest.mark.slow
@pytest.mark.parametrize(("plan", "row"), zip(PLANS, ROWS, strict=True), ids=range(len(PLANS)))
def test_a_row_is_what_the_plan_prints(
    plan: tuple[str, str, int, int],
    row: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Largest GPU, host memory, disk and whether it fits, without the files of ``data fetch``."""
    config, settings, gpus, gib = plan
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = [settings] if settings.startswith("rewards") else settings.split()
    flags = ["--gpus", str(gpus), "--gpu-memory", str(gib)]
    code = main(["doctor", "--plan", str(ROOT / "configs" / config), *flags, *words])
    printed = capsys.readouterr().out
    largest = max(map(float, re.findall(r"^  GPU \d+ +([\d.]+) GiB", printed, re.M)), default=None)
    assert row[2] == ("-" if largest is None else f"{largest} GiB")
    assert row[3].split(" GiB")[0] == re.findall(r"together +([\d.]+) GiB", printed)[-1]
    assert row[4] == re.findall(r"at once +([\d.]+ [MG]iB)", printed)[0]
    assert row[5].strip("*") == {0: "yes", 2: "no"}[code]
