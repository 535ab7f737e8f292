"""The simulation gives the times that a timeline on paper gives."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from benchmarks import stand_ins
from benchmarks.stand_ins import Sleepers, SleepingPublisher, stand_in_stages
from orchestrator.cli import main
from orchestrator.commands.simulate import measured_seconds, numbers, scenario_of
from orchestrator.pipeline.clock import Clock
from orchestrator.pipeline.simulation import Chance, Outcome, Scenario, Seconds, Simulation
from orchestrator.pipeline.simulation_text import bottleneck, table
from orchestrator.settings.run_config import load_config
from policy.errors import RunFailed, UserError

SHAPES = str(Path(__file__).parents[3] / "configs" / "shapes.yaml")
# One worker samples one batch of one group a step.
ONE = Scenario(
    steps=20,
    groups_per_step=1,
    groups_per_batch=1,
    rollout_workers=1,
    max_rollout_workers=None,
    reward_workers=1,
    max_staleness=0,
    checkpoint_every=5,
    attempts=3,
)
FOUR_ONE = Seconds(rollout=4, reward=0, learn=1, sync=0)


def simulated(seconds: Seconds = FOUR_ONE, chance: Chance | None = None, **changed: int) -> Outcome:
    """The outcome of ``ONE``, with some settings changed."""
    return Simulation(replace(ONE, **changed), seconds, chance).run()


def test_at_staleness_0_the_stages_take_turns() -> None:
    """4 s rollout and 1 s learning are 5 s a step; each stage idles while the other works."""
    assert simulated() == Outcome(
        step_s=5.0,
        run_s=100.0,
        learner_idle=pytest.approx(0.8),
        rollout_idle=pytest.approx(0.2),
        reward_idle=1.0,
        staleness_mean=0.0,
        staleness_max=0,
        repeated_steps=0,
    )


def test_at_staleness_1_the_longest_stage_decides() -> None:
    """Rollout stops only for the last update: 4 s a step. The first step has nothing to overlap
    with: 5 s, and 19 others. Every group but the first is one version old."""
    assert simulated(max_staleness=1) == Outcome(
        step_s=4.0,
        run_s=5.0 + 19 * 4.0,
        learner_idle=pytest.approx(0.75),
        rollout_idle=pytest.approx(1 / (18 * 4)),
        reward_idle=1.0,
        staleness_mean=pytest.approx(19 / 20),
        staleness_max=1,
        repeated_steps=0,
    )
    slow = Seconds(rollout=1, reward=0, learn=4, sync=0)
    learner_bound = simulated(slow, max_staleness=1)
    assert (learner_bound.step_s, learner_bound.learner_idle) == (4.0, 0.0)


def test_scoring_and_loading_have_their_part() -> None:
    """At staleness 0: 2 s load, 4 s rollout, 3 s scoring, 1 s learning. At staleness 1 the worker
    alone decides: it samples for 4 s and loads for 2 s, and has nothing to do in 2 s at the end."""
    seconds = Seconds(rollout=4, reward=3, learn=1, sync=2)
    assert simulated(seconds).step_s == 10.0
    overlapped = simulated(seconds, max_staleness=1)
    assert overlapped.step_s == 6.0
    assert overlapped.rollout_idle == pytest.approx(2 / (18 * 6))


def test_more_workers_and_batches() -> None:
    """Four batches: by one worker 16 s, by two 8 s. One reward worker of 3 s scores them in
    12 s, from the end of the first batch on."""
    assert simulated(groups_per_step=4).step_s == 17.0
    two = {"groups_per_step": 4, "rollout_workers": 2}
    assert simulated(**two).step_s == 9.0
    slow_scoring = Seconds(rollout=4, reward=3, learn=1, sync=0)
    assert simulated(slow_scoring, **two).step_s == 4 + 4 * 3 + 1
    assert simulated(slow_scoring, **two, reward_workers=2).step_s == 8 + 3 + 1


def test_chance_is_seeded() -> None:
    """The same seed gives the same run. Durations of mean 4 s keep their mean."""
    chance = Chance(seed=1, spread=0.3)
    outcome = simulated(chance=chance, steps=2000)
    assert outcome == simulated(chance=chance, steps=2000)
    assert outcome != simulated(chance=Chance(seed=2, spread=0.3), steps=2000)
    assert outcome.step_s == pytest.approx(5.0, rel=0.02)


def test_losses_cost_time_and_steps() -> None:
    """Every role loses workers, and all steps are still trained within the bound of staleness."""
    seconds = Seconds(rollout=4, reward=1, learn=1, sync=0, start=10)
    quiet = simulated(seconds, steps=300, max_staleness=1)
    for role in ("rollout", "reward", "learner"):
        chance = Chance(seed=3, losses={role: 100.0})  # type: ignore[dict-item]
        struck = simulated(seconds, chance, steps=300, max_staleness=1)
        assert struck.run_s > 1.02 * quiet.run_s, role
        assert struck.staleness_max == 1
        assert (struck.repeated_steps > 0) == (role == "learner")
    with pytest.raises(RunFailed, match="with so many losses, step 1 of 20 is not done after"):
        simulated(seconds, Chance(losses={"learner": 0.5}))


def test_measured_seconds_give_the_measured_step_back() -> None:
    """Three batches of two workers: a worker samples two in turn, and one is scored at the end."""
    scenario = replace(ONE, groups_per_step=3, rollout_workers=2)
    row = {"seconds/rollout": 8.0, "seconds/reward": 3.0, "seconds/learn": 2.0, "seconds/sync": 1.0}
    seconds = measured_seconds(Path("runs/a"), scenario, [row, row])
    assert seconds == {"rollout": 4.0, "reward": 3.0, "learn": 2.0, "sync": 1.0}
    assert Simulation(replace(scenario, reward_workers=2), Seconds(**seconds)).run().step_s == 14.0
    with pytest.raises(UserError, match="--from: runs/a has max_staleness 1: its stages overlap"):
        measured_seconds(Path("runs/a"), replace(scenario, max_staleness=1), [row])
    with pytest.raises(UserError, match="no row"):
        measured_seconds(Path("runs/a"), scenario, [])


def test_a_step_is_dealt_for_the_most_workers_that_a_run_may_have() -> None:
    """Two workers of at most four sample a step of four groups in four batches, two each. Then four
    workers are twice as fast, whatever a batch could hold."""
    scenario = replace(ONE, groups_per_step=4, groups_per_batch=4, max_rollout_workers=4)
    two = replace(scenario, rollout_workers=2)
    assert two.batches_per_step == 4
    row = {"seconds/rollout": 8.0, "seconds/reward": 1.0, "seconds/learn": 2.0, "seconds/sync": 1.0}
    seconds = Seconds(**measured_seconds(Path("runs/a"), two, [row]))
    assert seconds.rollout == 4.0
    four = replace(scenario, rollout_workers=4, reward_workers=4)
    assert Simulation(four, replace(seconds, reward=0)).run().step_s == 4 + 2 + 1
    config = load_config(SHAPES, ["rollout.workers=2", "rollout.max_workers=8"])
    assert scenario_of(config).max_rollout_workers == 8
    # Without a bound, a run of fewer workers would be started with these, and be dealt for them.
    found = replace(scenario_of(load_config(SHAPES, ["rollout.workers=3"])), rollout_workers=1)
    assert found.layout.shares == 1


def test_weights_cross_the_link_to_each_host_once_and_in_turns() -> None:
    """2 s to each of two hosts and 1 s to load: the first host's workers wait for 3 s, the second
    host's for 5 s. Of three batches the first worker samples two, unless a third worker does: it is
    on the first host, which has the weights already."""
    seconds = Seconds(rollout=4, reward=0, learn=1, sync=1, fetch=2)
    assert simulated(seconds, groups_per_step=2, rollout_workers=2).step_s == 3 + 4 + 1
    two_hosts = {"groups_per_step": 3, "hosts": 2}
    assert simulated(seconds, **two_hosts, rollout_workers=2).step_s == 3 + 8 + 1
    assert simulated(seconds, **two_hosts, rollout_workers=3).step_s == 5 + 4 + 1


def test_where_the_time_goes() -> None:
    """At staleness 1 two batches of 4 s keep the one worker busy. A second worker leaves 5 s of the
    8 s, in which one reward worker scores both batches and is never idle; others change nothing."""
    scenario = replace(ONE, groups_per_step=2, max_staleness=1, steps=200, hosts=1)
    seconds = Seconds(rollout=4, reward=2.5, learn=1, sync=0)
    lines = bottleneck(scenario, seconds, Chance(), images_per_step=16, ranks=1).splitlines()
    assert lines[:4] == [
        "at        max_staleness 1, 1 rollout and 1 reward workers, 1 learner ranks, 1 hosts",
        "images    2 a second, 16 in a step of 8.00 s",
        "busy      rollout 100%, reward 62%, learner 12%; the busiest is rollout",
        "one more  rollout +60.0%, reward +0.0%, learner +0.0% images a second",
    ]
    assert lines[4].startswith("schedule  ")


class VirtualTime:
    """A clock that the sleep of the stand-ins moves, and a learner that is done at a time."""

    def __init__(self) -> None:
        self.now = 0.0
        self.name = "learn"

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def learn(self, seconds: float) -> VirtualTime:
        self.began, self.done_at = self.now, self.now + seconds
        return self

    @property
    def seconds(self) -> float:
        return self.now - self.began

    @property
    def done(self) -> bool:
        return self.now >= self.done_at

    def wait(self, timeout_s: float) -> None:
        self.now = min(self.done_at, self.now + timeout_s)


@pytest.mark.parametrize("staleness", [0, 1])
def test_it_predicts_the_steps_of_the_real_driver(
    staleness: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The driver of real runs, with its ledger, and workers that sleep in virtual time: two rollout
    workers for five batches a step, and one reward worker. The step times are within 2 %."""
    monkeypatch.chdir(Path(SHAPES).parents[1])
    monkeypatch.delenv("REDIS_URL", raising=False)
    words = (
        f"steps=9 max_staleness={staleness} prompts_per_step=5 rollout.workers=2"
        " rollout.batch_size=8 rollout.group_size=8"
    )
    config, clock = load_config(Path(SHAPES), words.split()), VirtualTime()
    sleepers, publisher = Sleepers(lambda: clock.now, clock.sleep), SleepingPublisher()
    ends = []
    with stand_in_stages(
        config, tmp_path / "run", stand_ins.Seconds(3.0, 1.0, 4.0, 0.5), sleepers
    ) as stages:
        stages.serve(publisher.publish(None, 0), evaluate=False)
        for step in range(9):
            stages.batch(step, Clock())
            background: Any = clock.learn(4.0)
            stages.wait_for(background)
            stages.trained(step)
            stages.serve(publisher.publish(None, step + 1), evaluate=False)
            ends.append(clock.now)
    measured_from = min(staleness + 1, 4)
    measured = (ends[-1] - ends[measured_from - 1]) / (9 - measured_from)
    outcome = Simulation(scenario_of(config), Seconds(3.0, 1.0, 4.0, 0.5)).run()
    assert outcome.step_s == pytest.approx(measured, rel=0.02)


