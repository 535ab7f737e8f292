"""Places of workers: what is reserved together, what a refusal says, and real hosts."""

from __future__ import annotations

import re
from itertools import count
from typing import Any

import pytest

from orchestrator.settings.host_needs import HostNeeds
from orchestrator.settings.resources import Resources, Role
from orchestrator.settings.run_config import ClusterConfig
from orchestrator.workers import placement
from orchestrator.workers.host_checks import may_run
from orchestrator.workers.placement import Claim, Host, Places, claims, refusal
from tests.hosts_program import found_by

LEARNER = Role("learner", ("learner rank 0", "learner rank 1"), Resources(1, 1))
ROLLOUT = Role("rollout", ("rollout worker 0", "rollout worker 1"), Resources(2, 0.5))
PICKY = Role("rewards.picky", ("reward worker picky/0",), Resources(0.5, 0, {"picky": 0.001}))
FREE_OF_CHARGE = Role("rewards.light", ("reward worker light/0",), Resources(0, 0))


def host(name: str, **amounts: float) -> Host:
    return Host(name, name, amounts, amounts)


@pytest.mark.parametrize(
    ("setting", "strategy"), [("pack", "PACK"), ("together", "STRICT_PACK"), ("spread", "SPREAD")]
)
def test_learner_ranks_are_one_claim_and_every_other_worker_is_its_own(
    setting: str, strategy: str
) -> None:
    """So a lost worker finds a new place on its own. What only some hosts have comes first, then
    the largest share of a GPU; a worker that asks for nothing needs no place."""
    found = claims([FREE_OF_CHARGE, ROLLOUT, LEARNER, PICKY], setting)
    assert [claim.names for claim in found] == [
        ("reward worker picky/0",),
        ("learner rank 0", "learner rank 1"),
        ("rollout worker 0",),
        ("rollout worker 1",),
    ]
    assert [claim.strategy for claim in found] == ["PACK", strategy, "PACK", "PACK"]


def test_a_refusal_says_what_is_missing_and_what_is_free_on_each_host() -> None:
    """One line: who found no place, what the whole run needs, and every resource that it names."""
    wanted = claims([LEARNER, ROLLOUT, PICKY], "together")
    missing = [claim for claim in wanted if len(claim.names) == 2 or claim.names[0][-1] == "1"]
    found = [host("a (10.0.0.1)", CPU=4, GPU=1.5), host("b (10.0.0.2)", CPU=0.5, picky=1)]
    assert refusal(missing, wanted, found) == (
        "the cluster has no room for 2 learner ranks on one host (1 CPUs, 1 GPUs each) and 1 more:"
        " the run needs 6.5 CPUs, 3 GPUs, 0.001 picky in all;"
        " free: a (10.0.0.1) has 4 CPUs, 1.5 GPUs, 0 picky; b (10.0.0.2) has 0.5 CPUs, 0 GPUs,"
        " 1 picky"
    )
    many = [host(str(number), CPU=1) for number in range(10)]
    one = [Claim(("rollout worker 0",), Resources(2, 0), "PACK")]
    text = refusal(one, one, many)
    assert text.startswith("the cluster has no room for rollout worker 0 (2 CPUs, 0 GPUs): the run")
    assert text.endswith("; 7 has 1 CPUs, 0 GPUs; 2 more hosts")


def test_how_many_workers_a_host_has_room_for() -> None:
    """The scarcest resource decides, and tenths of a GPU add up to a whole one."""
    assert host("a", CPU=8, GPU=1).room(Resources(1, 0.1)) == 8
    assert host("a", CPU=80, GPU=1).room(Resources(1, 0.1)) == 10
    assert host("a", CPU=8).room(Resources(1, 0.1)) == 0
    assert host("a").room(Resources(0, 0)) == float("inf")


def test_a_role_may_land_where_one_of_its_workers_would_fit() -> None:
    """What is in use does not count. Ranks that stay together must all fit."""
    small, large = host("a", CPU=2, GPU=1), host("b", CPU=4, GPU=2, picky=1)
    wanted = [LEARNER, ROLLOUT, PICKY, FREE_OF_CHARGE]
    needs = {
        setting: HostNeeds(ClusterConfig(), wanted, (), None, 0, 0, together=setting == "together")
        for setting in ("pack", "together")
    }
    keys = {
        (setting, found.name): [role.key for role in may_run(found, of_setting)]
        for setting, of_setting in needs.items()
        for found in (small, large)
    }
    every = ["learner", "rollout", "rewards.picky", "rewards.light"]
    assert keys == {
        ("pack", "a"): ["learner", "rollout", "rewards.light"],
        ("together", "a"): ["rollout", "rewards.light"],
        ("pack", "b"): every,
        ("together", "b"): every,
    }


