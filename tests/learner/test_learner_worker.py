"""What a learner worker does around an update."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from learner_settings import learner_settings

from learner.worker import LearnerWorker


@pytest.mark.parametrize(("gpus", "freed"), [(0.4, 1), (1, 0)])
def test_unused_memory_leaves_a_gpu_that_others_may_be_on(
    gpus: float, freed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After an update, by torch's own call. A rank that has its GPU alone keeps the memory, which
    its next update would only ask for again."""

    class Rank:
        def update(self, slices: Any) -> dict[str, float]:
            assert not calls
            return {"loss": 1.0}

    calls: list[str] = []
    monkeypatch.setattr("learner.worker.ray.get", lambda refs, timeout: refs)  # there are none
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: calls.append("freed"))
    worker = LearnerWorker(learner_settings(Path("none"), device="cuda", gpus_per_rank=gpus))
    worker._rank = Rank()  # type: ignore[assignment]
    assert worker.update([], 1.0) == {"loss": 1.0}
    assert calls == ["freed"] * freed
