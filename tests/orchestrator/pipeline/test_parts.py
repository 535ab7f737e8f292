"""The small parts of the pipeline, each by plain calls."""

from __future__ import annotations

import logging
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from learner.algorithm.advantages import group_advantages, has_variance
from orchestrator.pipeline.alarms import WINDOW, Alarms
from orchestrator.pipeline.interrupt import graceful_interrupt
from orchestrator.pipeline.opening import _announce
from orchestrator.pipeline.order import derived_seed, step_prompts
from orchestrator.pipeline.step_row import reward_metrics, scoring_metrics, spreads, without_nan
from orchestrator.record.progress import Progress, duration
from orchestrator.record.run_log import logged_to
from orchestrator.settings.run_config import load_config
from orchestrator.workers.reward_pool import Usage
from policy.types import Prompt, RewardFailure, Score
from rewards.config import RewardConfig
from rewards.scored_group import ScoredGroup, values_by_reward
from rewards.totals import TrainingTotals, training_totals, weighted_totals
from tests.training_records import check_keys

PROMPTS = [Prompt(id=f"p:{index}", text=str(index), task_type="color") for index in range(5)]
HEALTHY = {"groups/trained": 2, "groups/failed": 0, "groups/zero_variance": 0, "grad_norm": 0.1}


def test_two_runs_of_one_process_log_apart(tmp_path: Path) -> None:
    """A log file hears nothing after its run, nor does it stay open."""
    log = logging.getLogger("eg_grpo")
    handlers = list(log.handlers)
    for name in ("one", "two"):
        with logged_to(tmp_path / name):
            log.info("of run %s", name)
    for name in ("one", "two"):
        (line,) = (tmp_path / name).read_text().splitlines()
        assert line.endswith(f"of run {name}")
    assert log.handlers == handlers


