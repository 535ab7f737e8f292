"""Has the checks of a run made in a process of their own, while the driver starts Ray.

The checks load torch and transformers, which takes seconds and some hundred megabytes. The driver
needs neither.

Failure policy: ``checked_elsewhere`` hands over a function that waits for the result. It raises
what the checks have raised, and ``RunFailed`` when their process has died. There is no deadline,
because the checks may download a checkpoint; Ctrl-C ends the wait, and then the process.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import cache
from multiprocessing.connection import Connection, Pipe

from orchestrator.settings.inputs import Inputs, read_texts
from orchestrator.settings.run_config import RunConfig
from policy.errors import RunFailed, UserError
from policy.runtime import quick_imports

CHECKING = "checking the files of the run"  # what a wait for the result is called
_SIGNALS = {signal.SIGINT, signal.SIGTERM}
# It finds modules where this process does, however this one was started.
_PROGRAM = """\
import json, sys
sys.path[:] = json.loads(sys.argv[1])
from orchestrator.settings.check_process import answer
answer(int(sys.argv[2]))
"""


def checked_here(config: RunConfig) -> Inputs:
    """The inputs of the configuration, after all checks of its files and of this machine.

    Raises ``UserError`` that names what is wrong.
    """
    read_texts(config)  # before what follows, which takes seconds
    with quick_imports():
        from orchestrator.settings.input_checks import check_inputs
    from orchestrator.settings.machine import check_machine

    inputs = check_inputs(config)
    check_machine(config, inputs.size)
    return inputs


@contextmanager
def checked_elsewhere(config: RunConfig) -> Iterator[Callable[[], Inputs]]:
    """Begin ``checked_here`` in another process, which ends with the context.

    The context's value waits for the result. It may be called more than once. Raises ``UserError``
    at once for a mistake in a text file.
    """
    read_texts(config)
    ours, theirs = Pipe()
    # The signals that stop a run reach all processes of its terminal or of its Slurm job. This
    # process decides what follows. Its children inherit which signals are blocked.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
    try:
        # Not by multiprocessing, whose resource tracker would outlive this process for a moment.
        process = subprocess.Popen(
            [sys.executable, "-c", _PROGRAM, json.dumps(sys.path), str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    theirs.close()
    with suppress(BrokenPipeError, ConnectionResetError):  # it has died: ``result`` says so
        ours.send(config)

    @cache
    def result() -> Inputs:
        try:
            outcome: Inputs | Exception = ours.recv()
        except (EOFError, ConnectionResetError):
            code = process.wait()
            raise RunFailed(
                f"the process that checks the inputs ended early (exit code {code})"
            ) from None
        process.wait()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    try:
        yield result
    finally:
        process.kill()
        process.wait()
        ours.close()


def answer(fd: int) -> None:
    """What the other process does: it reads the configuration and sends the result."""
    driver = Connection(fd)
    config: RunConfig = driver.recv()
    try:
        outcome: Inputs | Exception = checked_here(config)
    except UserError as error:
        outcome = error
    except Exception:  # a bug: the driver prints it, with secrets masked
        outcome = RuntimeError(traceback.format_exc())
    with suppress(BrokenPipeError):  # the driver was killed meanwhile
        driver.send(outcome)
