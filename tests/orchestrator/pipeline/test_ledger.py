"""The ledger on a real Redis: what each write does, and what it refuses."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from itertools import count

import pytest

from orchestrator.pipeline.ledger import Claim, CommitRefused, Ledger, LedgerLost, Superseded
from orchestrator.pipeline.ledger_connection import LedgerConnection, make_wish, read_ledger
from orchestrator.pipeline.ledger_view import CommitEntry, GroupEntry, ScalingEntry, WorkerEntry
from policy.errors import UserError
from tests.redis_server import between, redis_server

_numbers = count()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with redis_server(tmp_path_factory.mktemp("redis")) as address:
        yield address


@pytest.fixture
def ledger(url: str) -> Ledger:
    return take(url, f"run-{next(_numbers)}")


def take(url: str, run: str, known_epoch: int = 0) -> Ledger:
    return Ledger.take(url, run, known_epoch, waiting=print, timeout_s=20)


def states(ledger: Ledger) -> list[str]:
    """``step:place state attempt`` of every group."""
    groups = ledger.view().groups
    return [f"{group.step}:{group.place} {group.state} {group.attempt}" for group in groups]


def ready(ledger: Ledger, step: int, places: list[int]) -> list[Claim]:
    """Lead waiting groups to where they can be committed."""
    claims = ledger.lease(step, places, "rollout-0", 60, draw=0)
    assert ledger.sampled(claims, weight_version=step) == len(places)
    assert ledger.scored(claims) == len(places)
    return claims


def test_a_group_goes_from_waiting_to_trained(ledger: Ledger) -> None:
    """Every state, what it keeps, and the commit of the step."""
    ledger.admit(0, 1)
    assert states(ledger) == ["0:0 waiting 0"]
    before = time.time()
    claims = ledger.lease(0, [0], "rollout-3", seconds=60, draw=2)
    assert claims == [Claim(step=0, place=0, attempt=1)]
    (group,) = ledger.view().groups
    assert before + 58 < group.deadline < time.time() + 62
    assert group == GroupEntry(0, 0, "generating", 1, 2, "rollout-3", group.deadline, -1, "")
    assert ledger.sampled(claims, weight_version=7) == 1
    assert ledger.view().groups == (GroupEntry(0, 0, "scoring", 1, 2, "", 0, 7, ""),)
    assert ledger.scored(claims) == 1
    assert ledger.view().groups == (GroupEntry(0, 0, "ready", 1, 2, "", 0, 7, ""),)
    ledger.commit(0, weight_version=8, claims=claims)
    view = ledger.view()
    assert view.groups == (GroupEntry(0, 0, "trained", 1, 2, "", 0, 7, ""),)
    assert view.commits == (CommitEntry(0, epoch=1, weight_version=8, attempts={0: 1}),)
    assert (view.run, view.epoch, view.committed, view.checkpoint) == (ledger.run, 1, 1, 0)
    assert ledger.committed == 1


def test_admission_changes_no_group_that_exists(ledger: Ledger) -> None:
    """Admitting a step again adds what is missing."""
    ledger.admit(3, 2)
    ready(ledger, 3, [0])
    ledger.admit(3, 3)
    assert states(ledger) == ["3:0 ready 1", "3:1 waiting 0", "3:2 waiting 0"]


def test_only_waiting_groups_are_leased(ledger: Ledger) -> None:
    """One that is held and one that was not admitted get no claim; each place may have its own
    worker."""
    ledger.admit(0, 3)
    assert ledger.lease(0, [1], "a", 60, draw=0) == [Claim(0, 1, 1)]
    claims = ledger.lease(0, [0, 1, 2, 3], ["b", "c", "d", "e"], 60, draw=0)
    assert claims == [Claim(0, 0, 1), Claim(0, 2, 1)]
    assert [group.owner for group in ledger.view().groups] == ["b", "a", "d"]


def test_what_a_lost_worker_held_is_leased_again(ledger: Ledger) -> None:
    """Its claims end in every state before the commit; the late result is refused and counted."""
    ledger.admit(0, 3)
    late = ledger.lease(0, [0, 1, 2], "a", 60, draw=0)
    ledger.sampled(late[1:], 0)
    ledger.scored(late[2:])
    assert ledger.release(late, "worker a died", "infrastructure") == 3
    assert states(ledger) == ["0:0 waiting 1", "0:1 waiting 1", "0:2 waiting 1"]
    assert {group.reason for group in ledger.view().groups} == {"worker a died"}
    fresh = ledger.lease(0, [0], "b", 60, draw=0)
    assert fresh == [Claim(0, 0, 2)]

    assert ledger.sampled(late, 0) == 0  # worker a wakes up
    assert ledger.scored(late) == 0
    assert ledger.drop(late[:1], "late", "data") == 0
    assert ledger.release(late[:1], "late", "infrastructure") == 0
    assert states(ledger) == ["0:0 generating 2", "0:1 waiting 1", "0:2 waiting 1"]
    assert ledger.view().counts["late_refused"] == 8
    assert ledger.sampled([*late, *fresh], 0) == 1


def test_faults_of_data_and_of_machines_are_counted_apart(ledger: Ledger) -> None:
    """Both releases and drops say which kind; a dropped group keeps its reason."""
    ledger.admit(0, 4)
    claims = ledger.lease(0, [0, 1, 2, 3], "a", 60, draw=0)
    ledger.release(claims[:1], "too few scores", "data")
    ledger.release(claims[1:3], "worker a died", "infrastructure")
    assert ledger.drop([Claim(0, 1, 1), Claim(0, 2, 1)], "killed 3 workers", "infrastructure") == 2
    assert ledger.drop(claims[3:], "no image can be scored", "data") == 1
    assert states(ledger) == ["0:0 waiting 1", *(f"0:{place} dropped 1" for place in (1, 2, 3))]
    assert ledger.view().groups[3].reason == "no image can be scored"
    assert ledger.view().counts == {
        "released_data": 1,
        "released_infrastructure": 2,
        "dropped_data": 1,
        "dropped_infrastructure": 2,
    }


def test_a_commit_is_all_or_nothing(ledger: Ledger) -> None:
    """A group that is not ready, that is left out, or that has another attempt stops all others."""
    ledger.admit(0, 3)
    ledger.admit(1, 1)
    claims = ready(ledger, 0, [0, 1])
    before = states(ledger)
    refused = {
        "group 2 is waiting and not in the commit": claims,
        "group 2 is waiting, attempt 0; the claim has attempt 1": [*claims, Claim(0, 2, 1)],
        "group 1 is ready, attempt 1; the claim has attempt 2": [claims[0], Claim(0, 1, 2)],
        "group 5 is unknown; the claim has attempt 1": [*claims, Claim(0, 5, 1)],
        "a claim is of another step": [*claims, Claim(1, 0, 1)],
    }
    for message, offered in refused.items():
        with pytest.raises(CommitRefused, match=f"^step 0 cannot be committed: {message}$"):
            ledger.commit(0, 1, offered)
    assert states(ledger) == before
    assert (ledger.committed, ledger.view().committed, ledger.view().commits) == (0, 0, ())

    ledger.drop([Claim(0, 2, 0)], "no image can be scored", "data")
    ledger.commit(0, 1, claims)  # a dropped group may be missing
    assert states(ledger) == ["0:0 trained 1", "0:1 trained 1", "0:2 dropped 0", "1:0 waiting 0"]


def test_commits_come_in_order_and_can_be_repeated(ledger: Ledger) -> None:
    """The same commit again is fine, and another one for that step is not."""
    for step in (0, 1):
        ledger.admit(step, 1)
    second = ready(ledger, 1, [0])
    with pytest.raises(CommitRefused, match="step 0 is the next to be committed"):
        ledger.commit(1, 2, second)
    first = ready(ledger, 0, [0])
    ledger.commit(0, 1, first)
    ledger.commit(1, 2, second)
    ledger.commit(0, 1, first)
    ledger.commit(1, 2, second)
    for version, claims in ((9, first), (1, [])):
        with pytest.raises(CommitRefused, match="step 2 is the next to be committed"):
            ledger.commit(0, version, claims)
    with pytest.raises(CommitRefused, match="the step was not admitted"):
        ledger.commit(2, 3, [])
    assert [commit.weight_version for commit in ledger.view().commits] == [1, 2]
    assert ledger.committed == 2


def test_a_run_falls_back_to_its_checkpoint(ledger: Ledger) -> None:
    """Later steps wait again, whatever became of them; attempts go on, and earlier steps stay."""
    for step in range(4):
        ledger.admit(step, 2)
    for step in range(2):
        ledger.commit(step, step + 1, ready(ledger, step, [0, 1]))
    ledger.checkpointed(1)
    old = ready(ledger, 2, [0])
    ledger.drop([Claim(2, 1, 0)], "no image can be scored", "data")
    ledger.lease(3, [0], "a", 60, draw=1)

    assert ledger.fall_back(1) == 1
    assert states(ledger) == [
        *("0:0 trained 1", "0:1 trained 1", "1:0 waiting 1", "1:1 waiting 1"),
        *("2:0 waiting 1", "2:1 waiting 0", "3:0 waiting 1", "3:1 waiting 0"),
    ]
    view = ledger.view()
    assert (view.committed, view.checkpoint, len(view.commits)) == (1, 1, 1)
    assert view.groups[4] == GroupEntry(2, 0, "waiting", 1, 0, "", 0, -1, "fell back to step 1")
    assert view.counts["steps_repeated"] == 1
    assert ledger.scored(old) == 0
    ledger.commit(1, 2, ready(ledger, 1, [0, 1]))
    assert ledger.view().commits[1].attempts == {0: 2, 1: 2}
    assert ledger.fall_back(2) == 0


def test_a_checkpoint_holds_committed_steps_alone(ledger: Ledger) -> None:
    """One of later steps is refused; so is falling back to a step that was never committed."""
    ledger.admit(0, 1)
    ledger.commit(0, 1, ready(ledger, 0, [0]))
    with pytest.raises(CommitRefused, match="a checkpoint of step 2: only 1 steps are committed"):
        ledger.checkpointed(2)
    ledger.checkpointed(1)
    assert ledger.view().checkpoint == 1
    with pytest.raises(LedgerLost, match="has 1 committed steps, but the checkpoint has 2"):
        ledger.fall_back(2)


WRITES: dict[str, Callable[[Ledger, list[Claim]], object]] = {
    "admit": lambda ledger, _: ledger.admit(5, 1),
    "lease": lambda ledger, _: ledger.lease(0, [3], "old", 60, draw=0),
    "release": lambda ledger, claims: ledger.release(claims[:1], "old", "infrastructure"),
    "sampled": lambda ledger, claims: ledger.sampled(claims[:1], 0),
    "scored": lambda ledger, claims: ledger.scored(claims[1:2]),
    "drop": lambda ledger, claims: ledger.drop(claims[:1], "old", "data"),
    "commit": lambda ledger, claims: ledger.commit(1, 1, [Claim(1, 0, 1)]),
    "commit again": lambda ledger, claims: ledger.commit(0, 1, [Claim(0, 0, 1)]),
    "checkpointed": lambda ledger, _: ledger.checkpointed(0),
    "fall_back": lambda ledger, _: ledger.fall_back(0),
    "note_workers": lambda ledger, _: ledger.note_workers([]),
    "note_error": lambda ledger, _: ledger.note_error("old"),
    "count": lambda ledger, _: ledger.count("old"),
    "rebuild": lambda ledger, _: ledger.rebuild(0),
}


@pytest.mark.parametrize("write", WRITES)
def test_an_older_driver_can_write_nothing(url: str, write: str) -> None:
    """Each write of it names the newer driver and changes nothing, though its claims are
    current."""
    old = take(url, f"fenced-{write}")
    old.admit(0, 1)
    old.commit(0, 1, ready(old, 0, [0]))
    old.admit(1, 4)
    claims = [Claim(1, 0, 1), *old.lease(1, [1, 2], "old", 60, draw=0)]
    ready(old, 1, [0])
    old.sampled(claims[2:], 0)
    new = take(url, f"fenced-{write}")
    assert (old.epoch, new.epoch, new.committed) == (1, 2, 1)
    before = new.view()
    message = (
        f"^driver epoch 2 took over run fenced-{write}; this process \\(epoch 1\\) may write"
        " nothing any more$"
    )
    with pytest.raises(Superseded, match=message):
        WRITES[write](old, claims[1:])
    with pytest.raises(Superseded, match=message):
        old.check()
    assert new.view() == before
    new.check()
    assert new.sampled(claims[1:2], 0) == 1


def test_epochs_only_rise(url: str) -> None:
    """Above what Redis knows and above what the run folder remembers, whichever is higher."""
    assert take(url, "rising").epoch == 1
    assert take(url, "rising").epoch == 2
    assert take(url, "rising", known_epoch=7).epoch == 8
    assert take(url, "rising", known_epoch=3).epoch == 9
    assert take(url, "another").epoch == 1


def test_an_epoch_is_remembered_before_redis_has_it(url: str) -> None:
    """If the process dies in between, the folder's number is too high, and never too low."""
    calls: list[tuple[int, int, int]] = []

    def remember(asked: int, taken: int) -> None:
        known = read_ledger(url, "remembered").epoch if len(calls) != 0 else 0
        calls.append((asked, taken, known))

    ledger = Ledger.take(url, "remembered", 4, print, 20, remember)
    ledger.rebuild(0)
    assert calls == [(5, 0, 0), (5, 5, 5), (6, 5, 5), (6, 6, 6)]