def test_a_run_says_its_batch_and_that_its_bonus_distils_guidance(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Each in a line after the run folder, the second only where it does."""
    for guidance, lines in ((1, 2), (2, 3)):
        config = load_config(Path("shapes"), [f"rollout.guidance_scale={guidance}"])
        _announce(Progress(1), config, leaks=0)
        assert len(said := capsys.readouterr().err.splitlines()) == lines
    assert said[1].startswith("16 prompts x 8 = 128 trajectories a step, over 1 rank in up to 4")
    assert said[2].startswith("images are drawn at guidance 2 and the conditional distribution")


def test_a_run_says_that_it_has_more_workers_than_groups(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A step of 16 prompts has work for 16 workers, and with the next step's beside it for 32."""
    for workers, staleness, said in ((16, 0, False), (20, 0, True), (32, 1, False), (36, 1, True)):
        settings = [f"rollout.workers={workers}", f"max_staleness={staleness}"]
        _announce(Progress(1), load_config(Path("shapes"), settings), leaks=0)
        line = f"4 of {workers} rollout workers have nothing to draw in a step: "
        assert (line in capsys.readouterr().err) is said


def test_every_epoch_visits_every_prompt_once() -> None:
    """Batches of 2 over 5 prompts: ten batches are four epochs, each a permutation."""
    flat = [p.id for step in range(10) for p in step_prompts(PROMPTS, 2, seed=3, step=step)]
    epochs = [flat[start : start + 5] for start in range(0, 20, 5)]
    assert all(sorted(epoch) == sorted(p.id for p in PROMPTS) for epoch in epochs)
    assert epochs[0] != epochs[1]


def test_batches_depend_on_seed_and_step_only() -> None:
    """A resumed run computes the batch of step 7 without having seen steps 0..6."""
    assert step_prompts(PROMPTS, 2, 3, 7) == step_prompts(PROMPTS, 2, 3, 7)
    assert derived_seed("a", 1) != derived_seed("a", 2)
    assert 0 <= derived_seed("a", 1) < 2**63


def test_alarms_name_what_stays_silent() -> None:
    """Zero gradient, zero variance everywhere, dropped groups, flips, cut CoTs, and nothing when
    healthy."""
    assert Alarms().check(HEALTHY, {}) == []
    assert "gradient is exactly zero" in Alarms().check(HEALTHY | {"grad_norm": 0.0}, {})[0]
    assert "zero reward variance" in Alarms().check(HEALTHY | {"groups/zero_variance": 2}, {})[0]
    assert "3 groups dropped" in Alarms().check(HEALTHY | {"groups/failed": 3}, {})[0]
    assert Alarms().check(HEALTHY | {"cot_length/capped": 0.5}, {}) == []
    (cut,) = Alarms().check(HEALTHY | {"cot_length/capped": 0.75}, {})
    assert cut == "rollout.max_cot_tokens cuts 75% of the CoTs"
    assert "reverses 25%" in Alarms().check(HEALTHY | {"bonus/flip_share": 0.25}, {})[0]


def test_a_constant_reward_is_noticed_after_a_window() -> None:
    """Equal within every step and over the window: alarm; one other value ends it."""
    alarms = Alarms()
    found = [alarms.check(HEALTHY, {"hps": (0.5, 0.5)}) for _ in range(WINDOW)]
    assert found[:-1] == [[]] * (WINDOW - 1)
    assert "reward hps has been 0.5 for 5 steps" in found[-1][0]
    assert alarms.check(HEALTHY, {"hps": (0.5, 0.6)}) == []


def test_failed_rewards_count_nowhere_but_as_failures() -> None:
    """A failure never enters a mean as 0, and a dropped group enters none at all."""
    scored = [
        ScoredGroup(
            PROMPTS[0],
            (1.0, None, 0.0),
            {"a": (Score(1.0, {"strict": 1.0}), RewardFailure("broken image"), Score(0.0))},
        ),
        ScoredGroup(PROMPTS[1], (0.5,) * 3, {"a": (Score(0.5),) * 3}),
    ]
    failures = (RewardFailure("broken image"), RewardFailure("no answer"), Score(9.0))
    dropped = [ScoredGroup(PROMPTS[2], (None, None, 9.0), {"a": failures})]
    row = reward_metrics(scored, [[1.0, None, -1.0], [0.0] * 3], dropped)
    check_keys(row)
    assert row["reward/mean"] == pytest.approx(0.5)
    assert row["reward/a"] == pytest.approx(0.5)
    assert row["reward_std/a"] == pytest.approx(math.sqrt(0.5 / 4))
    assert row["detail/a/strict"] == 1.0
    assert (row["groups/trained"], row["groups/failed"], row["groups/zero_variance"]) == (2, 1, 1)
    assert (row["rewards/failed"], row["scoring/a/failed"]) == (3, 3)
    assert row["rewards/failure_reasons"] == {"a: broken image": 2, "a: no answer": 1}
    assert spreads(values_by_reward(scored)) == {"a": (0.0, 1.0)}


def test_what_a_reward_does_not_judge_is_in_the_sum_alone() -> None:
    """The paper's 0 for a task of another reward says nothing about the images."""
    results = {"git": (Score(0.5), Score(0.0, applicable=False))}
    group = ScoredGroup(PROMPTS[0], (0.5, 0.0), results)
    row = reward_metrics([group], [[1.0, -1.0]], [])
    assert (row["reward/git"], row["reward/mean"]) == (0.5, 0.25)
    assert spreads(values_by_reward([group])) == {"git": (0.5, 0.5)}


def test_the_work_of_a_pool_is_told_per_call() -> None:
    """Means over calls of the reward; nothing done is null, not 0."""
    used = Usage([4, 2], [0.5, 0.1], cache_hits=3, cache_misses=6, retries=1, restarts=2)
    row = scoring_metrics({"a": used, "b": Usage()})
    check_keys(row)
    assert row["scoring/a/batch_size"] == 3
    assert row["seconds/scoring/a/mean"] == pytest.approx(0.3)
    assert row["seconds/scoring/a/max"] == 0.5
    assert row["scoring/a/cache_hit_rate"] == pytest.approx(1 / 3)
    assert (row["scoring/a/retries"], row["scoring/a/restarts"]) == (1, 2)
    assert row["scoring/b/batch_size"] is row["scoring/b/cache_hit_rate"] is None
    assert row["seconds/scoring/b/max"] is None


def test_a_normalised_reward_trains_on_its_z_score() -> None:
    """Over all groups: [1, 3, failed] and [5] are z-scored to -1, 0 and 1; the totals stay."""
    scored = [
        ScoredGroup(
            PROMPTS[0],
            (11.0, 13.0, None),
            {
                "a": (Score(1.0), Score(3.0), RewardFailure("late")),
                "b": (Score(10.0), Score(10.0), Score(20.0)),
            },
        ),
        ScoredGroup(PROMPTS[1], (35.0,), {"a": (Score(5.0),), "b": (Score(30.0),)}),
    ]
    plain = [RewardConfig(name=name, factory="m:C", weight=1.0) for name in "ab"]
    assert [totals.values for totals in training_totals(scored, plain)] == [
        group.totals for group in scored
    ]
    normalised = [plain[0].model_copy(update={"normalise": True, "weight": 2.0}), plain[1]]
    assert training_totals(scored, normalised) == [
        TrainingTotals((8.0, 10.0, None), size=10.0),
        TrainingTotals((32.0,), size=30.0),
    ]


def test_rounding_of_large_parts_is_not_a_difference_of_their_sum() -> None:
    """Rewards of 1000 and of 1000 one float32 unit higher, less one of 1000: the total is noise of
    6e-5. So is the z-score of 1000s in a batch that spreads by 1: other groups do vary. A reward
    of 0.28 that really differs by 0.01 is seen beside neither."""
    above = float(np.nextafter(np.float32(1000.0), np.float32(2000.0)))
    noisy = (Score(1000.0), Score(above))

    def group(a: tuple[Score, ...], b: tuple[Score, ...]) -> ScoredGroup:
        totals = weighted_totals({"a": a, "b": b}, {"a": 1.0, "b": -1.0})
        return ScoredGroup(PROMPTS[0], tuple(totals), {"a": a, "b": b})

    differing = (Score(0.28), Score(0.29))
    scored = [
        group(noisy, (Score(1000.0),) * 2),
        group(noisy, differing),
        group((Score(1002.0), Score(998.0)), (Score(1000.0),) * 2),
    ]
    weighted = [
        RewardConfig(name="a", factory="m:C", weight=1.0),
        RewardConfig(name="b", factory="m:C", weight=-1.0),
    ]
    for normalise in (False, True):
        configs = [weighted[0].model_copy(update={"normalise": normalise}), weighted[1]]
        varied = [
            has_variance(group_advantages(totals.values, 2, totals.size) or [])
            for totals in training_totals(scored, configs)
        ]
        assert varied == [False, True, True]


def test_huge_rewards_have_a_mean_and_a_deviation() -> None:
    """1e308 is a float64, and so is the mean of many; a deviation beyond the range, that of the two
    ends, is null in the row, which JSON could not hold otherwise."""
    huge = 1.5e308
    scored = [
        ScoredGroup(PROMPTS[0], (value,) * 2, {"a": (Score(value),) * 2}) for value in (huge, -huge)
    ]
    row = without_nan(reward_metrics(scored[:1], [(0.0, 0.0)]))
    assert (row["reward/mean"], row["reward/std"], row["reward/a"]) == (huge, 0.0, huge)
    row = without_nan(reward_metrics(scored, [(0.0, 0.0)] * 2))
    assert row["reward/mean"] == 0.0
    assert row["reward/std"] == pytest.approx(huge * (2 / 3**0.5), rel=1e-12)
    ends = [ScoredGroup(PROMPTS[0], (1.7e308, -1.7e308), {"a": ()})]
    assert without_nan(reward_metrics(ends, [(1.0, -1.0)]))["reward/std"] is None


def test_a_reward_that_moves_by_rounding_never_varies() -> None:
    """Five steps of 0.7 to the next float32: the alarm of a constant reward goes off."""
    above = float(np.nextafter(np.float32(0.7), np.float32(1.0)))
    alarms = Alarms()
    spread = {"git": (float(np.float32(0.7)), above)}
    found = [alarms.check(HEALTHY, spread) for _ in range(5)]
    assert found[:4] == [[]] * 4
    assert "never varies" in found[4][0]


def test_the_first_signal_asks_and_the_second_stops() -> None:
    """In a step one SIGINT lets it finish and two raise KeyboardInterrupt; handlers come back."""
    before = signal.getsignal(signal.SIGINT)
    with graceful_interrupt() as interrupt:
        interrupt.stepping = True
        os.kill(os.getpid(), signal.SIGINT)
        assert interrupt.requested
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_while_starting_the_first_signal_stops(number: signal.Signals) -> None:
    """Nothing would be lost, and models may take minutes to load."""
    with graceful_interrupt() as interrupt:
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), number)
        assert not interrupt.requested


