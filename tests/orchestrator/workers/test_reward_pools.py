"""Reward pools on a real cluster: faults injected on purpose, and what is left of the scores."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import ray
import redis

from orchestrator.workers.rollout_pool import GroupRef
from orchestrator.workers.waiting import WorkerFailed
from policy.errors import UserError
from policy.types import RewardFailure, Score
from rewards.config import CacheConfig, RuntimeEnvironment
from rewards.scored_group import ScoredGroup
from tests.faulty_rewards import brightness, share
from tests.redis_server import redis_server
from tests.remote_parts import late_group
from tests.started_pools import Started, groups_of, reward

pytestmark = pytest.mark.cluster


def details(scored: Sequence[ScoredGroup], part: str) -> list[float]:
    """One value of each group's first trajectory."""
    first = [group.results["light"][0] for group in scored]
    return [result.detail[part] for result in first if isinstance(result, Score) and result.detail]


@pytest.mark.timeout(120)
def test_faults_leave_the_scores_of_survivors_as_they_were(start: Started, tmp_path: Path) -> None:
    """5 % of calls fail, 1 % of images are NaN, a worker is killed mid-batch and another hangs.

    Every trajectory has one result: its own fault-free score, or the failure of its NaN. So the
    mean over survivors is the fault-free mean of the same trajectories.
    """
    values = [[4 * place + index for index in range(4)] for place in range(60)]
    groups, refs = groups_of(values)
    options = dict(folder=str(tmp_path), transient=0.05, nan=0.01, kill_at=50, hang_at=130)
    pools = start(reward("Faulty", options=options, workers=2, batch_size=4, timeout_s=3.0))
    scored = pools.score(refs)
    images = [t.image for group in groups for t in group.trajectories]
    results = [result for group in scored for result in group.results["light"]]
    broken = [share(image, "broken") < 0.01 for image in images]
    assert 0 < sum(broken) < 10
    assert results == [
        RewardFailure("score is nan") if is_broken else Score(brightness(image))
        for image, is_broken in zip(images, broken, strict=True)
    ]
    assert [None in group.totals for group in scored] == [
        any(broken[4 * place : 4 * place + 4]) for place in range(60)
    ]
    usage = pools.take_usage()["light"]
    assert usage.restarts == 2
    transient = sum(share(g.trajectories[0].image, "busy") < 0.05 for g in groups)
    assert transient > 0
    assert usage.retries == 2 + transient


def test_a_slow_reward_does_not_hold_back_another(start: Started, tmp_path: Path) -> None:
    """The slow one answers nothing until the fast one has scored all its batches."""
    _, refs = groups_of([[1, 2], [3, 4], [5, 6]])
    slow = reward("WaitsFor", "slow", options=dict(folder=str(tmp_path), files=3), batch_size=2)
    fast = reward("Marks", "fast", options=dict(folder=str(tmp_path)), batch_size=2)
    scored = start(slow, fast).score(refs)
    assert [group.totals for group in scored] == [(2.0, 4.0), (6.0, 8.0), (10.0, 12.0)]


def test_transient_failures_end_as_failures_and_never_as_a_number(start: Started) -> None:
    """After the retries, with the last reason."""
    _, refs = groups_of([[1, 2]])
    pools = start(reward("Busy", retries=2))
    (scored,) = pools.score(refs)
    reason = "TransientRewardError: 429 Too Many Requests"
    assert scored.totals == (None, None)
    assert scored.results["light"] == (RewardFailure(reason, transient=True),) * 2
    usage = pools.take_usage()["light"]
    assert (usage.batch_sizes, usage.retries, usage.restarts) == ([2, 2, 2], 2, 0)


def test_an_answer_that_does_not_arrive_replaces_its_worker(start: Started, tmp_path: Path) -> None:
    """Looking for it takes no time, and its call keeps the deadline that it had."""
    _, refs = groups_of([[1]])
    options = dict(folder=str(tmp_path), files=1)
    pools = start(reward("WaitsFor", options=options, timeout_s=0.5, retries=0))
    pool = pools.pools["light"]
    pool.begin(refs)
    pool.add([0], last=True)
    pool.advance()
    pool.receive(pool.calls[0])
    assert (pool.done, pool.usage.restarts) == (False, 0)
    time.sleep(0.5)
    pool.advance()
    assert pool.finish() == [(RewardFailure("no answer within 0.5 s", transient=True),)]
    assert pool.usage.restarts == 1


def test_a_batch_that_kills_its_workers_fails_and_one_that_always_does_stops_the_run(
    start: Started,
) -> None:
    """Both bounds: two attempts at a batch, and two replacements without a score in between."""
    _, refs = groups_of([[1], [2]])
    pools = start(reward("Deadly", retries=0, restarts=2))
    (scored,) = pools.score(refs[:1])
    assert scored.results["light"] == (RewardFailure("its worker died", transient=True),)
    pools.score(refs[1:])
    with pytest.raises(
        WorkerFailed, match=r"reward worker light/0 died: .* 2 times since it last scored"
    ):
        pools.score(refs[:1])


