"""Where reward workers run: shares of a GPU, variables and packages of their own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import venv
from pathlib import Path

import pytest
import ray

from orchestrator.workers.failures import WorkerFailed, WorkerLate
from orchestrator.workers.reward_pool import RewardPool
from policy.types import Score
from rewards.config import RuntimeEnvironment
from rewards.worker import NO_CACHE
from tests.faulty_rewards import wait_for_files
from tests.packaged_rewards import write_wheel
from tests.started_pools import Started, groups_of, reward, scores_of

ROOT = Path(__file__).parents[3]

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def free_gpus(expected: float) -> float:
    """What Ray has left, as soon as it is as expected: it tells with a delay."""
    deadline = time.monotonic() + 60
    while (free := ray.available_resources().get("GPU", 0.0)) != expected:
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    return free


def test_two_workers_share_a_gpu_and_a_third_is_refused_in_one_line(start: Started) -> None:
    """Of one GPU, two halves leave 0; both halves see it, and a worker without a share sees none.

    What has no room is said within the deadline: which worker, what it asks for, what is free.
    """
    sees = {"variable": "CUDA_VISIBLE_DEVICES"}
    half = reward("Sees", "half", workers=2, gpus_per_worker=0.5, options=sees | {"value": "0"})
    none = reward("Sees", "none", options=sees | {"value": ""})
    assert free_gpus(1.0) == 1.0
    pools = start(half, none)
    assert free_gpus(0.0) == 0.0
    _, refs = groups_of([[1], [2]])
    scored = scores_of(pools, refs)
    assert [group.totals for group in scored] == [(2.0,), (2.0,)]
    results = [group.results["half"][0] for group in scored]
    details = [result.detail for result in results if isinstance(result, Score) and result.detail]
    assert len({detail["pid"] for detail in details}) == 2
    with pytest.raises(
        WorkerFailed,
        match=r"^reward worker third/0 did not answer within 2 s: it was given no place by Ray"
        r" within 2 s:"
        r" it asks for 0\.1 CPUs and 0\.5 GPUs, of which [\d.]+ and 0 are free$",
    ):
        start(reward("Brightness", "third", gpus_per_worker=0.5), start_timeout_s=2)
    start.end()
    assert free_gpus(1.0) == 1.0


def test_a_worker_that_has_a_place_and_is_slow_is_only_late(start: Started, tmp_path: Path) -> None:
    """Building a model takes longer than the deadline: no word about places."""
    slow = reward("SlowToBuild", options={"folder": str(tmp_path)})
    pool = RewardPool(slow.model_copy(update={"restarts": 0}), NO_CACHE, start_timeout_s=0.5)
    try:
        wait_for_files(str(tmp_path), 1)
        with pytest.raises(
            WorkerLate,
            match=r"^reward worker light/0 did not answer within 0.5 s: process \d+ on .* runs",
        ):
            pool.wait_ready()
    finally:
        pool.close()


def test_each_pool_has_variables_of_its_own(start: Started) -> None:
    """Two pools set one variable to two values, and a third knows nothing of it."""
    environments = {
        "warm": RuntimeEnvironment(env_vars={"PALETTE": "warm"}),
        "cold": RuntimeEnvironment(env_vars={"PALETTE": "cold"}),
        None: RuntimeEnvironment(),
    }
    pools = start(
        *(
            reward("Sees", str(value), options={"variable": "PALETTE", "value": value},
                   runtime_env=environment)
            for value, environment in environments.items()
        )
    )  # fmt: skip
    _, refs = groups_of([[1]])
    (scored,) = scores_of(pools, refs)
    assert scored.totals == (3.0,)


def test_an_answer_that_cannot_be_fetched_holds_back_no_other_reward(tmp_path: Path) -> None:
    """On a real node that is frozen with an answer in its memory: the other reward scores all its
    groups meanwhile, and the answer counts once it comes."""
    with tempfile.TemporaryDirectory(prefix="ray-") as short:  # the path of a socket is limited
        done = subprocess.run(
            [sys.executable, "-m", "tests.frozen_node", tmp_path],
            cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
            env=os.environ | {"RAY_TMPDIR": short},
        )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer == {"held_back": True, "totals": [[2.0], [4.0], [6.0]]}


def light_environment(folder: Path) -> Path:
    """A Python that borrows all packages of this one: Ray copies the environment it runs in."""
    venv.create(folder, with_pip=False, symlinks=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    borrowed = [path for path in sys.path if path.endswith("site-packages")]
    (packages / "borrowed.pth").write_text("\n".join(borrowed))
    return folder / "bin" / "python"


def test_a_pool_has_packages_of_its_own_and_what_cannot_be_installed_is_one_line(
    tmp_path: Path,
) -> None:
    """Its reward lies in a package that the other pool's worker cannot import: 10 x 7 + 0."""
    done = subprocess.run(
        [light_environment(tmp_path / "python"), "-m", "tests.packaged_rewards",
         write_wheel(tmp_path)],
        cwd=ROOT, capture_output=True, text=True, timeout=300, check=False,
        env=os.environ | {"RUNTIME_ENV_RETRY_TIMES": "1"},  # a missing file stays missing
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    assert answer["totals"] == [70.0]
    assert answer["said"].startswith(
        "reward worker refused/0 was not started: its runtime_env cannot be prepared: ERROR: "
    )
    assert "missing-1.0-py3-none-any.whl" in answer["said"]
    assert len(answer["said"].splitlines()) == 1
