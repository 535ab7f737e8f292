"""Reserves a place on the cluster for every worker of a run, before the first one starts.

Several runs may share a cluster. Two runs that each held half of the GPUs would wait for each other
for ever. So a run takes all of its places or none, and only one run of a cluster takes places at a
time. Each rollout and reward worker has a Ray placement group of its own. So Ray finds new places
for the workers of a lost host one by one, and not only when there is room for all of them. The
learner ranks have one group together, because they start together.

A private cluster has room for its one run, so nothing is reserved there.

Failure policy: a run that finds no room gives back what it took and raises ``RunFailed``, which
says what is missing and what is free. Ray removes the groups of a driver that dies.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from threading import Lock

import ray
from ray._private.state import available_resources_per_node
from ray.util.placement_group import (
    PlacementGroup,
    placement_group,
    placement_group_table,
    remove_placement_group,
)
from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

from orchestrator.settings.cluster_address import cluster_address
from orchestrator.settings.resources import Resources, Role, amounts_text
from orchestrator.settings.run_config import ClusterConfig, RunConfig
from policy.errors import RunFailed

log = logging.getLogger("eg_grpo")

# Ray places what fits within so many seconds, and needs a little more for each group. It hears of
# what other runs give back in about a second.
_ATTEMPT_S, _GROUP_S = 4.0, 0.05
_PAUSE_S = 1.0  # between two attempts, in which another run may make one
_TURN_S = 60.0  # that a run waits for others that take places
_TRIES = 3  # of fewer and fewer learner ranks
# Every cluster has 1 of this resource, so that no two runs can have more than half of it.
_TURN = {"node:__internal_head__": 0.6}
_STRATEGIES = {"pack": "PACK", "together": "STRICT_PACK", "spread": "SPREAD"}
_SHOWN_HOSTS = 8


@dataclass(frozen=True)
class Host:
    """A host of the cluster. Amounts are by Ray's names of resources."""

    node_id: str
    name: str  # its host name and its address
    total: dict[str, float]
    free: dict[str, float]

    def room(self, each: Resources) -> float:
        """How many more such workers fit into what is free; infinity if they ask for nothing."""
        return _fitting(self.free, each)

    def would_hold(self, each: Resources) -> float:
        """How many such workers would fit if nothing else ran on the host."""
        return _fitting(self.total, each)


@dataclass(frozen=True)
class Claim:
    """What is reserved in one piece: the places of these workers."""

    names: tuple[str, ...]
    each: Resources
    strategy: str  # of Ray's placement groups

    def __str__(self) -> str:
        if len(self.names) == 1:
            return f"{self.names[0]} ({self.each})"
        together = " on one host" if self.strategy == "STRICT_PACK" else ""
        return f"{len(self.names)} learner ranks{together} ({self.each} each)"