def test_a_ledger_that_is_older_than_the_run_is_begun_anew(url: str) -> None:
    """As after a run went on with another Redis, and then came back to its first one."""
    first = take(url, "restored")
    first.admit(0, 1)
    first.commit(0, 1, ready(first, 0, [0]))
    back = Ledger.take(url, "restored", 3, print, 20, taken_epoch=3)
    assert (back.epoch, back.committed, back.view().groups) == (4, 0, ())


def test_an_answer_that_is_lost_repeats_nothing(url: str) -> None:
    """The write has happened, its answer does not arrive, and it is sent again: it counts once."""
    with between(url) as proxy:
        ledger = take(f"redis://{proxy.place}", "lossy")
        ledger.admit(0, 3)
        proxy.answers_to_lose = 2
        assert ledger.lease(0, [0, 1], "a", 60, draw=0) == [Claim(0, 0, 1), Claim(0, 1, 1)]
        assert proxy.answers_to_lose == 0
        proxy.answers_to_lose = 1
        ledger.count("seen", 5)
        proxy.answers_to_lose = 1
        assert ledger.sampled([Claim(0, 0, 1), Claim(0, 2, 9)], 0) == 1
        proxy.answers_to_lose = 1
        ledger.note_error("only once")
        proxy.answers_to_lose = 2
        ledger.rebuild(0)
        view = ledger.view()
    assert ledger.epoch == view.epoch == 2
    assert view.counts == {"late_refused": 1, "rebuilt": 1, "seen": 5}
    assert [error.text for error in view.errors] == ["only once"]


