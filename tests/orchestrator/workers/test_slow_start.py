"""A private cluster that is slow to start. Ray is played, as nothing makes it slow to order."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable

import pytest
import ray

from orchestrator.workers.cluster import _start_private

LAST = "The current node timed out during startup. This could happen because some of the raylet"
FIRST = "Timed out waiting for file /tmp/ray/session/gcs_server_port_1"


class Starts:
    """Plays ``ray.init``: fails with each message in turn, and leaves a process behind."""

    def __init__(self, *messages: str) -> None:
        self._messages = list(messages)
        self.left: list[subprocess.Popen[bytes]] = []

    def __call__(self, **settings: object) -> None:
        program = [sys.executable, "-c", "import time; time.sleep(600)"]
        self.left.append(subprocess.Popen(program))
        if self._messages:
            raise Exception(self._messages.pop(0))


@pytest.fixture
def starts(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Starts]:
    def play(*messages: str) -> Starts:
        played = Starts(*messages)
        monkeypatch.setattr(ray, "init", played)
        return played

    return play


def test_ray_gets_further_attempts_until_the_time_is_over(starts: Callable[..., Starts]) -> None:
    """Whichever of its processes was slow. What an attempt has left behind is killed before the
    next one. An attempt that was begun in time may end later."""
    slow = starts(LAST, FIRST)
    _start_private(2, 128, start_timeout_s=60)
    *failed, last = slow.left
    assert [process.wait(60) for process in failed] == [-9, -9]
    assert last.poll() is None
    end(last)
    for seconds, message in ((0, LAST), (60, "no space left on device")):
        ends = starts(message)
        with pytest.raises(Exception, match=message):
            _start_private(2, 128, start_timeout_s=seconds)
        (only,) = ends.left
        end(only)


def end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait(60)