class Places:
    """Where the workers of a run may start.

    The learner ranks are formed in a thread beside the rest of the run, so changes take a lock.
    """

    def __init__(self, placed: Sequence[tuple[Claim, PlacementGroup]] = ()) -> None:
        self._placed = {name: (claim, group) for claim, group in placed for name in claim.names}
        self._changes = Lock()
        self._closed = False
        # Workers that waited in a group that ``claim_again`` has replaced, until they are started
        # again.
        self._stood_back: set[str] = set()

    def of(self, worker: str) -> PlacementGroupSchedulingStrategy | None:
        """The strategy that starts this worker at its place; None if nothing is reserved for it."""
        with self._changes:
            self._stood_back.discard(worker)
            if worker not in self._placed:
                return None
            claim, group = self._placed[worker]
        return PlacementGroupSchedulingStrategy(
            group, placement_group_bundle_index=claim.names.index(worker)
        )

    def lost(self, worker: str) -> bool:
        """Whether a host is gone that had this worker's place, or that of another worker of its
        claim, and Ray has found no other place yet."""
        return self._state_of(worker) == "RESCHEDULING"

    def placed(self, worker: str) -> bool:
        """Whether this worker and the others of its claim have their places at the moment."""
        return self._state_of(worker) in (None, "CREATED")

    def ask_again(self, worker: str) -> bool:
        """Ask for the place of a lost host anew; returns whether this was needed.

        What was started there ends. Ray tries to move a group again and again without a pause, and
        places nothing else meanwhile, also for others (Ray's pull request 65007). It gives a new
        group a pause after each attempt.
        """
        if not self.lost(worker):
            return False
        with self._changes:
            if worker in self._placed:
                self._replace(self._placed[worker][0])
        return True

    def stood_back(self, worker: str) -> bool:
        """Whether ``claim_again`` has asked anew for the place that this worker waited for. What
        was started there will not run."""
        return worker in self._stood_back

    def room(self, worker: str) -> int:
        """How many of the places of this worker's claim there would be, if it gave them back."""
        claim, group = self._placed[worker]
        return _room(claim, _with_given_back(hosts(), [group]))

    def claim_again(self, claim: Claim, fewest: int) -> int:
        """Take the places of as many of the learner ranks as there is room for; their number.

        ``claim`` is that of all ranks, of which some may have places. If there is no room for
        ``fewest`` of them, all wait, and Ray gives them places when it can.
        """
        old, group = self._placed[claim.names[0]]
        count = _room(claim, _with_given_back(hosts(), [group]))
        if self.placed(claim.names[0]) and count <= len(old.names):
            return len(old.names)
        for _ in range(_TRIES):
            if count < fewest:
                break
            part = replace(claim, names=claim.names[:count])
            group = self._take_before_others(part)
            if not _missing([part], [group]):
                return count
            count = min(count - 1, _room(claim, _with_given_back(hosts(), [group])))
        self._take_before_others(claim)
        return len(claim.names)

    def give_back(self, worker: str) -> None:
        """Give the place of a rollout or reward worker to others; its process is ended."""
        with self._changes:
            if worker in self._placed:
                self._forget(self._placed[worker][0])

    def close(self) -> None:
        """Give all places back; a second call does nothing."""
        with self._changes:
            self._closed = True
            for claim in self._claims():
                self._forget(claim)

    def _state_of(self, worker: str) -> str | None:
        entry = self._placed.get(worker)
        return None if entry is None else _state(entry[1])

    def _take_before_others(self, ranks: Claim) -> PlacementGroup:
        """Ask for places of these ranks instead of those that they have.

        Workers of the run that wait for a place wait behind them. Otherwise they could take the
        room that the ranks had. Ray also places nothing while it moves one of theirs.
        """
        waiting = [c for c in self._claims() if ranks.names[0] not in c.names]
        waiting = [claim for claim in waiting if not self.placed(claim.names[0])]
        with self._changes:
            waiting = [claim for claim in waiting if claim.names[0] in self._placed]
            for claim in waiting:
                remove_placement_group(self._placed[claim.names[0]][1])
                self._stood_back.update(claim.names)
            group = self._replace(ranks, self._placed.get(ranks.names[0], (ranks,))[0])
            for claim in waiting:
                self._keep(claim)
            return group

    def _replace(self, claim: Claim, old: Claim | None = None) -> PlacementGroup:
        """Ask for the places of a claim instead of those of ``old``, by default the same."""
        self._forget(old or claim)
        return self._keep(claim)

    def _keep(self, claim: Claim) -> PlacementGroup:
        group = _group(claim)
        if self._closed:
            remove_placement_group(group)
        else:
            self._placed = self._placed | dict.fromkeys(claim.names, (claim, group))
        return group

    def _forget(self, claim: Claim) -> None:
        if claim.names[0] in self._placed:
            remove_placement_group(self._placed[claim.names[0]][1])
        self._placed = {n: entry for n, entry in self._placed.items() if n not in claim.names}

    def _claims(self) -> list[Claim]:
        return list({claim.names: claim for claim, _ in self._placed.values()}.values())


ANYWHERE = Places()  # Ray chooses the host of every worker


@contextmanager
def reserved(config: RunConfig, wanted: Sequence[Role]) -> Iterator[Places]:
    """Reserve a place for every worker of these roles; see ``claimed``."""
    with claimed(config.cluster, claims(wanted, config.learner.placement)) as places:
        yield places


@contextmanager
def claimed(cluster: ClusterConfig, wanted: Sequence[Claim]) -> Iterator[Places]:
    """Reserve what is claimed, and give all places back at the end.

    Waits up to ``cluster.wait_for_room_s`` for room. Raises ``RunFailed`` if there is none.
    """
    if cluster_address(cluster.address) is None:
        yield ANYWHERE
        return
    places = _places(wanted, cluster.wait_for_room_s)
    try:
        yield places
    finally:
        places.close()


def claims(wanted: Sequence[Role], learner_placement: str = "pack") -> list[Claim]:
    """What is reserved for the roles, in the order in which it is placed.

    Workers that can only be on some hosts come first, because others might take their room. Then
    come the largest. Workers that ask for nothing need no reservation.
    """
    learner = [
        Claim(role.names, role.each, _STRATEGIES[learner_placement])
        for role in wanted
        if role.key == "learner"
    ]
    others = [
        Claim((name,), role.each, "PACK")
        for role in wanted
        if role.key != "learner"
        for name in role.names
    ]
    return sorted(
        (claim for claim in [*learner, *others] if claim.each.for_ray),
        key=lambda claim: (bool(claim.each.custom), claim.each.gpus, len(claim.names)),
        reverse=True,
    )


def no_room(each: Resources, count: int = 1) -> str | None:
    """Why the cluster has no room for so many more workers; None if it has."""
    found = hosts()
    room = sum(host.room(each) for host in found)
    if room >= count:
        return None
    return (
        f"there is room for {room:g} of {count} workers that need {each} each; free:"
        f" {free_text(found, [each])}"
    )


