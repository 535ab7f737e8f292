"""A run that is struck by faults, and the watch over how it recovers.

A victim is stopped first and looked at while it stands still, so that its recorded state is the one
in which the fault hits it. A frozen process stays so until the run has gone on and has noticed it.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from benchmarks.chaos.checks import fallen
from benchmarks.chaos.driver import Driver
from benchmarks.chaos.plan import STARTING, Fault
from benchmarks.chaos.processes import (
    Process,
    bury,
    descendants,
    described,
    frozen,
    listened_on,
    listening_sockets,
    send,
)
from benchmarks.chaos.run_state import run_states
from benchmarks.chaos.strikes import Strike, wrongly_noticed
from orchestrator.pipeline.ledger_view import LedgerView

_TURN_S = 0.2
_LEDGER_S = 2.0  # between two looks at the ledger
_POLL_S = 0.002  # between two looks at the titles while a fault waits for a state
_RECOVER_S = 400.0  # in which a run must have gone on after a fault
_RUN_FAILED = 1  # an exit code
# A fault that is aimed at a state waits for it, at most for so long and for so many steps after the
# planned one.
_AIM_S, _AIM_STEPS = 60.0, 8
_START_STEPS = 8  # that may be done until a worker starts in the place of another one
# In which the learner must be done while Redis is stopped so that a commit waits for it. The run
# looks at Redis twice a second, and kills it if it is stopped in all looks of 2 s. So Redis then
# runs for some time.
_HOLD_S, _GO_S = 1.5, 0.8
_PAUSE_S = 3.0  # for which a driver is frozen
_ASLEEP_S = 40.0  # after which a frozen process is woken although the run has not noticed it
_VICTIM_S = 300.0  # in which a process of the role must be there
# In which the processes of a run must have ended, also after its driver was killed. The agents of a
# raylet wait a minute for the GCS, which has died too.
_GONE_S = 100.0


@dataclass
class Trial:
    """Strikes one run, and keeps what happened."""

    driver: Driver
    step_s: float  # duration of a step without faults
    strikes: list[Strike] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0  # of the whole run
    started_again: int = 0  # how often the run ended by itself while it opened
    _most_steps: int = 0
    _last_view: LedgerView | None = None
    _looked_at: float = 0.0
    _asleep: dict[int, Strike] = field(default_factory=dict)  # processes that were frozen
    _old: dict[int, float] = field(default_factory=dict)  # of dead drivers: since when
    _held: int | None = None  # the process of a Redis that is stopped and that a commit waits for
    _ports: dict[str, str] = field(default_factory=dict)  # that the run has listened on

    def run(self, faults: Sequence[Fault]) -> None:
        """Run to the end, with all faults that strike before it."""
        began = time.monotonic()
        self.driver.start()
        try:
            for fault in faults:
                if not self._wait_for(fault) or not self._strike(fault):
                    break
            while not self._over():
                self._turn()
            self.seconds = time.monotonic() - began
            if (code := self.driver.ended()) != 0:
                self.problems.append(f"the run ended with exit code {code}: {self._last_line()}")
            self._note_recoveries()
            self._check_gone()
            self.problems += wrongly_noticed(self.strikes, self.driver.warnings())
        finally:
            self._end_everything()

    # Before a fault

    def _wait_for(self, fault: Fault) -> bool:
        """Return when the fault is due; False if the run ended before."""
        due = math.inf if fault.at_once_s is None else time.monotonic() + fault.at_once_s
        its_turn = False  # the run has done the steps after which the fault was planned
        while not self._over():
            recovered = all(strike.recovered_s is not None for strike in self.strikes)
            if not its_turn and recovered and self.driver.steps_done() >= int(fault.at):
                its_turn = True
                due = min(due, time.monotonic() + fault.at % 1 * self.step_s)
            if time.monotonic() >= due:
                return True
            self._turn(min(_TURN_S, max(0.0, due - time.monotonic())))
        return False

    def _over(self) -> bool:
        """Whether the run has ended, or does not go on.

        A run that loses a worker twice while it opens ends with the cause, so that it does not load
        a model that fails again and again. It is started again then.
        """
        code = self.driver.ended()
        if code == _RUN_FAILED and not self.driver.stepping and self.strikes:
            print(f"started again: {self._last_line()}", flush=True)
            self.started_again += 1
            self._start_again()
            return False
        return code is not None or self._stuck()

    def _stuck(self) -> bool:
        waiting = [strike for strike in self.strikes if strike.recovered_s is None]
        if not waiting or time.time() - waiting[-1].time < _RECOVER_S:
            return False
        text = f"the run did not go on within {_RECOVER_S:g} s after fault {waiting[-1].fault}"
        if text not in self.problems:
            self.problems.append(text)
        return True

    # The fault

    def _strike(self, fault: Fault) -> bool:
        """Stop the victim, look at it, and kill it or leave it so; False if there is no victim."""
        began, done = time.monotonic(), self.driver.steps_done()
        # Counted from the planned step: faults that are late may not make the next ones later yet.
        # A starting worker is there only some seconds after the fault before.
        at_least = _START_STEPS if fault.aim == STARTING else 1
        aim_until, last_step = began + _AIM_S, max(int(fault.at) + _AIM_STEPS, done + at_least)
        while True:
            if not self.driver.stepping:  # its states begin later
                aim_until = time.monotonic() + _AIM_S
            in_time = time.monotonic() < aim_until and self.driver.steps_done() < last_step
            aimed = fault.aim is not None and in_time
            pid = self._aimed_at(fault) if aimed else self._victim(fault)
            if pid is None:
                if self._over() or time.monotonic() - began > _VICTIM_S:
                    self.problems.append(f"no process of the role was there for fault {fault}")
                    return False
                self._turn(0.0 if aimed else _TURN_S)
            elif victim := frozen(pid):
                states = self._states(fault, victim)
                untold = fault.how == "freeze" and victim.untold
                if not untold and (not aimed or fault.aim in states):
                    break
                # The state was over before the process stood still, or Ray could not end it.
                send(pid, signal.SIGCONT)
                if untold:
                    self._turn()
            else:
                self._let_redis_go()
        state = fault.aim if fault.aim in states else states[0]
        steps = self.driver.steps_done()
        self._most_steps = max(self._most_steps, steps)
        self.strikes.append(Strike(fault, state, time.time(), steps, pid=victim.pid))
        print(f"fault {fault}: ({state}) after step {steps}", flush=True)
        if fault.how == "freeze":
            self._asleep[victim.pid] = self.strikes[-1]
        elif fault.role == "driver":
            self._kill_driver()
        else:
            send(victim.pid, signal.SIGKILL)
        if fault.role == "redis":
            self._held = None
        self._let_redis_go()
        return True

    def _aimed_at(self, fault: Fault) -> int | None:
        """The victim, once it is in the state that the fault is aimed at; None after a moment."""
        there = [p for p in self._of_this_driver() if p.role and p.pid not in self._asleep]
        until = time.monotonic() + _TURN_S
        while time.monotonic() < until:
            now = [process for p in there if (process := described(p.pid))]
            if fault.aim == "commit":
                if "learning" in run_states(now) and self._hold_commit(now):
                    return self._victim(fault)
            elif fault.role in ("redis", "driver"):
                if fault.aim in run_states(now):
                    return self._victim(fault)
            elif fault.aim == STARTING and not self.driver.stepping:
                pass  # a run that loses the same worker twice while it opens ends
            elif found := [p for p in now if p.role == fault.role and p.doing == fault.aim]:
                return found[int(fault.which * len(found))].pid
            time.sleep(_POLL_S)
        return None

    def _hold_commit(self, processes: Sequence[Process]) -> bool:
        """Stop Redis while the learner learns. Returns whether the learner is done soon: the commit
        of the step then waits for Redis. Otherwise Redis goes on, and nobody has noticed.

        A commit takes a millisecond, and no title shows it: it is hardly met in any other way.
        """
        redis = next((process for process in processes if process.role == "redis"), None)
        learners = [process.pid for process in processes if process.role == "learner"]
        if redis is None or frozen(redis.pid) is None:
            return False
        self._held = redis.pid
        until = time.monotonic() + _HOLD_S
        while time.monotonic() < until:
            now = [described(pid) for pid in learners]
            if all(learner is not None and learner.doing == "idle" for learner in now):
                return True
            time.sleep(_POLL_S)
        self._let_redis_go()
        time.sleep(_GO_S)
        return False

    def _let_redis_go(self) -> None:
        if self._held is not None:
            send(self._held, signal.SIGCONT)
            self._held = None

    def _victim(self, fault: Fault) -> int | None:
        if fault.role == "driver":
            return self.driver.pid
        there = [
            process.pid
            for process in self._of_this_driver()
            if process.role == fault.role and process.pid not in self._asleep
        ]
        return there[int(fault.which * len(there))] if there else None

    def _of_this_driver(self) -> list[Process]:
        return [process for process in descendants() if process.pid not in self._old]

    def _states(self, fault: Fault, victim: Process) -> list[str]:
        """What the victim is doing, which stands still; for Redis and the driver, what the run is
        doing."""
        if fault.role not in ("redis", "driver"):
            return [victim.doing]
        states = run_states(self._of_this_driver())
        return states if self._held is None else ["commit", *states]

    def _kill_driver(self) -> None:
        send(self.driver.pid, signal.SIGKILL)
        self.driver.wait_ended(30)
        self.strikes[-1].noticed_s = time.time() - self.strikes[-1].time
        self._start_again()

    def _start_again(self) -> None:
        now = time.monotonic()
        self._old |= {process.pid: now for process in descendants()}
        for pid in self._asleep:  # nobody is left who could end what the harness has stopped
            send(pid, signal.SIGCONT)
        self._asleep.clear()
        before = self.driver.begun_anew
        self.driver.start()
        if self.driver.begun_anew > before:
            self._most_steps, self._last_view = 0, None

    # The watch

    def _turn(self, pause_s: float = _TURN_S) -> None:
        time.sleep(pause_s)
        bury(keep=self.driver.pid)
        self._note_recoveries()
        if time.monotonic() - self._looked_at > _LEDGER_S:
            self._looked_at = time.monotonic()
            self._look_at_ledger()
        for pid, since in list(self._old.items()):
            if described(pid) is None:
                del self._old[pid]
            elif time.monotonic() - since > _GONE_S:
                self.problems.append(f"{described(pid)} outlives its driver")
                send(pid, signal.SIGKILL)
                del self._old[pid]

    def _look_at_ledger(self) -> None:
        self._ports |= listened_on(descendants())
        waiting = [strike for strike in self.strikes if strike.recovered_s is None]
        if any(strike.fault.role in ("redis", "driver") for strike in waiting):
            return  # nobody answers
        view = self.driver.view()
        if view is None:
            return
        if self._last_view is not None:
            self.problems += fallen(self._last_view, view)
        self._last_view = view

    def _note_recoveries(self) -> None:
        waiting = [strike for strike in self.strikes if strike.recovered_s is None]
        unnoticed = [strike for strike in self.strikes if strike.noticed_s is None]
        done, now = self.driver.steps_done(), time.time()
        if unnoticed:
            warnings = self.driver.warnings()
        for strike in unnoticed:
            after = (
                then for then, text in warnings if then >= strike.time and strike.named_in(text)
            )
            if (first := next(after, None)) is not None:
                strike.noticed_s = first - strike.time
        if done > self._most_steps or self.driver.ended() == 0:
            for strike in waiting:
                strike.recovered_s = now - strike.time
            self._most_steps = max(done, self._most_steps)
        self._wake_up()

    def _wake_up(self) -> None:
        """Let processes that the run has done without say what they still have to say."""
        for pid, strike in list(self._asleep.items()):
            process = described(pid)
            noticed = strike.noticed_s is not None or time.time() > strike.time + _ASLEEP_S
            if process is None or process.state != "T":
                del self._asleep[pid]
            elif strike.of_frozen_driver:
                if time.time() > strike.time + _PAUSE_S:
                    print("the driver is woken", flush=True)
                    send(pid, signal.SIGCONT)
                    del self._asleep[pid]
            elif self.driver.ended() is not None or (strike.recovered_s is not None and noticed):
                print(f"{process.title} is woken; the run has gone on without it", flush=True)
                send(pid, signal.SIGCONT)
                del self._asleep[pid]

    # The end

    def _check_gone(self) -> None:
        """No process of the run is left, and nobody listens on its ports."""
        deadline = time.monotonic() + _GONE_S
        while left := descendants():
            bury(keep=self.driver.pid)
            if time.monotonic() > deadline:
                self.problems += [f"{process} outlives the run" for process in left]
                break
            time.sleep(_TURN_S)
        for inode in self._ports.keys() & listening_sockets().keys():
            self.problems.append(f"the run still listens on {self._ports[inode]}")

    def _end_everything(self) -> None:
        while left := descendants():
            for process in left:
                send(process.pid, signal.SIGKILL)
            time.sleep(_TURN_S)
            bury(keep=self.driver.pid)

    def _last_line(self) -> str:
        return self.driver.lines[-1][1] if self.driver.lines else "it said nothing"
