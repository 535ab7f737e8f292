"""Actors and tasks that tests run on the cluster.

Ray imports this module in each process that runs one of them. It imports no torch, because that
would cost each process seconds before its first call.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import ray

from policy.types import Group
from tests.faulty_rewards import wait_for_files
from tests.image_groups import image_group

SIZE = 256  # of an image's edge: Ray keeps groups of more than 100 KB in the object store


@ray.remote(num_cpus=0.1)
class Worker:
    """In place of any worker: does what it is told, and notes whether it sleeps."""

    def __init__(self) -> None:
        self._notes: list[str] = []

    def identity(self) -> None:
        """The first call that a pool makes."""

    def pid(self) -> int:
        return os.getpid()

    def generate_groups(self, requests: list[Any], sampling: Any) -> tuple[Any, ...]:
        """Groups are numbers here. The text of the first prompt may say what goes wrong: ``die``,
        or a folder that a file must be put into first."""
        text = requests[0].prompt.text
        if text == "die":
            os._exit(1)
        if text != "go":
            wait_for_files(text, 1)
        return (*range(len(requests)), len(requests))

    def load_weights(self, weight_version: int, slots: str, buckets: list[ray.ObjectRef]) -> str:
        """The answer is what the buckets hold, which are texts here."""
        return f"version {weight_version}: {slots} {' '.join(ray.get(buckets))}"

    def wait(self, folder: str) -> str:
        wait_for_files(folder, 1)
        return "done"

    def die(self) -> None:
        os._exit(1)

    def fail(self, reason: str) -> None:
        raise ValueError(reason)

    def wait_in_vain(self) -> None:
        ray.get(Worker.options(num_cpus=1000).remote().pid.remote(), timeout=0)

    def sleep(self) -> None:
        self._notes.append("asleep")

    def wake(self) -> None:
        self._notes.append("awake")

    def notes(self) -> list[str]:
        return self._notes


@ray.remote(num_cpus=0.1)
class Rank:
    """In place of a learner rank: it knows its host when the folder holds one file, and has loaded
    its model when it holds two. ``joins`` beside the folder has a file for each rank that loads."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def host(self) -> str:
        wait_for_files(self._folder, 1)
        return "127.0.0.1"

    def prepare(self) -> None:
        """The libraries are there."""

    def place_of_rank_0(self, *hosts: str) -> int:
        return len(hosts)

    def join(self, rank: int, ranks: int) -> None:
        Path(self._folder, "..", "joins", str(rank)).touch()
        wait_for_files(self._folder, 2)


@ray.remote(num_cpus=0.1)
class Painter:
    """In place of a rollout worker: an image's brightness depends on its seed and on how many
    groups are sampled together, as the numbers of a real worker do. A prompt whose text is ``die``
    ends the process."""

    def identity(self) -> None:
        """The first call that a pool makes."""

    def pid(self) -> int:
        return os.getpid()

    def generate_groups(self, requests: list[Any], sampling: Any) -> tuple[Any, ...]:
        if "die" in [request.prompt.text for request in requests]:
            os._exit(1)
        groups = [
            image_group(r.prompt, [(seed + 50 * len(requests)) % 199 for seed in r.seeds], SIZE)
            for r in requests
        ]
        return (*groups, len(groups))

    def load_weights(self, weight_version: int, *weights: Any) -> None:
        raise AssertionError("the weights are lost, so nobody can be called with them")


@ray.remote(num_cpus=0)
class Owner:
    """Owns an object, which Ray loses with it."""

    def owned(self) -> list[ray.ObjectRef]:
        return [ray.put(bytes(10**6))]


@ray.remote(num_cpus=0)
def late_group(folder: str, files: int, group: Group) -> Group:
    """A group that is there when the folder holds so many files."""
    wait_for_files(folder, files)
    return group