def test_notes_tell_of_workers_errors_and_counts(ledger: Ledger) -> None:
    """The last states of the workers that are still there, the last 20 errors without secrets,
    and what was counted."""
    ledger.note_workers([WorkerEntry("rollout-1", "rollout", "starting", -1)])
    ledger.note_workers(
        [
            WorkerEntry("rollout-0", "rollout", "serving", 4),
            WorkerEntry("reward-0", "reward", "idle", -1),
        ]
    )
    for number in range(25):
        ledger.note_error(f"error {number} of http://user:hush@host/ \ud83d")
    ledger.count("restarts_rollout")
    ledger.count("restarts_rollout", 2)
    view = ledger.view()
    found = [(worker.name, worker.role, worker.state) for worker in view.workers]
    assert found == [("reward-0", "reward", "idle"), ("rollout-0", "rollout", "serving")]
    assert view.workers[1].weight_version == 4
    assert abs(view.workers[1].since - time.time()) < 30
    assert len(view.errors) == 20
    assert view.errors[0].text == "error 24 of http://***@host/ ?"
    assert view.counts == {"restarts_rollout": 3}


def test_a_new_driver_forgets_the_workers_of_the_old_one(url: str) -> None:
    """They ended with it; its errors and counts stay."""
    old = take(url, "handed-over")
    old.note_workers([WorkerEntry("rollout-0", "rollout", "serving", 4)])
    old.note_error("gone")
    view = take(url, "handed-over").view()
    assert (view.workers, view.errors[0].text, view.errors[0].epoch) == ((), "gone", 1)


