"""The command ``eg-grpo``, which is the same as ``python -m orchestrator``.

This file has the exit codes. ``commands/parser.py`` has the flags, and ``commands/`` one file for
each command.
"""

from __future__ import annotations

import errno
import importlib
import io
import os
import select
import signal
import sys
import traceback
from types import TracebackType

from orchestrator.commands.parser import make_parser
from policy.errors import RunFailed, Stopped, UserError
from policy.runtime import keep_freed_memory
from policy.secrets import masked
from policy.text_files import is_writable


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code.

    0: the command is done. 1: a worker failed or a file could not be written. 2: bad input, which
    one line names before any actor starts. 130: Ctrl-C or SIGTERM stopped the command. 141: nobody
    reads standard output any more, as after ``| head``.
    """
    sys.excepthook = _print_masked
    if arguments is None:
        # A reward of the user may be a module of the working folder. ``python -m`` finds it; the
        # script that pip installs would not. Ray has its workers look there by itself.
        sys.path.insert(0, "")
    if isinstance(sys.stdout, io.TextIOWrapper):  # escapes for a terminal that is not UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            return _run(arguments)
        finally:
            if sys.stdout is not None:  # the caller may have closed it
                sys.stdout.flush()  # an error here is handled below; at Python's exit it is not
    except BrokenPipeError:
        if not _stdout_is_gone():
            raise
        _forget_stdout()
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _forget_stdout()
        what = error.filename or "standard output"  # errors of the run's files name them
        return _fail(f"{what} cannot be written: {error.strerror}", 1)


def _print_masked(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """Print the traceback of a bug as Python does, with secrets masked."""
    sys.stderr.write(masked("".join(traceback.format_exception(kind, error, trace))))


def _run(arguments: list[str] | None) -> int:
    keep_freed_memory()
    words = sys.argv[1:] if arguments is None else arguments
    for word in words:
        if not is_writable(word):
            return _fail(f"argument {word!a} is no text that can be written: not UTF-8", 2)
    # Flags and key=value overrides may come in any order. Subparsers do not allow that: they leave
    # some overrides over.
    parser = make_parser()
    if not words:
        parser.print_help(sys.stderr)
        return 2
    parsed, leftovers = parser.parse_known_args(words)
    overrides = [word for word in leftovers if "=" in word and not word.startswith("-")]
    if len(overrides) < len(leftovers) or (overrides and not hasattr(parsed, "overrides")):
        unknown = [word for word in leftovers if word not in overrides] or [
            word.partition("=")[0]
            for word in leftovers  # the value may be a secret
        ]
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if overrides:
        parsed.overrides += overrides
    try:
        # Imported only now, because a command needs libraries that other commands do not.
        command = importlib.import_module(f"orchestrator.commands.{parsed.command}")
        command.run(parsed)
    except UserError as error:
        return _fail(str(error), 2)
    except RunFailed as error:
        return _fail(str(error), 1)
    except (KeyboardInterrupt, Stopped) as error:
        return _fail(str(error) or "stopped", 130)
    return 0


def _forget_stdout() -> None:
    """Send buffered output to /dev/null: Python writes it at its exit and would fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _stdout_is_gone() -> bool:
    """Whether standard output is a pipe that nobody reads.

    The broken pipe may also be a socket of Ray or Redis. That error is a bug or a failure.
    """
    try:
        waiting = select.poll()
        waiting.register(sys.stdout.fileno(), 0)
    except (AttributeError, OSError, ValueError):  # standard output is no file, as in tests
        return False
    return any(event & select.POLLERR for _, event in waiting.poll(0))


def _fail(message: str, code: int) -> int:
    print(f"eg-grpo: {masked(message)}", file=sys.stderr)
    return code
