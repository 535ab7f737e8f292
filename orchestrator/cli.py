"""``eg-grpo train | generate | export | data | doctor``, same as ``python -m orchestrator``.

The parser and the exit codes; what a command does stands in the file of its name in ``commands/``.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import io
import os
import select
import signal
import sys
import traceback
from pathlib import Path
from types import TracebackType

from policy.errors import RunFailed, Stopped, UserError
from policy.runtime import keep_freed_memory
from policy.secrets import masked
from policy.text_files import is_writable


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code.

    0: done. 1: a worker failed, or the disk did. 2: bad input, said in one line before any actor
    started. 130: stopped by the user or by SIGTERM. 141: nobody reads standard output any more, as
    behind ``| head``.
    """
    sys.excepthook = _print_masked
    if isinstance(sys.stdout, io.TextIOWrapper):  # a terminal that is not UTF-8 gets escapes
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            return _run(arguments)
        finally:
            if sys.stdout is not None:  # closed by the caller
                sys.stdout.flush()  # here, where it can be helped, and not when Python ends
    except BrokenPipeError:
        if not _stdout_is_gone():
            raise
        _forget_stdout()
        return 128 + signal.SIGPIPE
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        _forget_stdout()
        what = error.filename or "standard output"  # every file of a run is named where it fails
        return _fail(f"{what} cannot be written: {error.strerror}", 1)


def _print_masked(
    kind: type[BaseException], error: BaseException, trace: TracebackType | None
) -> None:
    """A bug's traceback, as Python prints it."""
    sys.stderr.write(masked("".join(traceback.format_exception(kind, error, trace))))


def _run(arguments: list[str] | None) -> int:
    keep_freed_memory()
    words = sys.argv[1:] if arguments is None else arguments
    for word in words:
        if not is_writable(word):
            return _fail(f"argument {word!a} is no text that can be written: not UTF-8", 2)
    # Flags and key=value overrides may come in any order, which subparsers alone do not allow.
    parser = _parser()
    parsed, leftovers = parser.parse_known_args(words)
    overrides = [word for word in leftovers if "=" in word and not word.startswith("-")]
    if len(overrides) < len(leftovers) or (overrides and not hasattr(parsed, "overrides")):
        unknown = [word for word in leftovers if word not in overrides] or [
            word.partition("=")[0]
            for word in leftovers  # a value may be a secret
        ]
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    if overrides:
        parsed.overrides += overrides
    try:
        # Only now: some commands want libraries that others can do without, or later.
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
    """What is still to be written would raise again when Python ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _stdout_is_gone() -> bool:
    """Whether standard output is a pipe that nobody reads: a socket of Ray or Redis can break too,
    and is another matter."""
    try:
        waiting = select.poll()
        waiting.register(sys.stdout.fileno(), 0)
    except (AttributeError, OSError, ValueError):  # no file, as in tests
        return False
    return any(event & select.POLLERR for _, event in waiting.poll(0))


# The commands and their flags


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="eg-grpo",
        description="Train autoregressive text-to-image models with EG-GRPO.",
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    train = commands.add_parser("train", help="train a policy as a configuration file describes")
    _add_train_flags(train)
    generate = commands.add_parser("generate", help="draw images for a prompt")
    _add_generate_flags(generate)
    export = commands.add_parser("export", help="write a checkpoint's model for other programs")
    _add_export_flags(export)
    data = commands.add_parser("data", help="get the public prompt files")
    fetch = data.add_subparsers(required=True, metavar="action").add_parser(
        "fetch", help="download what is missing, check it, list validation prompts in training"
    )
    fetch.add_argument("--output", type=Path, default=Path("data"), help="folder (default data/)")
    fetch.set_defaults(command="data")
    doctor = commands.add_parser("doctor", help="check this machine and, if given, a configuration")
    _add_doctor_flags(doctor)
    return parser


def _add_train_flags(train: argparse.ArgumentParser) -> None:
    _add_config(train)
    group = train.add_mutually_exclusive_group()
    group.add_argument("--resume", action="store_true", help="go on from the last checkpoint")
    group.add_argument(
        "--new", action="store_true", help="if the run folder is there, take name-2, name-3, ..."
    )
    group.add_argument(
        "--dry-run", action="store_true", help="check, print the resolved file, stop"
    )
    train.set_defaults(command="train")


def _add_generate_flags(generate: argparse.ArgumentParser) -> None:
    generate.add_argument("--model", required=True, help="checkpoint folder, or Hub id[@revision]")
    generate.add_argument("--prompt", required=True, help="what to draw")
    generate.add_argument("--n", type=int, default=8, help="how many images (default 8)")
    generate.add_argument(
        "--batch-size", type=int, default=8, help="images drawn at once (default 8)"
    )
    generate.add_argument(
        "--output",
        type=Path,
        help="folder to write; must not exist or be empty (default generated, generated-2, ...)",
    )
    generate.add_argument(
        "--seed", type=int, default=0, help="another one draws other images (default 0)"
    )
    for name, kind, text in (
        ("--template", str, "prompt template"),
        ("--instruction", Path, "file with the CoT instruction"),
        ("--guidance", float, "guidance scale w"),
        ("--temperature", float, "sampling temperature"),
        ("--max-cot-tokens", int, "length at which a CoT is cut"),
    ):
        generate.add_argument(name, type=kind, help=f"{text} (default: as the checkpoint says)")
    generate.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="where to compute (default cpu)"
    )
    generate.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="of the weights (default float32)",
    )
    generate.set_defaults(command="generate")


def _add_export_flags(export: argparse.ArgumentParser) -> None:
    export.add_argument("checkpoint", type=Path, help="step-N folder of a run")
    export.add_argument("output", type=Path, help="folder to write; must not exist or be empty")
    export.add_argument(
        "--adapter", action="store_true", help="of a LoRA run: peft's adapter, not the merged model"
    )
    export.set_defaults(command="export")


def _add_doctor_flags(doctor: argparse.ArgumentParser) -> None:
    _add_config(doctor, optional=True)
    doctor.add_argument(
        "--plan",
        action="store_true",
        help="say what memory the configuration will need, and refuse it if it cannot fit",
    )
    for name, kind, text in (
        ("--gpus", int, "GPUs to plan for (default: those of this machine)"),
        ("--gpu-memory", float, "GiB of each"),
        ("--host-memory", float, "GiB of host memory to plan for"),
    ):
        doctor.add_argument(name, type=kind, help=text)
    doctor.set_defaults(command="doctor")


def _add_config(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    parser.add_argument(
        "config", type=Path, nargs="?" if optional else None, help="configuration file (YAML)"
    )
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="e.g. learner.learning_rate=2e-6"
    )


def _fail(message: str, code: int) -> int:
    print(f"eg-grpo: {masked(message)}", file=sys.stderr)
    return code
