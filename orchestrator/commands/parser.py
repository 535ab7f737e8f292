"""The command line: each command, what it does in one line, and where its flags are.

This module loads none of the libraries that the commands need, so that ``--help`` is fast.
"""

from __future__ import annotations

import argparse
import importlib.metadata

from orchestrator.commands.flags.analysis import add_analyze_flags
from orchestrator.commands.flags.evaluation import add_evaluate_flags
from orchestrator.commands.flags.files import add_config_flags, add_configs_flags, add_data_flags
from orchestrator.commands.flags.machine import add_completion_flags, add_env_flags
from orchestrator.commands.flags.models import (
    add_export_flags,
    add_generate_flags,
    add_init_random_flags,
    add_rewards_flags,
)
from orchestrator.commands.flags.runs import (
    add_compare_flags,
    add_report_flags,
    add_scale_flags,
    add_serve_flags,
    add_status_flags,
)
from orchestrator.commands.flags.training import (
    add_doctor_flags,
    add_replay_flags,
    add_simulate_flags,
    add_train_flags,
)

# Each command is the module of its name in ``orchestrator.commands``, with _ in the place of -.
COMMANDS = (
    ("train", "train a model as a configuration file describes", add_train_flags),
    (
        "replay",
        "train again on the trajectories that a run kept, without rollout",
        add_replay_flags,
    ),
    ("generate", "draw images for a prompt with a trained model", add_generate_flags),
    ("analyze", "draw a dataset and make the analyses of the paper from it", add_analyze_flags),
    ("evaluate", "measure a model with a benchmark suite", add_evaluate_flags),
    ("export", "copy a checkpoint's model for other programs", add_export_flags),
    (
        "init-random",
        "write a checkpoint of real shape with random weights",
        add_init_random_flags,
    ),
    ("rewards", "try the rewards of a configuration", add_rewards_flags),
    ("config", "explain the settings of a configuration file", add_config_flags),
    ("configs", "list or copy the configurations that ship with the package", add_configs_flags),
    ("data", "provide the public prompt files and noun chunks", add_data_flags),
    (
        "status",
        "show where a run is: groups, workers, errors and the time left",
        add_status_flags,
    ),
    ("report", "write report.html of a run, finished or not", add_report_flags),
    ("serve", "show the page of runs in a browser on this machine, up to date", add_serve_flags),
    (
        "compare",
        "write one page of several runs, side by side",
        add_compare_flags,
    ),
    (
        "scale",
        "change the numbers of workers of a run that goes on",
        add_scale_flags,
    ),
    (
        "simulate",
        "show what staleness and more workers are worth",
        add_simulate_flags,
    ),
    (
        "doctor",
        "check this machine, and whether a configuration can run on it",
        add_doctor_flags,
    ),
    ("env", "print what a bug report needs to know about this machine", add_env_flags),
    ("completion", "print a script for the shell's completion", add_completion_flags),
)


def make_parser() -> argparse.ArgumentParser:
    """The parser of ``eg-grpo``. It puts the name of the command's module into ``command``."""
    parser = argparse.ArgumentParser(
        prog="eg-grpo",
        description="Train autoregressive text-to-image models with EG-GRPO.",
        epilog="Begin with: eg-grpo train shapes. Flags: eg-grpo COMMAND --help.",
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {package_version()}")
    commands = parser.add_subparsers(required=True, title="commands", metavar="command")
    for name, text, add_flags in COMMANDS:
        command = commands.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        command.set_defaults(command=name.replace("-", "_"))
        add_flags(command)
    return parser


def package_version() -> str:
    """The version of the installed package; a checkout that is not installed has none."""
    try:
        return importlib.metadata.version("eg-grpo")
    except importlib.metadata.PackageNotFoundError:
        return "of a checkout that is not installed"