def hosts() -> list[Host]:
    """The hosts of the cluster that are alive."""
    free = available_resources_per_node()
    return [
        Host(
            node["NodeID"],
            f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})",
            node["Resources"],
            free.get(node["NodeID"], {}),
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def free_text(found: Sequence[Host], needed: Sequence[Resources]) -> str:
    """What is free on each host, of the resources that are needed."""
    names = list(dict.fromkeys(["CPU", "GPU", *(name for each in needed for name in each.custom)]))
    shown = [
        f"{host.name} has {amounts_text({name: host.free.get(name, 0.0) for name in names})}"
        for host in found[:_SHOWN_HOSTS]
    ]
    if len(found) > _SHOWN_HOSTS:
        shown.append(f"{len(found) - _SHOWN_HOSTS} more hosts")
    return "; ".join(shown)


def refusal(missing: Sequence[Claim], wanted: Sequence[Claim], found: Sequence[Host]) -> str:
    """The line for a run that cannot be placed. ``found`` has free what the run gives back."""
    total: dict[str, float] = {"CPU": 0.0, "GPU": 0.0}
    for claim in wanted:
        for name, amount in claim.each.for_ray.items():
            total[name] = total.get(name, 0.0) + len(claim.names) * amount
    more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
    return (
        f"the cluster has no room for {missing[0]}{more}: the run needs {amounts_text(total)} in"
        f" all; free: {free_text(found, [claim.each for claim in wanted])}"
    )


def _room(claim: Claim, found: Sequence[Host]) -> int:
    """For how many workers of the claim the hosts have room."""
    each = [host.room(claim.each) for host in found]
    room = max(each, default=0) if claim.strategy == "STRICT_PACK" else sum(each)
    return int(min(len(claim.names), room))


def _fitting(amounts: Mapping[str, float], each: Resources) -> float:
    asked = each.for_ray.items()
    # Ray counts in steps of 0.0001.
    fitting = (math.floor(amounts.get(name, 0.0) / amount + 1e-5) for name, amount in asked)
    return min(fitting, default=math.inf)


def _places(wanted: Sequence[Claim], wait_s: float) -> Places:
    """Take all places at once; tries again until the time is over."""
    deadline = time.monotonic() + wait_s
    tried_again = told = False
    while True:
        with _turn():
            groups = [_group(claim) for claim in wanted]
            try:
                missing = _missing(wanted, groups)
            except BaseException:  # such as Ctrl-C
                _remove(groups)
                raise
            if not missing:
                return Places(list(zip(wanted, groups, strict=True)))
            text = refusal(missing, wanted, _with_given_back(hosts(), groups))
            _remove(groups)
        # Ray places the groups one by one. An early one may be where a later one had to be.
        wanted = [*missing, *(claim for claim in wanted if claim not in missing)]
        if tried_again and time.monotonic() >= deadline:
            raise RunFailed(text)
        if tried_again and not told:
            log.warning("%s; the run waits for up to %g s", text, wait_s)
            told = True
        tried_again = True
        time.sleep(_PAUSE_S)


@contextmanager
def _turn() -> Iterator[None]:
    """Wait until no other run takes places. Ray ends the turn of a driver that dies."""
    turn = placement_group([_TURN])
    try:
        if not turn.wait(_TURN_S):
            raise RunFailed(
                f"other runs have been taking places on the cluster for {_TURN_S:g} s; try again"
            )
        yield
    finally:
        remove_placement_group(turn)


def _group(claim: Claim) -> PlacementGroup:
    return placement_group([claim.each.for_ray] * len(claim.names), strategy=claim.strategy)


def _missing(wanted: Sequence[Claim], groups: Sequence[PlacementGroup]) -> list[Claim]:
    """The claims that Ray finds no place for."""
    deadline = time.monotonic() + _ATTEMPT_S + _GROUP_S * len(groups)
    for group in groups:
        group.wait(max(0.1, deadline - time.monotonic()))
    return [
        claim for claim, group in zip(wanted, groups, strict=True) if _state(group) != "CREATED"
    ]


def _state(group: PlacementGroup) -> str:
    return str(placement_group_table(group)["state"])


def _with_given_back(found: Sequence[Host], groups: Sequence[PlacementGroup]) -> list[Host]:
    """The hosts, with what the groups hold added to what is free."""
    free = {host.node_id: dict(host.free) for host in found}
    for group in groups:
        table = placement_group_table(group)
        for bundle, node_id in table["bundles_to_node_id"].items():
            of_host = free.get(node_id, {})
            for name, amount in table["bundles"][bundle].items():
                of_host[name] = of_host.get(name, 0.0) + amount
    return [Host(host.node_id, host.name, host.total, free[host.node_id]) for host in found]


def _remove(groups: Sequence[PlacementGroup]) -> None:
    for group in groups:
        remove_placement_group(group)
