"""Reward pools on a real cluster: faults injected on purpose, and what is left of the scores."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest
import ray
import redis

from orchestrator.workers.failures import WorkerFailed
from policy.errors import UserError
from policy.types import RewardFailure, Score
from rewards.config import CacheConfig, RuntimeEnvironment
from rewards.scored_group import ScoredGroup
from rewards.worker import NO_CACHE, start_reward_worker
from tests.faulty_rewards import brightness, share
from tests.redis_server import redis_server
from tests.started_pools import (
    Started,
    groups_of,
    reward,
    reward_pools,
    scores_of,
    take_scored,
    take_turns,
)

pytestmark = [pytest.mark.cluster, pytest.mark.slow]


def details(scored: Sequence[ScoredGroup], part: str) -> list[float]:
    """One value of each group's first trajectory."""
    first = [group.results["light"][0] for group in scored]
    return [result.detail[part] for result in first if isinstance(result, Score) and result.detail]


def test_faults_leave_the_scores_of_survivors_as_they_were(start: Started, tmp_path: Path) -> None:
    """5 % of calls fail, 1 % of images are NaN, a worker is killed mid-batch and another hangs.

    Every trajectory has one result: its own fault-free score, or the failure of its NaN. So the
    mean over survivors is the fault-free mean of the same trajectories.
    """
    values = [[4 * place + index for index in range(4)] for place in range(60)]
    groups, refs = groups_of(values)
    options = dict(folder=str(tmp_path), transient=0.05, nan=0.01, kill_at=50, hang_at=130)
    pools = start(reward("Faulty", options=options, workers=2, batch_size=4, timeout_s=10.0))
    scored = scores_of(pools, refs)
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
    assert usage.restarts == len(pools.take_failures()) == 2
    assert list(pools.states) == ["reward worker light/0", "reward worker light/1"]
    transient = sum(share(g.trajectories[0].image, "busy") < 0.05 for g in groups)
    assert transient > 0
    assert usage.retries == 2 + transient


def test_a_slow_reward_does_not_hold_back_another(start: Started, tmp_path: Path) -> None:
    """The slow one answers nothing until the fast one has scored all its batches."""
    _, refs = groups_of([[1, 2], [3, 4], [5, 6]])
    slow = reward("WaitsFor", "slow", options=dict(folder=str(tmp_path), files=3), batch_size=2)
    fast = reward("Marks", "fast", options=dict(folder=str(tmp_path)), batch_size=2)
    scored = scores_of(start(slow, fast), refs)
    assert [group.totals for group in scored] == [(2.0, 4.0), (6.0, 8.0), (10.0, 12.0)]


def test_transient_failures_end_as_failures_and_never_as_a_number(start: Started) -> None:
    """After the retries, with the last reason."""
    _, refs = groups_of([[1, 2]])
    pools = start(reward("Busy", retries=2))
    (scored,) = scores_of(pools, refs)
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
    round = pool.begin([1])
    round.add(0, refs[0])
    pool.advance()
    pool.receive(pool.calls[0])
    assert (round.result(0), pool.usage.restarts) == (None, 0)
    time.sleep(0.5)
    pool.advance()
    assert round.result(0) == (RewardFailure("no answer within 0.5 s", transient=True),)
    assert pool.usage.restarts == 1


def test_a_batch_that_kills_its_workers_fails_and_one_that_always_does_stops_the_run(
    start: Started,
) -> None:
    """Both bounds: two attempts at a batch, and two replacements without a score in between."""
    _, refs = groups_of([[1], [2]])
    pools = start(reward("Deadly", retries=0, restarts=2))
    (scored,) = scores_of(pools, refs[:1])
    assert scored.results["light"] == (RewardFailure("its worker died", transient=True),)
    scores_of(pools, refs[1:])
    with pytest.raises(
        WorkerFailed,
        match=r"reward worker light/0 died: .*; it was the last of 3 losses of workers of reward"
        r" light in a row with nothing scored in between$",
    ):
        scores_of(pools, refs[:1])


