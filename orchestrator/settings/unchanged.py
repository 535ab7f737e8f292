"""A resumed run must be the run that stopped: what changed since is refused by its name.

Settings are compared as this version understands them: one that an earlier version did not know
has its default there. Secrets are compared by name; their values were not written.
"""

from __future__ import annotations

import json
from pathlib import Path

from orchestrator.settings.layers import flat
from orchestrator.settings.run_config import RunConfig, dump_config, load_saved
from policy.digest import sha256
from policy.disk import write_whole
from policy.errors import UserError
from policy.text_files import read_json
from policy.yaml_text import parse

_INSTEAD = "resume it as it was, or start a new run from its checkpoint with model.path"
# What cannot change what is computed, with all that is below it; ``*`` is an index.
FREE = (
    # where things lie, and how often they are looked at
    *("name", "root", "cluster", "checkpoint", "evaluation.every", "evaluation.during"),
    *("cache", "rewards.*.cache"),
    # what is reserved for a process whose device and threads are settings of their own
    *("rollout.cpus_per_worker", "rollout.gpus_per_worker", "rollout.sleep_while_learning"),
    *("learner.cpus_per_rank", "learner.gpus_per_rank", "learner.rendezvous_port"),
    # how long and how often is waited for somebody, before the run stops
    *("rollout.timeout_s", "rollout.load_timeout_s"),
    *("learner.timeout_s", "learner.start_timeout_s", "learner.max_skipped_updates"),
    *("rewards.*.timeout_s", "rewards.*.retries", "rewards.*.retry_delay_s", "rewards.*.restarts"),
    "replacements",
    # what is judged of what was computed
    *("probe_tolerance", "rollout.vllm.parity_tolerance"),
)
# Compared by name: a value, or the mask of one, may become a reference.
_ENV_VARS = ".runtime_env.env_vars."
# Options of one class are its own affair but for this one's patience.
_REMOTE = "rewards.remote:RemoteReward"
_REMOTE_FREE = ("options.timeout_s", "options.retries")
_SETTINGS, _INPUTS = "config.yaml", "inputs.json"


def save_settings(config: RunConfig, folder: Path) -> None:
    """Write the resolved settings, and the SHA-256 of each input file by the key that names it."""
    write_whole(folder / _SETTINGS, dump_config(config))
    digests = {key: sha256(file) for key, file in _input_files(config).items()}
    write_whole(folder / _INPUTS, json.dumps(digests, indent=1) + "\n")


def check_unchanged(config: RunConfig, folder: Path) -> None:
    """Raise ``UserError`` that names the first setting or input file that is not the saved one."""
    saved = folder / _INPUTS
    # A run that was begun before digests were saved has none: its files are known by their paths.
    digests = read_json(saved) if saved.is_file() else None
    _check_settings(config, load_saved(folder / _SETTINGS), by_path=digests is None)
    if digests is not None:
        _check_files(_input_files(config), digests)


def _input_files(config: RunConfig) -> dict[str, Path]:
    """Files whose contents decide what is computed, but for the model, which the learner checks."""
    data = config.data
    files = {"data.train": data.train}
    files |= {f"data.evaluation.{name}": file for name, file in data.evaluation.items()}
    if data.leaks == "drop":  # they then say which training prompts are left
        files |= {f"data.validation.{index}": file for index, file in enumerate(data.validation)}
    if config.model.instruction is not None:
        files["model.instruction"] = config.model.instruction
    return files


def _check_files(files: dict[str, Path], digests: dict[str, str]) -> None:
    """By content: a file may have moved."""
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
        raise UserError(
            f"{key}: the run was started with {old.get(key)!r}, now it is {new.get(key)!r};"
            f" {_INSTEAD}"
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
    """More steps change those before them only through a learning rate that falls to the last."""
    constant = before.learner.schedule == config.learner.schedule == "constant"
    return constant and config.steps > before.steps


def _below(key: str, free: tuple[str, ...]) -> bool:
    parts = ["*" if part.isdecimal() else part for part in key.split(".")]
    return any(".".join(parts[: end + 1]) in free for end in range(len(parts)))