def test_a_signal_in_a_destructor_stops_all_the_same(capfd: pytest.CaptureFixture[str]) -> None:
    """Ray's handles have one. Python drops what it raises; here it drops the next try as well."""
    done: list[str] = []

    class Handle:
        def __init__(self, act: Callable[[], None]) -> None:
            self.act = act

        def __del__(self) -> None:
            self.act()
            done.append("acted")

    def interrupted() -> None:
        with graceful_interrupt():
            Handle(lambda: os.kill(os.getpid(), signal.SIGINT))
            Handle(lambda: time.sleep(1.0))
            time.sleep(30)

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert done == []
    assert capfd.readouterr().err == ""


def test_the_echo_of_a_sigterm_does_not_break_the_teardown_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While starting the first one ends at once; what comes within a second is the same one, and
    does not meet the old handler, which would end this process."""
    waited: list[float] = []

    def sleep(seconds: float) -> None:  # what comes meanwhile is an echo too
        waited.append(seconds)
        os.kill(os.getpid(), signal.SIGTERM)

    clock = SimpleNamespace(monotonic=lambda: 100.0, sleep=sleep)
    monkeypatch.setattr("orchestrator.pipeline.interrupt.time", clock)
    with graceful_interrupt():
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
    assert waited == [1.0]
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_sigterm_that_comes_twice_is_one_and_a_later_one_stops(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Slurm signals every process of a step, and srun hands its own signal on to them."""
    now = [100.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: None)
    monkeypatch.setattr("orchestrator.pipeline.interrupt.time", clock)
    with graceful_interrupt() as interrupt:
        interrupt.stepping = True
        for _ in range(2):
            os.kill(os.getpid(), signal.SIGTERM)
        assert interrupt.requested
        assert capsys.readouterr().err.count("stopping after this step; send SIGTERM again") == 1
        now[0] += 30
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)


@pytest.mark.parametrize(
    ("seconds", "text"), [(12.4, "12 s"), (185, "3 min 05 s"), (3720, "1 h 02 min")]
)
def test_durations_read_like_a_person_says_them(seconds: float, text: str) -> None:
    """Seconds, minutes and hours."""
    assert duration(seconds) == text


def test_the_repository_has_the_files_it_promises() -> None:
    """Licence and citation are there."""
    root = Path(__file__).parents[3]
    assert "Apache License" in (root / "LICENSE").read_text()
    assert (root / "CITATION.cff").is_file()
