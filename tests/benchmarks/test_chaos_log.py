"""What benchmarks.chaos reads from logs, titles and sockets, and the table that it makes of it."""

from __future__ import annotations

import os
import socket

from benchmarks.chaos.log_checks import checksums, wrongly_counted, wrongly_served
from benchmarks.chaos.plan import Fault
from benchmarks.chaos.processes import Process, described, listened_on, listening_sockets
from benchmarks.chaos.report import duration, table
from benchmarks.chaos.run_state import run_states
from benchmarks.chaos.strikes import Strike

NOW = "2026-11-27 08:00:00,000"
LOG = [
    f"{NOW} INFO weight version 0: checksum aa",
    f"{NOW} INFO rollout worker 0 serves weight version 0: checksum aa",
    f"{NOW} INFO weight version 1: checksum bb",
    f"{NOW} WARNING rollout worker 0 died: process 1 on host: killed; it is replaced",
    f"{NOW} INFO rollout worker 0 (process 2) serves weight version 1: checksum bb",
]


def test_weights_that_are_the_learners_are_no_problem() -> None:
    """Two versions, each served with the checksum under which it was published."""
    assert wrongly_served(LOG, max_staleness=0) == []
    assert checksums(LOG) == {0: "aa", 1: "bb"}


def test_a_worker_with_other_weights_is_found() -> None:
    """The checksum of version 0 under the name of version 1, and a version nobody has published."""
    other = [*LOG, f"{NOW} INFO rollout worker 1 serves weight version 1: checksum aa"]
    assert wrongly_served(other, 0) == ["rollout worker 1 served version 1 with checksum aa"]
    early = [f"{NOW} INFO rollout worker 1 serves weight version 2: checksum cc", *LOG]
    assert len(wrongly_served(early, 0)) == 1


def test_a_log_without_weights_is_found() -> None:
    """A check that reads nothing would find nothing."""
    assert wrongly_served(LOG[:1], 0) == [
        "the log names no rollout worker that served a weight version"
    ]


def test_a_version_that_is_made_again_differs_only_above_staleness_0() -> None:
    """After a fall back, staleness 0 promises the same weights; staleness 1 does not."""
    again = [*LOG, f"{NOW} INFO weight version 1: checksum dd"]
    assert wrongly_served(again, 0) == ["version 1 was made again with checksum dd"]
    assert wrongly_served(again, 1) == []


def test_counters_are_those_of_the_log() -> None:
    """One lost rollout worker is logged. A driver that died may not have counted it."""
    assert wrongly_counted(LOG, {"lost/rollout": 1}, deaths=0) == []
    assert wrongly_counted(LOG, {}, deaths=1) == []
    assert wrongly_counted(LOG, {}, deaths=0) == [
        "the ledger counts lost/rollout = 0, the log has 1"
    ]
    assert len(wrongly_counted(LOG, {"lost/rollout": 2, "lost/learner": 1}, deaths=9)) == 2


def test_what_a_run_is_doing_is_read_from_the_titles_of_all_its_workers() -> None:
    """The state that lasts shortest comes first. Without a learner there is one that starts."""
    learning, idle = title("LearnerWorker.update"), title("LearnerWorker")
    sampling = title("RolloutWorker.generate_groups")
    assert run_states([idle]) == ["idle"]
    assert run_states([sampling, learning]) == ["learning", "sampling"]
    assert run_states([title("LearnerWorker.push_buckets")]) == ["push"]
    assert run_states([idle, title("RolloutWorker.load_weights")]) == ["load"]
    assert run_states([sampling]) == ["starting", "sampling"]


def test_a_port_that_is_listened_on_is_found() -> None:
    """The socket of this process is there until it is closed, and no other process holds it."""
    own, parent = described_self()
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = f"{server.getsockname()[1]:04X}"
        (inode,) = [i for i, where in listened_on([own]).items() if where.endswith(f":{port}")]
        assert inode not in listened_on([parent])
    assert inode not in listening_sockets()


def test_the_table_has_a_line_for_each_kind_and_one_for_all() -> None:
    """Median and longest of the times; a minute of work with 20 s of recovery loses a quarter."""
    strikes = [
        Strike(fault("rollout", "kill"), "sampling", 0.0, 1, 0.5, 10.0),
        Strike(fault("rollout", "kill"), "load", 0.0, 2, None, 30.0),
        Strike(fault("redis", "freeze"), "commit", 0.0, 3, 15.0, 20.0),
    ]
    assert table(strikes).splitlines()[2:] == [
        "| freeze redis | 1 | commit 1 | 15.0 (15.0) | 20.0 (20.0) | 25% |",
        "| kill rollout | 2 | load 1, sampling 1 | 0.5 (0.5), 1 unknown | 20.0 (30.0) | 25% |",
        "| all | 3 | commit 1, load 1, sampling 1 | 7.8 (15.0), 1 unknown | 20.0 (30.0) | 25% |",
    ]
    assert duration(3, struck_s=120.0, calm_s=90.0) == (
        "3 faults in 120 s, one in 40 s. The same steps without faults: 90 s. Time lost: 25%.\n"
    )


def title(words: str) -> Process:
    """A worker with this title."""
    return Process(1, 1, "S", f"ray::{words}")


def fault(role: str, how: str) -> Fault:
    """A fault of this kind."""
    return Fault(0, 1.0, role, how, 0.5, None, None)  # type: ignore[arg-type]


def described_self() -> tuple[Process, Process]:
    """This process and its parent."""
    own, parent = described(os.getpid()), described(os.getppid())
    assert own is not None
    assert parent is not None
    return own, parent
