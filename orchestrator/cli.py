"""The command ``eg-grpo``, which is the same as ``python -m orchestrator``.

This file has the parser and the exit codes. ``commands/`` has one file for each command.
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

    0: the command is done. 1: a worker failed or a file could not be written. 2: bad input, which
    one line names before any actor starts. 130: Ctrl-C or SIGTERM stopped the command. 141: nobody
    reads standard output any more, as after ``| head``.
    """
    sys.excepthook = _print_masked
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
    parser = _parser()
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


# The commands and their flags


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="eg-grpo",
        description="Train autoregressive text-to-image models with EG-GRPO.",
    )
    commands = parser.add_subparsers(required=True, metavar="command")

    def command(name: str, text: str) -> argparse.ArgumentParser:
        return commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")

    _add_train_flags(command("train", "train a model as a configuration file describes"))
    _add_replay_flags(
        command("replay", "train again on the trajectories that a run kept, without rollout")
    )
    _add_generate_flags(command("generate", "draw images for a prompt with a trained model"))
    _add_export_flags(command("export", "copy a checkpoint's model for other programs"))
    _add_data_actions(command("data", "download the public prompt files"))
    _add_status_flags(
        command("status", "show where a run is: groups, workers, errors and the time left")
    )
    _add_report_flags(command("report", "write report.html of a run, finished or not"))
    _add_serve_flags(
        command("serve", "show the page of runs in a browser on this machine, up to date")
    )
    _add_compare_flags(
        command("compare", "write one page of several runs, with the same prompts side by side")
    )
    _add_scale_flags(
        command("scale", "change the numbers of rollout and reward workers of a run that goes on")
    )
    _add_simulate_flags(
        command(
            "simulate", "show what staleness and more rollout workers are worth, without training"
        )
    )
    _add_doctor_flags(
        command("doctor", "check this machine, and whether a configuration can run on it")
    )
    return parser


def _add_train_flags(train: argparse.ArgumentParser) -> None:
    _add_config(train)
    group = train.add_mutually_exclusive_group()
    group.add_argument(
        "--resume",
        action="store_true",
        help="continue the run from its last checkpoint, or begin it if there is none",
    )
    group.add_argument(
        "--new",
        action="store_true",
        help="if the run folder exists, start a new run in name-2, name-3, ...",
    )
    group.add_argument(
        "--dry-run",
        action="store_true",
        help="check the configuration and its files, print all settings, and do not train",
    )
    train.set_defaults(command="train")


def _add_replay_flags(replay: argparse.ArgumentParser) -> None:
    replay.add_argument(
        "folder", type=Path, metavar="run", help="run folder with trajectories, such as runs/shapes"
    )
    _add_overrides(replay)
    replay.add_argument(
        "--from",
        dest="start",
        metavar="step-N",
        help="checkpoint of the run to begin with (default: the run's first model, or the first"
        " checkpoint from which on every step is kept)",
    )
    replay.add_argument(
        "--resume",
        action="store_true",
        help="continue the replay from its last checkpoint, or begin it if there is none",
    )
    replay.set_defaults(command="replay")


def _add_generate_flags(generate: argparse.ArgumentParser) -> None:
    generate.add_argument(
        "--model", required=True, help="checkpoint folder, or id[@revision] on the Hugging Face Hub"
    )
    generate.add_argument("--prompt", required=True, help="text that describes the image")
    generate.add_argument("--n", type=int, default=8, help="how many images (default 8)")
    generate.add_argument(
        "--batch-size", type=int, default=8, help="how many images are drawn at once (default 8)"
    )
    generate.add_argument(
        "--output",
        type=Path,
        help="folder for the images, which must be empty or not exist (default generated,"
        " generated-2, ...)",
    )
    generate.add_argument(
        "--seed", type=int, default=0, help="another seed draws other images (default 0)"
    )
    for name, kind, text in (
        ("--template", str, "name of the prompt template"),
        ("--instruction", Path, "file with the instruction for the chain of thought"),
        ("--guidance", float, "guidance scale w"),
        ("--temperature", float, "sampling temperature"),
        ("--max-cot-tokens", int, "most tokens of a chain of thought"),
    ):
        generate.add_argument(name, type=kind, help=f"{text} (default: the checkpoint's)")
    generate.add_argument(
        "--device", choices=("cpu", "cuda"), default="cpu", help="device to use (default cpu)"
    )
    generate.add_argument(
        "--dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="data type of the weights (default float32)",
    )
    generate.set_defaults(command="generate")


def _add_export_flags(export: argparse.ArgumentParser) -> None:
    export.add_argument(
        "checkpoint", type=Path, help="checkpoint folder of a run: .../checkpoints/step-N"
    )
    export.add_argument(
        "output", type=Path, help="folder for the model, which must be empty or not exist"
    )
    export.add_argument(
        "--adapter",
        action="store_true",
        help="copy the LoRA adapter for peft instead of the merged model",
    )
    export.set_defaults(command="export")