class Groups:
    """Stands in for Ray's placement groups: two ranks and a reward worker have lost a host."""

    RANKS, REWARD = claims([LEARNER], "spread")[0], claims([PICKY])[0]

    def __init__(self, monkeypatch: pytest.MonkeyPatch, room: int, fits: int) -> None:
        """Hosts seem to have ``room`` for ranks, and Ray places a group of at most ``fits``."""
        self.living: list[str] = []  # in the order in which Ray was asked for them
        self._fits, self._number = fits, count()
        self.places = Places([(claim, self._group(claim)) for claim in (self.RANKS, self.REWARD)])
        self.states = dict.fromkeys(self.living, "RESCHEDULING")
        for name in ("_group", "_missing", "_state"):
            monkeypatch.setattr(placement, name, getattr(self, name))
        monkeypatch.setattr(placement, "_with_given_back", lambda found, groups: found)
        monkeypatch.setattr(placement, "hosts", lambda: [host("a", CPU=room, GPU=room)])
        monkeypatch.setattr(placement, "remove_placement_group", self.living.remove)

    def _group(self, claim: Claim) -> Any:
        self.living.append(f"{', '.join(claim.names)} #{next(self._number)}")
        return self.living[-1]

    def _missing(self, wanted: list[Claim], groups: list[str]) -> list[Claim]:
        missing = [claim for claim in wanted if len(claim.names) > self._fits]
        self.states |= dict.fromkeys([] if missing else groups, "CREATED")
        return missing

    def _state(self, group: str) -> str:
        return self.states.get(group, "PENDING")

    def left(self) -> list[str]:
        return [group.partition(" #")[0] for group in self.living]


BOTH, ONE = "learner rank 0, learner rank 1", "learner rank 0"


