"""A rank whose peer dies while both save a checkpoint."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_RANK = """
import os, sys
os.environ["DS_ACCELERATOR"] = "cpu"
from pathlib import Path
from tests.learner_settings import learner_settings
from learner.collectives import PeerLost
from learner.rank import LearnerRank
from learner.rank_settings import Place
index, port, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
settings = learner_settings(Path("shapes/checkpoint"), ranks=2, timeout_s=60)
rank = LearnerRank(settings, Place(index, 2, "127.0.0.1", port))
if index == 1:
    os._exit(0)
try:
    rank.save(folder)
except PeerLost as error:
    print(f"PeerLost: {error}")
"""


@pytest.mark.slow
def test_a_peer_that_dies_during_a_save_is_no_full_disk(tmp_path: Path, free_port: int) -> None:
    """The save raises ``PeerLost`` and not ``NotWritten``. So the run forms a new learner group and
    does not stop with a line about the disk."""
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", _RANK, str(index), str(free_port), str(tmp_path / "saved")],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for index in range(2)
    ]
    said, *_ = (rank.communicate(timeout=120)[0] for rank in ranks)
    assert [rank.returncode for rank in ranks] == [0, 0]
    assert said.startswith("PeerLost: ")
