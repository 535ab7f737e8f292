"""A checkpoint that does not fit on the disk: torch, safetensors and the system say it each in
their own words, and all of it is one error that names the checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest

from learner.step_checkpoint import verified_manifest
from policy.disk import NotWritten
from policy.errors import UserError
from tests.small_disk import resize, small_disk


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.02, 0.4, 0.75, 0.97])
def test_a_checkpoint_that_does_not_fit_names_itself_and_is_none(
    make_rank, tmp_path: Path, share: float
) -> None:
    """The disk is full at DeepSpeed's state, at the model, at the end; with room the same rank
    saves over what is left."""
    rank = make_rank()
    rank.save(tmp_path / "whole")
    pages = [-(-file.stat().st_size // 4096) for file in (tmp_path / "whole").rglob("*.*")]
    with small_disk(tmp_path / "disk", int(share * 4096 * sum(pages))) as disk:
        folder = disk / "step-1"
        with pytest.raises(NotWritten, match=rf"^{folder} cannot be written: .*MiB are free there"):
            rank.save(folder)
        with pytest.raises(UserError, match="was not finished"):
            verified_manifest(folder)
        resize(disk, 2 * 4096 * sum(pages))
        rank.save(folder)
        verified_manifest(folder)