def _add_data_actions(data: argparse.ArgumentParser) -> None:
    text = (
        "download the files that are missing, check the others, and list the validation prompts"
        " that are also training prompts"
    )
    fetch = data.add_subparsers(required=True, metavar="action").add_parser(
        "fetch", help=text, description=f"{text[0].upper()}{text[1:]}."
    )
    fetch.add_argument(
        "--output", type=Path, default=Path("data"), help="folder of the files (default data/)"
    )
    fetch.set_defaults(command="data")


def _add_status_flags(status: argparse.ArgumentParser) -> None:
    status.add_argument("folder", type=Path, metavar="RUN", help="run folder: runs/NAME")
    status.add_argument("--groups", action="store_true", help="list every group of the run")
    status.add_argument("--json", action="store_true", help="print one JSON object")
    status.set_defaults(command="status")


def _add_report_flags(report: argparse.ArgumentParser) -> None:
    report.add_argument("folder", type=Path, metavar="RUN", help="run folder: runs/NAME")
    report.set_defaults(command="report")


def _add_serve_flags(serve: argparse.ArgumentParser) -> None:
    serve.add_argument("folders", type=Path, nargs="+", metavar="RUN", help="run folder: runs/NAME")
    serve.add_argument(
        "--port",
        type=int,
        default=8000,
        help="port on 127.0.0.1 (default 8000); with 0 the system chooses a free one",
    )
    serve.set_defaults(command="serve")


def _add_compare_flags(compare: argparse.ArgumentParser) -> None:
    compare.add_argument(
        "folders",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="run folder: runs/NAME; the others are compared with the first",
    )
    compare.add_argument(
        "--output",
        type=Path,
        default=Path("comparison.html"),
        help="file for the page (default comparison.html)",
    )
    compare.set_defaults(command="compare")


def _add_scale_flags(scale: argparse.ArgumentParser) -> None:
    scale.add_argument("folder", type=Path, metavar="RUN", help="run folder: runs/NAME")
    scale.add_argument(
        "counts",
        nargs="+",
        metavar="ROLE=N",
        help="rollout=N for rollout workers, NAME=N for the workers of the reward NAME",
    )
    scale.add_argument(
        "--wait",
        type=float,
        default=600.0,
        help="seconds to wait for the driver's answer (default 600)",
    )
    scale.set_defaults(command="scale")


def _add_simulate_flags(simulate: argparse.ArgumentParser) -> None:
    _add_config(simulate)
    simulate.add_argument(
        "--seconds",
        metavar="rollout=S,...",
        default="",
        help="rollout: to sample a batch; reward: to score it; learn: an update; sync: to load new"
        " weights; start: to start a worker after a loss; fetch: to send the weights to one host."
        " rollout and learn are needed without --from; the others are 0 if they are not given",
    )
    simulate.add_argument(
        "--from",
        dest="measured",
        type=Path,
        metavar="RUN",
        help="run folder whose last steps say how long each of these takes",
    )
    simulate.add_argument(
        "--rollout",
        metavar="N,...",
        help="numbers of rollout workers to compare (default: the configuration's)",
    )
    simulate.add_argument(
        "--reward",
        type=int,
        metavar="N",
        help="workers of each reward (default: the fewest in the configuration)",
    )
    simulate.add_argument(
        "--hosts",
        type=int,
        default=1,
        metavar="N",
        help="hosts that the rollout workers are spread over (default 1)",
    )
    simulate.add_argument(
        "--against",
        type=Path,
        metavar="RUN",
        help="run folder whose step time is printed beside the simulated one of its settings",
    )
    simulate.add_argument(
        "--spread",
        type=float,
        default=0.0,
        help="standard deviation of each duration over its mean (default 0)",
    )
    simulate.add_argument(
        "--losses",
        metavar="rollout=S,...",
        default="",
        help="mean seconds between two losses of a rollout worker, reward worker or learner",
    )
    simulate.add_argument("--seed", type=int, default=0, help="seed of what is drawn at random")
    simulate.set_defaults(command="simulate")


def _add_doctor_flags(doctor: argparse.ArgumentParser) -> None:
    _add_config(doctor, optional=True)
    group = doctor.add_mutually_exclusive_group()
    group.add_argument(
        "--cluster",
        metavar="ADDRESS",
        help="check each host of this Ray cluster on which a worker of the run may land",
    )
    group.add_argument(
        "--plan",
        action="store_true",
        help="show the memory that the configuration needs; exit code 2 if it cannot fit",
    )
    for name, kind, text in (
        ("--gpus", int, "number of GPUs for --plan, with --gpu-memory (default: this machine's)"),
        ("--gpu-memory", float, "GiB of each of these GPUs (default: this machine's)"),
        (
            "--host-memory",
            float,
            "GiB of host memory for --plan (default: this machine's; with --gpus, not checked)",
        ),
    ):
        doctor.add_argument(name, type=kind, help=text)
    doctor.set_defaults(command="doctor")


def _add_config(parser: argparse.ArgumentParser, optional: bool = False) -> None:
    parser.add_argument(
        "config", type=Path, nargs="?" if optional else None, help="configuration file (YAML)"
    )
    _add_overrides(parser)


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="replace a setting of the file, such as learner.learning_rate=2e-6",
    )


def _fail(message: str, code: int) -> int:
    print(f"eg-grpo: {masked(message)}", file=sys.stderr)
    return code
