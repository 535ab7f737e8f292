"""``eg-grpo doctor --cluster`` tells what there is room for at the moment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from orchestrator.commands.doctor import examine_cluster
from orchestrator.workers import cluster, host_checks, placement
from policy.errors import RunFailed, UserError

ROOT = Path(__file__).parents[3]


def test_it_does_not_wait_for_room(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A run may wait for half an hour until the cluster has room; the doctor answers at once."""
    waited: list[float] = []

    @contextmanager
    def reserved(config: Any, wanted: Any) -> Iterator[None]:
        waited.append(config.cluster.wait_for_room_s)
        raise RunFailed("there is no room")
        yield

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(cluster, "ray_cluster", lambda *_, **__: nullcontext())
    monkeypatch.setattr(host_checks, "examine_hosts", lambda needs: [])
    monkeypatch.setattr(placement, "reserved", reserved)
    settings = ["cluster.wait_for_room_s=1800"]
    with pytest.raises(UserError, match="1 of 2 checks failed"):
        examine_cluster(Path("configs/shapes.yaml"), settings, "head:6379")
    assert waited == [0.0]
    assert capsys.readouterr().out.endswith("FAIL  placement: there is no room\n")
