"""Groups on their way between the object store and files, by an actor of a real Ray cluster."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import ray
from image_groups import image_group

from orchestrator.workers.failures import WorkerFailed
from orchestrator.workers.group_files import GroupFiles
from orchestrator.workers.rollout_events import GroupRef
from policy.errors import UserError
from policy.types import Prompt

PROMPTS = [Prompt(id=f"p:{index}", text="a prompt", task_type="color") for index in range(3)]

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.usefixtures("ray_cluster")]


def references() -> list[GroupRef]:
    """Groups of 1, 2 and 3 trajectories in the object store."""
    return [
        GroupRef(prompt, ray.put(image_group(prompt, range(size), size=64)), size)
        for size, prompt in enumerate(PROMPTS, start=1)
    ]


def test_groups_go_to_files_and_come_back(tmp_path: Path) -> None:
    """In their order, with their prompts and sizes. A file that was changed by one bit since is
    refused by name; a file that cannot be written is named too."""
    files = [tmp_path / f"{index}.safetensors" for index in range(3)]
    store = GroupFiles(timeout_s=60)
    digests = store.write(files, references())
    read = store.read(files, digests)
    assert [group.prompt for group in read] == PROMPTS
    assert [group.size for group in read] == [1, 2, 3]
    group = ray.get(read[2].ref, timeout=60)
    assert [t.seed for t in group.trajectories] == [0, 1, 2]
    assert np.array_equal(group.trajectories[2].image, np.full((64, 64, 3), 2))

    content = bytearray(files[1].read_bytes())
    content[-1] ^= 1
    files[1].write_bytes(content)
    with pytest.raises(UserError, match=r"1\.safetensors is corrupt: its SHA-256 is not that of"):
        store.read(files, digests)
    files[1].unlink()
    with pytest.raises(UserError, match=r"1\.safetensors is missing$"):
        store.read(files, digests)
    with pytest.raises(WorkerFailed, match=r"^the writer of trajectories failed: NotWritten: .*/x"):
        store.write([tmp_path / "x" / "0"], references()[:1])
