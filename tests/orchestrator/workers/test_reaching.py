"""A Ray cluster that does not answer: one line within the deadline that says who named it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
import ray

from orchestrator.settings.cluster_address import cluster_address
from orchestrator.workers.cluster import ray_cluster
from policy.errors import UserError

ROOT = Path(__file__).parents[3]
LIMIT_S = 2.0
CONNECT = """
import sys
from orchestrator.workers.cluster import ray_cluster
from policy.errors import UserError
try:
    with ray_cluster(sys.argv[1]):
        import ray
        print("CPUs", ray.cluster_resources()["CPU"])
except UserError as error:
    print(error)
"""


@pytest.fixture(params=["gone", "silent"])
def dead(request: pytest.FixtureRequest) -> Iterator[str]:
    """Where nothing listens any more, or somebody who accepts and says nothing."""
    with closing(socket.socket()) as listener:
        listener.bind(("127.0.0.1", 0))
        if request.param == "silent":
            listener.listen()
        yield f"127.0.0.1:{listener.getsockname()[1]}"


def refusal(configured: str | None) -> str:
    with (
        pytest.raises(UserError) as refused,
        ray_cluster(configured, start_timeout_s=LIMIT_S),
    ):
        pytest.fail("there is no cluster")
    return str(refused.value)


def test_the_configured_address_is_named(dead: str) -> None:
    """Ray itself would wait for many minutes without a word."""
    assert refusal(dead) == (
        f"cluster.address: cannot start or reach Ray ({dead}): no answer within 2 s"
    )


def test_the_port_of_rays_client_is_refused() -> None:
    """At once: Ray would connect, and then know neither hosts nor places."""
    assert refusal("ray://head:10001") == (
        "cluster.address: cannot start or reach Ray (ray://head:10001): this is a proxy for"
        " clients; a run needs the cluster itself: HOST:6379, or ray job submit"
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dead", "configured"), [("gone", None), ("silent", "auto")], indirect=["dead"]
)
def test_the_address_of_the_environment_is_named(
    configured: str | None, dead: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RAY_ADDRESS stands for a missing address, and for the word auto; a job gets it from Ray."""
    monkeypatch.setenv("RAY_ADDRESS", dead)
    assert refusal(configured) == (
        f"RAY_ADDRESS: cannot start or reach Ray ({dead}): no answer within 2 s"
    )
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert refusal(configured).startswith("RAY_ADDRESS (of the submitted job): cannot start")


def test_whose_address_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """The configured one before the environment's; Ray's word for a cluster of one's own is
    heeded, and without any address there is one, too."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    assert [cluster_address(a) for a in (None, "local", "auto", "h:1")] == [
        None, None, "auto", "h:1",
    ]  # fmt: skip
    monkeypatch.setenv("RAY_ADDRESS", "head:6379")
    assert [cluster_address(a) for a in (None, "local", "auto", "h:1")] == [
        "head:6379", None, "head:6379", "h:1",
    ]  # fmt: skip
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert cluster_address(None) is None


@pytest.mark.slow
@pytest.mark.parametrize("dead", ["silent"], indirect=True)
def test_a_run_says_it_in_one_line(dead: str, tmp_path: Path) -> None:
    """Exit code 2, on stderr nothing else but what a slow machine waited for, and no actor was
    started."""
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "train", "configs/shapes.yaml", f"root={tmp_path}",
         f"cluster.start_timeout_s={LIMIT_S}"],
        cwd=ROOT, env=os.environ | {"RAY_ADDRESS": dead}, capture_output=True, text=True,
        timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    said = [line for line in done.stderr.splitlines() if not line.endswith("(5 s so far)")]
    assert said == [
        f"eg-grpo: RAY_ADDRESS: cannot start or reach Ray ({dead}): no answer within 2 s"
    ]


def private(monkeypatch: pytest.MonkeyPatch, start: Callable[..., None]) -> None:
    """A private cluster that ``start`` starts, and handler and mask of SIGTERM as before it."""
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr("ray.init", start)
    monkeypatch.setattr("ray.shutdown", lambda: None)
    before = signal.getsignal(signal.SIGTERM)
    try:
        with ray_cluster():
            pass
    finally:
        assert signal.getsignal(signal.SIGTERM) is before
        assert signal.SIGTERM not in signal.pthread_sigmask(signal.SIG_BLOCK, ())


def test_a_private_cluster_that_does_not_start_is_said_to_be_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No address was given, so none is to blame."""

    def slow(**settings: object) -> None:
        raise Exception("the node\nwas slow")

    with pytest.raises(
        UserError,
        match=r"^cluster\.address: cannot .* Ray \(a private cluster\): the node was slow$",
    ):
        private(monkeypatch, slow)


def test_a_private_cluster_that_is_slow_to_start_gets_a_second_attempt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the first attempt has started is ended before the second one begins."""
    started: list[subprocess.Popen[bytes]] = []

    def slow_once(**settings: object) -> None:
        if started:
            assert started[0].wait(60) == -signal.SIGKILL
            return
        started.append(subprocess.Popen(["sleep", "60"]))
        raise Exception("The current node timed out during startup.")

    private(monkeypatch, slow_once)
    assert len(started) == 1


def test_sigterm_while_ray_starts_is_heard_and_no_child_hears_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Ray's own handler, which it installs first of all, would end the run without a word; a
    process that is started meanwhile has the signal blocked for good."""

    def starting(**settings: object) -> None:
        signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(number))
        masked = "import signal; print(signal.SIGTERM in signal.pthread_sigmask(0, ()))"
        child = subprocess.run(
            [sys.executable, "-c", masked], stdout=subprocess.PIPE, text=True, check=True
        )
        assert child.stdout == "True\n"
        os.kill(os.getpid(), signal.SIGTERM)
        for _ in range(600):  # as Ray waits for its node
            time.sleep(0.1)
        pytest.fail("the signal was not heard")

    with pytest.raises(KeyboardInterrupt):
        private(monkeypatch, starting)


@pytest.mark.slow
@pytest.mark.cluster
def test_a_living_cluster_is_reached_with_its_token_alone(ray_cluster: None) -> None:
    """The check lets a right address pass, and says that a wrong token is refused."""
    address = ray.get_runtime_context().gcs_address
    for token, expected in ((os.environ["RAY_AUTH_TOKEN"], "CPUs 8"), ("0" * 64, "cannot start")):
        done = subprocess.run(
            [sys.executable, "-c", CONNECT, address], cwd=ROOT, capture_output=True, text=True,
            env=os.environ | {"RAY_AUTH_TOKEN": token}, timeout=300, check=False,
        )  # fmt: skip
        (line,) = done.stdout.splitlines()
        assert expected in line, (line, done.stderr)
        assert token == os.environ["RAY_AUTH_TOKEN"] or f"({address}): " in line
