"""The flags of the commands that train, or that say whether and how fast one could train."""

from __future__ import annotations

import argparse
from pathlib import Path

from orchestrator.commands.flags.shared import add_config, add_overrides


def add_train_flags(train: argparse.ArgumentParser) -> None:
    add_config(train)
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


def add_replay_flags(replay: argparse.ArgumentParser) -> None:
    replay.add_argument(
        "folder", type=Path, metavar="RUN", help="run folder with trajectories, such as runs/shapes"
    )
    add_overrides(replay)
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


def add_simulate_flags(simulate: argparse.ArgumentParser) -> None:
    add_config(simulate)
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


def add_doctor_flags(doctor: argparse.ArgumentParser) -> None:
    add_config(doctor, optional=True)
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
