"""Checks that a resumed run has the settings and input files that it was started with.

A change that could alter the results is refused with the name of the setting. A setting that is new
in this version counts as if the run had been started with its default. Of secrets only the names
are compared, because their values are not saved.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from orchestrator.settings.layers import flat
from orchestrator.settings.run_config import RunConfig, dump_config, load_saved
from policy.digest import sha256
from policy.disk import write_whole
from policy.errors import UserError
from policy.secrets import masked_tree
from policy.text_files import read_json
from policy.yaml_text import parse

_INSTEAD = "resume it as it was, or start a new run from its checkpoint with model.path"
# Settings that may change, because they do not affect the results. A key includes all keys below
# it; ``*`` stands for an index.
FREE = (
    # Another number of ranks adds gradients in another order, so that results differ by rounding.
    # It may change, because a run must be able to go on with the machines that are left.
    *("learner.ranks", "learner.min_ranks"),
    # A matrix product may add in another order with another number of threads. It must be possible
    # to go on with a machine of fewer cores.
    "learner.threads",
    # Other batches add in another order, or choose another kernel. They may change, because a run
    # must be able to go on when memory turned out to be short.
    *("learner.micro_batch_size", "rollout.batch_size", "rewards.*.batch_size"),
    "learner.gradient_checkpointing",
    # places of files and processes; how often the run saves and evaluates, and what it keeps
    *("name", "root", "cluster", "checkpoint", "evaluation.every", "evaluation.during"),
    *("cache", "rewards.*.cache", "ledger", "trajectories"),
    "metrics",  # where they go
    # CPUs and GPUs that Ray reserves; devices and rollout's threads are separate settings
    *("rollout.cpus_per_worker", "rollout.gpus_per_worker", "rollout.sleep_while_learning"),
    *("learner.cpus_per_rank", "learner.gpus_per_rank", "learner.rendezvous_port"),
    # Bounds of the number of workers. The most workers that a run may have decide how batches are
    # cut, see ``_same_batches``.
    *("rollout.min_workers", "rollout.autoscale", "rewards.*.min_workers", "rewards.*.autoscale"),
    # hosts on which workers may run
    *("rollout.resources", "learner.resources", "learner.placement", "rewards.*.resources"),
    # timeouts, and numbers of retries before the run stops
    *("rollout.timeout_s", "rollout.load_timeout_s", "rollout.restarts", "rollout.attempts"),
    *(
        "learner.timeout_s",
        "learner.start_timeout_s",
        "learner.max_skipped_updates",
        "learner.restarts",
    ),
    *("rewards.*.timeout_s", "rewards.*.retries", "rewards.*.retry_delay_s", "rewards.*.restarts"),
    "replacements",
    # tolerances of checks, which do not change the checked numbers
    *("probe_tolerance", "rollout.vllm.parity_tolerance"),
)
# Environment variables are compared by name. A value may be replaced by a ``${NAME}`` reference.
_ENV_VARS = ".runtime_env.env_vars."
# The options of a reward class may affect its scores. Of this class it is known that its timeout
# and its retries do not.
_REMOTE = "rewards.remote:RemoteReward"
_REMOTE_FREE = ("options.timeout_s", "options.retries")
_WORKERS = re.compile(r"(?:rollout|rewards\.(?P<index>[0-9]+))\.workers")
_SETTINGS, _INPUTS = "config.yaml", "inputs.json"


def save_settings(config: RunConfig, folder: Path) -> None:
    """Write the resolved settings and the SHA-256 of each input file, by its dotted key."""
    write_whole(folder / _SETTINGS, dump_config(config))
    digests = {key: sha256(file) for key, file in input_files(config).items()}
    write_whole(folder / _INPUTS, json.dumps(digests, indent=1) + "\n")


def check_unchanged(config: RunConfig, folder: Path) -> None:
    """Raise ``UserError`` that names the first setting or input file that has changed."""
    saved = folder / _INPUTS
    # Older versions saved no digests. For their runs the paths of the files are compared instead.
    digests = read_json(saved) if saved.is_file() else None
    _check_settings(config, load_saved(folder / _SETTINGS), by_path=digests is None)
    if digests is not None:
        _check_files(input_files(config), digests)


def settings_that_count(config: RunConfig, given_alone: bool = False) -> dict[str, Any]:
    """The settings that may affect the results, by dotted key; without secrets.

    With ``given_alone`` those that have their default are left out.
    """
    tree = config.model_dump(mode="json", exclude_defaults=given_alone)
    return {key: value for key, value in flat(masked_tree(tree)).items() if counts(key)}


def counts(key: str) -> bool:
    """Whether a setting, by its dotted key, may affect the results."""
    return not _below(key, FREE)


def changed_settings(config: RunConfig, before: RunConfig) -> set[str]:
    """The keys of settings that may affect the results and differ."""
    old, new = (settings_that_count(each) for each in (before, config))
    return {key for key in old.keys() | new.keys() if old.get(key) != new.get(key)}


def input_files(config: RunConfig) -> dict[str, Path]:
    """Files whose contents affect the results. The model is missing: the learner checks it."""
    data = config.data
    files = {"data.train": data.train}
    files |= {f"data.evaluation.{name}": file for name, file in data.evaluation.items()}
    if data.leaks == "drop":  # then the validation files decide which training prompts are used
        files |= {f"data.validation.{index}": file for index, file in enumerate(data.validation)}
    if config.model.instruction is not None:
        files["model.instruction"] = config.model.instruction
    return files


def _check_files(files: dict[str, Path], digests: dict[str, str]) -> None:
    """Compare files by content, because a file may have moved."""
    for key in sorted(files.keys() ^ digests.keys()):
        was = "with" if key in digests else "without"
        raise UserError(f"{key}: the run was started {was} it; {_INSTEAD}")
    for key, file in files.items():
        if sha256(file) != digests[key]:
            raise UserError(f"{key}: {file} was changed since the run was started; {_INSTEAD}")


def _check_settings(config: RunConfig, before: RunConfig, by_path: bool) -> None:
    files = () if by_path else ("data.train", "data.evaluation", "model.instruction")
    if not by_path or config.data.leaks == "keep":
        files = (*files, "data.validation")
    old, new = (flat(parse(dump_config(c), _SETTINGS)) for c in (before, config))
    for key in sorted(old.keys() | new.keys()):
        if old.get(key) == new.get(key) or _below(key, (*FREE, *files)) or _is_free(key, config):
            continue
        if _ENV_VARS in key and key in old and key in new:
            continue
        if key == "steps" and _may_go_on(before, config):
            continue
        if _same_batches(key, before, config):
            continue
        instead = _INSTEAD
        if _WORKERS.fullmatch(key) and new.get(key, 0) < old.get(key, 0):
            instead = f"{key.replace('.workers', '.max_workers')}={old[key]} keeps its batches"
        raise UserError(
            f"{key}: the run was started with {old.get(key)!r}, now it is {new.get(key)!r};"
            f" {instead}"
        )


def _is_free(key: str, config: RunConfig) -> bool:
    room, _, rest = key.partition(".")
    index, _, option = rest.partition(".")
    return (
        room == "rewards"
        and option in _REMOTE_FREE
        and int(index) < len(config.rewards)
        and config.rewards[int(index)].factory == _REMOTE
    )


def _may_go_on(before: RunConfig, config: RunConfig) -> bool:
    """Whether the run may get more steps than before.

    Only with a constant learning rate and guidance. What falls until the last step would have been
    different in the steps that are already done.
    """
    return _nothing_falls(before, config) and config.steps > before.steps


def _nothing_falls(*configs: RunConfig) -> bool:
    return all(
        config.learner.schedule == "constant" and config.rollout.final_guidance_scale is None
        for config in configs
    )


def _same_batches(key: str, before: RunConfig, config: RunConfig) -> bool:
    """Whether a key is of a number of workers that changes nothing.

    Batches are cut for the most workers that a run may have: ``max_workers``, or else ``workers``.
    How many there are changes no number, so a run can go on with the machines that are left.
    """
    found = _WORKERS.fullmatch(key.replace(".max_workers", ".workers"))
    if found is None:
        return False
    if found["index"] is None:
        return before.rollout.most_workers == config.rollout.most_workers
    index = int(found["index"])
    if index >= min(len(before.rewards), len(config.rewards)):
        return False
    return before.rewards[index].most_workers == config.rewards[index].most_workers


def _below(key: str, free: tuple[str, ...]) -> bool:
    parts = ["*" if part.isdecimal() else part for part in key.split(".")]
    return any(".".join(parts[: end + 1]) in free for end in range(len(parts)))
