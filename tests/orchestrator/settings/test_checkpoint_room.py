"""The disk that checkpoints need, against folders that runs of the shapes model wrote."""

from __future__ import annotations

from collections import namedtuple
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.settings.checkpoint_room import checkpoint_bytes, checkpoints_at_once, disk_text
from orchestrator.settings.model_size import ModelSize
from orchestrator.settings.run_config import load_config
from policy.checkpoint.loading import read_config
from policy.errors import UserError

ROOT = Path(__file__).parents[3]
SHAPES = ROOT / "configs" / "shapes.yaml"
SIZE = ModelSize.of(read_config(ROOT / "shapes" / "checkpoint"))
Usage = namedtuple("Usage", "free")


@pytest.mark.parametrize(
    ("settings", "written"),
    [
        ("", 3_084_552 + 5_484_135),
        ("model.dtype=bfloat16 learner.zero_stage=2", 1_552_660 + 5_427_973 + 929_753),
        ("model.dtype=bfloat16 learner.zero_stage=3", 1_552_660 + 5_424_133 + 34_977),
        ("learner.lora.rank=8", 3_084_552 + 241_344 + 812_895),
        ("stages=rollout trajectories.keep_steps=1", 0),
    ],
)
def test_a_checkpoint_is_as_large_as_those_that_were_written(settings: str, written: int) -> None:
    """Bytes of model, adapter and state of runs of one step, 2026-11-28. DeepSpeed's files also
    name every tensor, which is most of what is not planned."""
    config = load_config(SHAPES, settings.split())
    planned = checkpoint_bytes(config, SIZE)
    assert planned <= written <= planned * 1.04


def test_what_the_run_has_written_counts_as_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three checkpoints of 8.1 MiB fit into 20,000,000 free bytes and the 8,000,000 that the run
    has written, and not into 20,000,000 alone. With kept trajectories there are four."""
    config = load_config(SHAPES, [f"root={tmp_path}"])
    monkeypatch.setattr("shutil.disk_usage", lambda folder: Usage(20_000_000))
    with pytest.raises(UserError, match=r"^root: too little disk for 3 checkpoints of 8\.1 MiB, "):
        disk_text(config, SIZE)
    state = tmp_path / "shapes" / "checkpoints" / "step-1" / "state" / "file"
    state.parent.mkdir(parents=True)
    state.write_bytes(bytes(8_000_000))
    assert disk_text(config, SIZE).endswith(f"are free in {tmp_path / 'shapes'}")
    assert checkpoints_at_once(load_config(SHAPES, ["trajectories.keep_steps=1"])) == 4


def test_doctor_says_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a configuration doctor names both, and fails when there is too little."""
    monkeypatch.chdir(ROOT)
    assert main(["doctor", "configs/shapes.yaml", f"root={tmp_path}"]) == 0
    assert "; 3 checkpoints of 8.1 MiB, " in capsys.readouterr().out
    monkeypatch.setattr("shutil.disk_usage", lambda folder: Usage(10**9))
    monkeypatch.setattr(
        "orchestrator.settings.checkpoint_room.checkpoint_bytes", lambda config, size: 10**9
    )
    assert main(["doctor", "configs/shapes.yaml", f"root={tmp_path}"]) == 2
    assert "FAIL  configuration: root: too little disk" in capsys.readouterr().out