def test_threads_share_a_ledger(ledger: Ledger) -> None:
    """Each write happens once: the numbers of writes do not collide."""
    threads = [
        threading.Thread(target=lambda: [ledger.count("calls") for _ in range(50)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert ledger.view().counts == {"calls": 200}


def test_another_process_reads_without_an_epoch(url: str, ledger: Ledger) -> None:
    """Reading fences nobody; a run without a ledger is named."""
    ledger.admit(0, 1)
    assert read_ledger(url, ledger.run) == ledger.view()
    ledger.check()
    with pytest.raises(UserError, match=r"has no ledger of run unknown$"):
        read_ledger(url, "unknown")


def test_a_ledger_of_another_run_or_version_is_refused(url: str, ledger: Ledger) -> None:
    """One line names both and the way on, and nothing is changed."""
    import redis

    head = f"eg-grpo:ledger:{{{ledger.run}}}"
    client = redis.Redis.from_url(url)
    way_on = "To begin a new ledger, name another Redis .*, or delete ledger/ .* last checkpoint"
    for field, value, message in (
        ("run", "other-run", f"it is of run other-run, and this is run {ledger.run}"),
        ("format", "0", "another version wrote it, in format 0, and this version has format 1"),
    ):
        right = client.hget(head, field)
        client.hset(head, field, value)
        before = client.hgetall(head)
        with pytest.raises(UserError, match=rf"^ledger: unix://.*: {message}\. {way_on}$"):
            take(url, ledger.run)
        assert client.hgetall(head) == before
        client.hset(head, field, right)
    ledger.check()


def test_ten_thousand_groups(ledger: Ledger, capsys: pytest.CaptureFixture[str]) -> None:
    """One call each, however many groups. How long they take is printed, not judged."""
    seconds = {}

    def timed(name: str, call: Callable[[], object]) -> object:
        began = time.perf_counter()
        answer = call()
        seconds[name] = time.perf_counter() - began
        return answer

    timed("admit", lambda: ledger.admit(0, 10_000))
    owners = [f"rollout-{place % 256}" for place in range(10_000)]
    claims = timed("lease", lambda: ledger.lease(0, range(10_000), owners, 60, draw=0))
    assert isinstance(claims, list)
    assert len(claims) == 10_000
    assert timed("sampled", lambda: ledger.sampled(claims, 0)) == 10_000
    assert timed("scored", lambda: ledger.scored(claims)) == 10_000
    timed("commit", lambda: ledger.commit(0, 1, claims))
    timed("view", ledger.view)
    assert timed("fall_back", lambda: ledger.fall_back(0)) == 1
    timed("count", lambda: ledger.count("calls"))
    with capsys.disabled():
        print("\n10,000 groups:", *(f"{name} {s * 1e3:.1f} ms" for name, s in seconds.items()))


def test_a_wish_for_workers_waits_until_the_driver_answers_it(ledger: Ledger, url: str) -> None:
    """Another process makes it. The driver gets it with its notes until it is answered."""
    connection = LedgerConnection(url, ledger.run, print, 20, None)
    before = time.time() - 2
    wish_id = make_wish(connection, ledger.run, "ada@host", {"rollout": 3, "hps": 2})
    (wish,) = ledger.note_workers([])
    assert before < wish.asked < time.time() + 2
    expected = ScalingEntry(
        wish_id, "ada@host", {"rollout": 3, "hps": 2}, wish.asked, {}, answer="", answered=0
    )
    assert wish == expected
    ledger.take_up(wish_id, {"rollout": 1, "hps": 2})
    assert [wish.before for wish in ledger.note_workers([])] == [{"rollout": 1, "hps": 2}]
    ledger.answer(wish_id, "refused: no room")
    assert ledger.note_workers([]) == []
    (answered,) = ledger.view().scaling
    assert answered.answer == "refused: no room"
    assert before < answered.answered < time.time() + 2


def test_a_wish_needs_a_ledger_and_outlives_the_driver_that_has_not_answered(url: str) -> None:
    """The next driver finds it. The last fifty wishes are kept, and those that were granted longer
    than those that were not."""
    connection = LedgerConnection(url, "nobody's", print, 20, None)
    with pytest.raises(UserError, match="has no ledger of run nobody's"):
        make_wish(connection, "nobody's", "ada@host", {"rollout": 3})
    run = f"run-{next(_numbers)}"
    first = take(url, run)
    for number in range(60):
        first.wish("the autoscaler", {"rollout": number})
    second = take(url, run)
    kept = second.note_workers([])
    assert [wish.wanted["rollout"] for wish in kept] == list(range(10, 60))
    for wish, answer in zip(kept, ("done", "refused: no room", "done"), strict=False):
        second.answer(wish.id, answer)
    for number in (60, 61):
        second.wish("ada@host", {"rollout": number})
    found = [wish.wanted["rollout"] for wish in second.view().scaling]
    assert found == [12, *range(13, 62)]  # 11, which was refused, and then 10, the oldest
    with pytest.raises(Superseded):
        first.answer(second.view().scaling[0].id, "done")