def test_the_table() -> None:
    """One line for each run."""
    assert table([(ONE, simulated())]).splitlines()[1].split() == (
        "1 0 5.00 1 min 40 s 80% 20% 0.00 0 0".split()
    )


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--seconds", "rolout=4"], "--seconds: unknown name 'rolout'; there are rollout, reward"),
        (["--seconds", "rollout=-4"], "--seconds: rollout=-4: not a number of seconds"),
        (["--losses", "rollout=60"], "--losses needs --seconds start=S"),
        (["--rollout", "2,0"], "--rollout: '2,0' is no list"),
        (["--spread", "-1"], "--spread: -1.0 is not 0 or more"),
        (["--seconds", "rollout=4"], "--seconds: learn is missing; give --seconds rollout=S,learn"),
    ],
)
def test_each_mistake_is_one_line(
    capsys: pytest.CaptureFixture[str], flags: list[str], expected: str
) -> None:
    """Exit code 2."""
    assert main(["simulate", SHAPES, *flags]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1


def test_the_command_compares(capsys: pytest.CaptureFixture[str]) -> None:
    """The shapes have 2 batches a step: one for each of two workers, or two for one."""
    flags = ["--seconds", "rollout=4,learn=1", "--rollout", "1,2", "steps=10"]
    assert main(["simulate", SHAPES, *flags]) == 0
    seconds, _, *lines = capsys.readouterr().out.splitlines()
    assert seconds.startswith("seconds  rollout 4 (given), reward 0 (default), learn 1 (given)")
    assert [line.split()[:3] for line in lines[:2]] == [["1", "0", "9.00"], ["1", "1", "8.00"]]
    assert [line.split()[:3] for line in lines[5:7]] == [["2", "0", "5.00"], ["2", "1", "4.00"]]
    assert numbers("rollout=1,sync=2", "--seconds", ("rollout", "sync")) == {
        "rollout": 1.0,
        "sync": 2.0,
    }


def test_a_real_run_is_printed_beside_the_simulation(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One batch for each of two workers: 4 s rollout and 1 s learning are 5 s. The run took
    5.5 s, and 3 s more for an evaluation and a checkpoint, which the simulation leaves out. It also
    leaves out the first step, in which workers warm up."""
    (tmp_path / "config.yaml").write_text(Path(SHAPES).read_text() + "max_staleness: 0\n")
    row = {"seconds/step": 8.5, "seconds/evaluate": 2.0, "seconds/save": 1.0}
    first = json.dumps({"seconds/step": 99.0}) + "\n"
    (tmp_path / "metrics.jsonl").write_text(first)
    flags = ["--seconds", "rollout=4,learn=1", "--against", str(tmp_path), "steps=10"]
    assert main(["simulate", SHAPES, *flags]) == 2
    assert "has no row in metrics.jsonl yet after its first 1" in capsys.readouterr().err
    (tmp_path / "metrics.jsonl").write_text(first + json.dumps(row) + "\n")
    assert main(["simulate", SHAPES, *flags]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == (
        f"against   {tmp_path}: measured 5.50 s a step without evaluation and saving, simulated"
        " 5.00 s (-9%)"
    )