def test_a_worker_that_cannot_come_back_does_not_end_what_the_others_go_on_with(
    start: Started,
) -> None:
    """Nobody has room for the second of two workers any more, and two losses in a row are allowed.
    The first one scores everything, while the second is tried more often than that."""
    _, refs = groups_of([[1], [2]])
    pools = start(reward("Square", workers=2, batch_size=1, restarts=2))
    pool = pools.pools["light"]
    pool._start_timeout_s = 2.0
    large = pool.config.model_copy(update={"cpus_per_worker": 1000})
    pool._start_worker = lambda name: start_reward_worker(large, NO_CACHE)
    ray.kill(pool.workers[1])
    while pool.usage.restarts < 4:
        scored = scores_of(pools, refs)
        assert [group.totals for group in scored] == [(1.0,), (4.0,)]


def test_work_is_dealt_out_by_position_and_a_worker_has_variables_of_its_own(
    start: Started,
) -> None:
    """Four groups over two workers: 0 and 2 in one process, 1 and 3 in the other, every time."""
    _, refs = groups_of([[1], [2], [3], [4]])
    environment = RuntimeEnvironment(env_vars={"SCALE": "0.25"})
    pools = start(reward("Brightness", workers=2, batch_size=1, runtime_env=environment))
    first, second = scores_of(pools, refs), scores_of(pools, refs)
    pids = details(first, "pid")
    assert pids[0] == pids[2] != pids[1] == pids[3]
    assert details(second, "pid") == pids
    assert details(first, "scale") == [0.25] * 4


def test_groups_are_scored_as_they_come(start: Started) -> None:
    """The second group is sampled only after the first was scored: one does not wait for all."""
    _, (first, second) = groups_of([[1], [2]])
    pools = start(reward("Square", batch_size=1))
    pools.begin("step", [first.prompt, second.prompt], 1)
    for place, group, total in ((0, first, 1.0), (1, second, 4.0)):
        pools.add("step", place, group)
        assert [scored.totals for scored in take_scored(pools, 1)] == [(total,)]
    assert pools.take_usage()["light"].batch_sizes == [1, 1]


def test_a_group_waits_for_the_others_of_its_batch(start: Started) -> None:
    """Of two groups that one batch holds the second comes first: nothing is scored before the
    first is there, too. All at once are cut by size."""
    _, (first, second) = groups_of([[1], [2]])
    pools = start(reward("Square", batch_size=2))
    pools.begin("step", [first.prompt, second.prompt], 1)
    pools.add("step", 1, second)
    pools.advance()
    assert pools.calls == []
    pools.add("step", 0, first)
    assert [scored.totals for scored in take_scored(pools, 2)] == [(1.0,), (4.0,)]
    assert pools.take_usage()["light"].batch_sizes == [2]
    scores_of(pools, groups_of([[1], [2], [3], [4], [5]])[1])
    assert pools.take_usage()["light"].batch_sizes == [2, 2, 1]


def test_a_round_broken_off_gives_nothing_to_the_next(start: Started, tmp_path: Path) -> None:
    """Of four groups one is not sampled, one is being scored and two are queued. The next round
    has its own result alone, and its own work: the late answer is no part of it."""
    _, refs = groups_of([[1], [2], [3], [4]])
    options = dict(folder=str(tmp_path), files=1)
    pools = start(reward("WaitsFor", options=options, batch_size=1))
    pools.begin("broken off", [group.prompt for group in refs], 1)
    for place, group in enumerate(refs[:3]):
        pools.add("broken off", place, group)
    pools.advance()
    (late,) = pools.calls
    pools.end("broken off")
    (tmp_path / "now").touch()
    take_turns(pools, lambda: late not in pools.calls)
    assert [scored.totals for scored in scores_of(pools, groups_of([[70, 80]])[1])] == [(70, 80)]
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
    assert [group.totals for group in scores_of(start(*rewards), refs)] == [(6.0,)]