@pytest.mark.parametrize(
    ("room", "fits", "fewest", "ranks", "left"),
    [
        (5, 2, 1, 2, BOTH),  # a host has come meanwhile
        (1, 1, 1, 1, ONE),
        (2, 1, 1, 1, ONE),  # somebody else took the rest
        (1, 1, 2, 2, BOTH),  # they wait
        (2, 0, 1, 2, BOTH),
    ],
)
def test_ranks_take_the_places_that_there_are(
    room: int, fits: int, fewest: int, ranks: int, left: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At least ``fewest``, or all of them wait. Other workers of the run that wait for a place are
    behind them; that they end for this is no loss, until they have been started again."""
    groups = Groups(monkeypatch, room, fits)
    (worker,) = PICKY.names
    assert groups.places.claim_again(groups.RANKS, fewest) == ranks
    assert groups.left() == [left, worker]
    assert not any(groups.places.lost(name) for name in (*groups.RANKS.names, worker))
    assert groups.places.stood_back(worker)
    monkeypatch.setattr(placement, "PlacementGroupSchedulingStrategy", lambda *_, **__: "here")
    assert groups.places.of(worker) == "here"
    assert not groups.places.stood_back(worker)


def test_a_smaller_group_keeps_its_places_until_there_is_room_for_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It could lose them to others."""
    groups = Groups(monkeypatch, 1, 2)
    assert groups.places.claim_again(groups.RANKS, 1) == 1
    before = list(groups.living)
    assert groups.places.claim_again(groups.RANKS, 1) == 1
    assert groups.living == before
    monkeypatch.setattr(placement, "hosts", lambda: [host("a", CPU=2, GPU=2)])
    assert groups.places.claim_again(groups.RANKS, 1) == 2
    assert groups.left() == [BOTH, *PICKY.names]


def test_what_is_taken_after_the_end_is_given_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thread that forms the learner may still be at it when the run ends."""
    groups = Groups(monkeypatch, 2, 2)

    def missing(wanted: list[Claim], asked: list[str]) -> list[Claim]:
        groups.places.close()
        return wanted

    monkeypatch.setattr(placement, "_missing", missing)
    groups.places.claim_again(groups.RANKS, 1)
    assert groups.living == []


def test_a_place_is_asked_for_again_only_while_ray_moves_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A second time would take the new place away."""
    groups = Groups(monkeypatch, 2, 2)
    (name,) = PICKY.names
    assert [groups.places.ask_again(name) for _ in range(2)] == [True, False]
    assert len(groups.living) == 2
    assert not Places().ask_again(name)


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What ``tests.placed_hosts`` finds on a cluster of three hosts."""
    return found_by("tests.placed_hosts", timeout_s=900)


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(1000)
def test_the_doctor_names_the_host_and_what_it_lacks(found: dict[str, Any]) -> None:
    """A reward's model is on the larger host alone, and every other check of both hosts passes. The
    head has no CPUs, so that no worker may land there. Nothing is left in the root of the runs."""
    *lines, error, code = found["doctor"]
    assert code == "2"
    assert error.endswith(" checks failed")
    failed = [line for line in lines if line.startswith("FAIL")]
    (line,) = failed
    assert line.endswith("(127.0.0.2) rewards.picky: reward 'picky': /models/picky is missing")
    (placement,) = [line for line in lines if " placement: " in line]
    assert placement == "ok    placement: there is room for all 4 workers"
    for address in ("127.0.0.2", "127.0.0.3"):
        of_host = [line.partition(f"({address}) ")[2] for line in lines if address in line]
        assert [line.partition(":")[0] for line in of_host] == [
            "roles", "python", "packages", "object store", "model.path", "rewards.picky", "root",
        ]  # fmt: skip
        assert of_host[0] == "roles: learner, rollout, rewards.picky"
    assert not [line for line in lines if "(127.0.0.1)" in line]
    assert found["left"] == []


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(1000)
def test_a_run_is_refused_for_what_a_host_lacks(found: dict[str, Any]) -> None:
    """Before its first worker starts, in the words of the doctor."""
    *_, line, code = found["train"]
    assert code == "2"
    assert line.startswith("eg-grpo: ")
    assert line.endswith("(127.0.0.2): rewards.picky: reward 'picky': /models/picky is missing")
    assert not [said for said in found["train"] if "rollout engine" in said]


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(1000)
def test_an_evaluation_is_refused_for_what_a_host_lacks(found: dict[str, Any]) -> None:
    """In the words of a run, before anything is drawn: no worker has begun to load."""
    *lines, line, code = found["evaluate"]
    assert code == "2"
    missing = "(127.0.0.2): rewards.attributes: reward 'attributes': /models/picky is missing"
    assert line.startswith("eg-grpo: ")
    assert line.endswith(missing)
    assert not [said for said in lines if "loading the policy" in said]


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(1000)
def test_the_doctor_names_roles_that_no_host_can_have(found: dict[str, Any]) -> None:
    """Four ranks on one host of 3 CPUs, and a resource that no host was started with."""
    lines, code = found["too large"][:-1], found["too large"][-1]
    assert code == "2"
    assert "FAIL  cluster learner: no host has 1 CPUs, 0 GPUs for each of 4 workers" in lines
    assert "FAIL  cluster rollout: no host has 1 CPUs, 0 GPUs, 1 x for a worker" in lines
    (placement,) = [line for line in lines if " placement: " in line]
    assert placement.startswith("FAIL  placement: the cluster has no room for rollout worker 0 (")


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(1000)
def test_of_two_runs_one_gets_everything_and_the_other_nothing(found: dict[str, Any]) -> None:
    """There are 5 CPUs, and each run needs 4. The one that is refused says what is free; one that
    may wait gets its places when the other has ended."""
    (refused,) = [text for text in found["two at once"] if text is not None]
    assert refused.startswith("the cluster has no room for ")
    assert ": the run needs 4 CPUs, 0 GPUs in all; free: " in refused
    assert found["waits"]
    assert found["waited"] is None


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(1000)
def test_roles_that_take_turns_share_the_gpu_of_each_host(found: dict[str, Any]) -> None:
    """Each of two hosts has one GPU, which holds a rank and a rollout worker: 0.6 and 0.4 of it. A
    third rollout worker finds no place, and two ranks find none on one host. One line says so."""
    turns = found["turns"]
    assert set(turns) == {
        "learner rank 0",
        "learner rank 1",
        "rollout worker 0",
        "rollout worker 1",
    }
    for role in ("learner rank", "rollout worker"):
        places = sorted(place for name, place in turns.items() if name.startswith(role))
        assert places == [["127.0.0.2", ["0"]], ["127.0.0.3", ["0"]]]
    third, on_one_host = found["refused turns"]
    assert third.startswith("the cluster has no room for rollout worker ")
    assert " (1 CPUs, 0.4 GPUs): the run needs 5 CPUs, 2.4 GPUs in all; free: " in third
    assert on_one_host.startswith(
        "the cluster has no room for 2 learner ranks on one host (1 CPUs, 0.6 GPUs each): the run"
        " needs 4 CPUs, 2 GPUs in all; free: "
    )
    assert "\n" not in third + on_one_host


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(1000)
def test_workers_of_a_lost_host_find_new_places(found: dict[str, Any]) -> None:
    """Both learner ranks were on one host. It is lost, and another host of its size comes."""
    lived = found["lived"]
    assert lived["learner rank 0"] == lived["learner rank 1"]
    assert {"learner rank 0", "learner rank 1"} <= found["lives"].keys()
    assert not {lived["learner rank 0"]} & set(found["lives"].values())
    assert found["lives"]["learner rank 0"] == found["lives"]["learner rank 1"]


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(1000)
def test_room_for_more_workers_is_counted_host_by_host(found: dict[str, Any]) -> None:
    """Hosts of 2 and 3 CPUs have room for two workers of 2 CPUs, not for three."""
    there, refused = found["room"]
    assert there is None
    assert refused.startswith("there is room for 2 of 3 workers that need 2 CPUs, 0 GPUs each; ")


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(1000)
def test_new_weights_travel_to_a_host_while_its_worker_samples(found: dict[str, Any]) -> None:
    """They lie on the head's host. The idle worker's host gets them when it loads them."""
    before, after, _ = found["brought"]
    assert before == ["127.0.0.1"]
    assert after == ["127.0.0.1", "127.0.0.3"]


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.timeout(1000)
def test_a_worker_that_is_stopped_on_another_host_is_replaced(found: dict[str, Any]) -> None:
    """Its call would have had the 10 minutes of the settings."""
    pid, reason = found["brought"][2]
    assert re.match(
        rf"rollout worker 1 does not answer: process {pid} on \S+ is stopped \(SIGSTOP\); ", reason
    ), reason