def test_work_is_dealt_out_by_position_and_a_worker_has_variables_of_its_own(
    start: Started,
) -> None:
    """Four groups over two workers: 0 and 2 in one process, 1 and 3 in the other, every time."""
    _, refs = groups_of([[1], [2], [3], [4]])
    environment = RuntimeEnvironment(env_vars={"SCALE": "0.25"})
    pools = start(reward("Brightness", workers=2, batch_size=1, runtime_env=environment))
    first, second = pools.score(refs), pools.score(refs)
    pids = details(first, "pid")
    assert pids[0] == pids[2] != pids[1] == pids[3]
    assert details(second, "pid") == pids
    assert details(first, "scale") == [0.25] * 4


def test_groups_are_scored_as_they_come(start: Started, tmp_path: Path) -> None:
    """The second group is made only after the first was scored: one does not wait for all."""
    (first, second), _ = groups_of([[1], [2]])
    refs = [
        GroupRef(first.prompt, ray.put(first), 1),
        GroupRef(second.prompt, late_group.remote(str(tmp_path), 1, second), 1),
    ]
    settings = dict(options=dict(folder=str(tmp_path)), batch_size=8)
    pools = start(reward("Marks", batch_delay_s=0.0, **settings))
    assert [group.totals for group in pools.score(refs)] == [(1.0,), (2.0,)]
    assert pools.take_usage()["light"].batch_sizes == [1, 1]


def test_a_group_waits_a_little_for_others_to_fill_its_batch(
    start: Started, tmp_path: Path
) -> None:
    """With a long delay and one late group, both are one batch; all at once are cut by size."""
    (first, second), whole = groups_of([[1], [2]])
    refs = [
        GroupRef(first.prompt, ray.put(first), 1),
        GroupRef(second.prompt, late_group.remote(str(tmp_path), 0, second), 1),
    ]
    pools = start(reward("Brightness", batch_delay_s=50.0, batch_size=2))
    pools.score(refs)
    assert pools.take_usage()["light"].batch_sizes == [2]
    pools.score([*whole, *groups_of([[3], [4], [5]])[1]])
    assert pools.take_usage()["light"].batch_sizes == [2, 2, 1]


def test_a_group_that_never_comes_is_named(start: Started, tmp_path: Path) -> None:
    """The wait has a deadline."""
    (group,), _ = groups_of([[1]])
    ref = late_group.remote(str(tmp_path), 1, group)
    pools = start(reward("Brightness"), group_timeout_s=0.5)
    with pytest.raises(WorkerFailed, match=r"prompt p:0: no group within 0.5 s"):
        pools.score([GroupRef(group.prompt, ref, 1)])
    (tmp_path / "now").touch()


def test_a_round_broken_off_gives_nothing_to_the_next(start: Started, tmp_path: Path) -> None:
    """One of four groups never comes; of the others one is being scored, two are queued. The next
    round has its own result alone, and its own work: the late answer is no part of it."""
    scoring, sampling = tmp_path / "scoring", tmp_path / "sampling"
    scoring.mkdir()
    sampling.mkdir()
    (*_, last), refs = groups_of([[1], [2], [3], [4]])
    refs[3] = GroupRef(last.prompt, late_group.remote(str(sampling), 1, last), 1)
    options = dict(folder=str(scoring), files=1)
    settings = dict(options=options, batch_size=1, batch_delay_s=0.0)
    pools = start(reward("WaitsFor", **settings), group_timeout_s=0.5)
    with pytest.raises(WorkerFailed, match=r"prompt p:3: no group within 0.5 s"):
        pools.score(refs)
    (scoring / "now").touch()
    (sampling / "now").touch()
    assert [group.totals for group in pools.score(groups_of([[70, 80]])[1])] == [(70.0, 80.0)]
    # A group of two for batches of one: two calls of the reward.
    assert pools.take_usage()["light"].batch_sizes == [1, 1]


def test_the_rewards_of_all_pools_are_built_at_the_same_time(
    start: Started, tmp_path: Path
) -> None:
    """Each is built only while the other is: one after the other, neither would be."""
    rewards = [
        reward("BuiltTogether", name, options=dict(folder=str(tmp_path), name=name, others=1))
        for name in ("first", "second")
    ]
    _, refs = groups_of([[3]])
    assert [group.totals for group in start(*rewards).score(refs)] == [(6.0,)]


def test_redis_holds_the_scores_of_rounds_that_are_remembered(
    start: Started, tmp_path: Path
) -> None:
    """A round that is not remembered does not even connect. Of two remembered rounds of the same
    images, the first leaves a key for each image, and the second finds them all."""
    _, refs = groups_of([[1, 2], [3]])
    with redis_server(tmp_path) as url:
        pools = start(reward("Square"), cache=CacheConfig(redis_url=url))
        client = redis.Redis.from_url(url)
        connections = client.info("stats")["total_connections_received"]
        pools.score(refs)
        assert client.info("stats")["total_connections_received"] == connections
        assert client.dbsize() == 0
        pools.take_usage()
        for keys, hits in ((3, 0), (3, 3)):
            pools.score(refs, remember=True)
            used = pools.take_usage()["light"]
            assert (client.dbsize(), used.cache_hits, used.cache_misses) == (keys, hits, 3 - hits)


def test_a_reward_that_cannot_be_built_is_one_line(start: Started) -> None:
    """What its constructor says, before anything is scored."""
    with pytest.raises(
        UserError, match=r"reward 'light': options do not fit tests.faulty_rewards:Busy"
    ):
        start(reward("Busy", options={"patience": 1}))