def test_redis_holds_the_scores_of_rounds_that_are_remembered(
    start: Started, tmp_path: Path
) -> None:
    """A round that is not remembered does not even connect. Of two remembered rounds of the same
    images, the first leaves a key for each image, and the second finds them all."""
    _, refs = groups_of([[1, 2], [3, 4]])
    with redis_server(tmp_path) as url:
        pools = start(reward("Square"), cache=CacheConfig(redis_url=url))
        client = redis.Redis.from_url(url)
        connections = client.info("stats")["total_connections_received"]
        scores_of(pools, refs)
        assert client.info("stats")["total_connections_received"] == connections
        assert client.dbsize() == 0
        pools.take_usage()
        for keys, hits in ((4, 0), (4, 4)):
            scores_of(pools, refs, remember=True)
            used = pools.take_usage()["light"]
            assert (client.dbsize(), used.cache_hits, used.cache_misses) == (keys, hits, 4 - hits)


def test_a_reward_that_cannot_be_built_is_one_line(start: Started) -> None:
    """What its constructor says, before anything is scored."""
    with pytest.raises(
        UserError, match=r"reward 'light': options do not fit tests.faulty_rewards:Busy"
    ):
        start(reward("Busy", options={"patience": 1}))


def test_workers_join_and_leave_while_rounds_go_on(start: Started, tmp_path: Path) -> None:
    """From one worker to three while it scores, and back to one while all score. The batches stay
    those of the settings, nothing is retried, and every group is scored once."""
    options = dict(folder=str(tmp_path), files=1)
    pools = start(reward("WaitsFor", options=options, batch_size=1))
    pool = pools.pools["light"]
    _, refs = groups_of([[10 * place] for place in range(9)])
    pools.begin("all", [group.prompt for group in refs], size=1)
    for place, group in enumerate(refs):
        pools.add("all", place, group)
    pools.advance()
    assert (pool.queued, pool.joined) == (8, 1)
    pool.resize(3)
    assert (pool.size, pool.joined, pool.settled) == (3, 1, False)
    take_turns(pools, lambda: pool.settled)
    pools.advance()
    assert (pool.joined, pool.queued) == (3, 6)
    pool.resize(1)  # the two that leave have a batch each
    assert (pool.size, list(pool.states.values())) == (1, ["scoring"] * 3)
    (tmp_path / "go").touch()
    scored = take_scored(pools, 9)
    assert [group.totals for group in scored] == [(10.0 * place,) for place in range(9)]
    assert list(pools.states) == ["reward worker light/0"]
    usage = pools.take_usage()["light"]
    assert (usage.retries, usage.restarts, len(usage.batch_sizes)) == (0, 0, 9)


def test_a_worker_that_dies_before_it_is_ready_does_not_join(start: Started) -> None:
    """The pool says why and goes on. An idle worker leaves at once."""
    pools = start(reward("Brightness"))
    pool = pools.pools["light"]
    pool.resize(2)
    ray.kill(pool.workers[1])
    take_turns(pools, lambda: pool.settled)
    assert pool.size == 1
    (reason,) = pool.take_failed_starts()
    assert reason.startswith("reward worker light/1 died")
    assert len(pools.take_failures()) == 1
    assert pools.take_usage()["light"].restarts == 0
    pool.resize(3)
    pool.resize(1)
    assert (list(pool.states), pool.settled) == (["reward worker light/0"], True)


def test_a_worker_that_dies_while_it_loads_is_counted(ray_cluster: None) -> None:
    """Its loss is one of the run's, as if it had died later."""
    pools = reward_pools(reward("Square", workers=2))
    ray.kill(pools.pools["light"].workers[0])
    try:
        pools.wait_ready()
        _, refs = groups_of([[1], [2]])
        assert [group.totals for group in scores_of(pools, refs)] == [(1.0,), (4.0,)]
        assert pools.take_usage()["light"].restarts == 1
        (failure,) = pools.take_failures()
        assert failure.startswith("reward worker light/0 died: ")
    finally:
        pools.close()
