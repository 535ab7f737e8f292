"""One validated description of a run: YAML, dotted overrides, the rooms' own settings composed.

Every mistake is one line that names the key, before any actor starts.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from learner.config import AlgorithmConfig, LearnerConfig
from orchestrator.cluster import in_submitted_job
from orchestrator.config_files import forget_preset, read_tree
from policy.errors import UserError
from policy.text_files import is_writable, unwritable
from rewards.config import CacheConfig, RewardConfig
from rollout.config import RolloutConfig


class Settings(BaseModel):
    """Unknown keys fail and nothing changes after loading."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelConfig(Settings):
    """The Janus checkpoint a run starts from."""

    path: str = Field(
        min_length=1,
        description="checkpoint folder, step-N folder of an earlier run, or Hub id[@revision]",
    )
    template: str = Field(description="prompt template by name (policy/templates.py)")
    instruction: Path | None = Field(
        default=None, description="file with the CoT instruction; {} stands for the prompt"
    )


class DataConfig(Settings):
    """Prompt files, one JSON object a line."""

    train: Path
    evaluation: dict[str, Path] = Field(
        default_factory=dict, description="fixed evaluation sets by name, such as seen, held_out"
    )
    validation: tuple[Path, ...] = Field(
        default=(),
        description="benchmark prompts that training should not see: *.txt, one a line, or *.json",
    )
    leaks: Literal["keep", "drop"] = Field(
        default="keep", description="training prompts that are in `validation` too"
    )


class EvaluationConfig(Settings):
    """Fixed prompts and fixed seeds, so that steps and runs are compared pair by pair."""

    every: int = Field(default=20, ge=1, description="steps between evaluations of `during`")
    during: str = Field(default="held_out", description="the set evaluated during training")
    prompts: int = Field(default=64, ge=1, description="prompts taken from the head of each file")
    samples_per_prompt: int = Field(default=4, ge=1)
    guidance_scales: tuple[float, ...] | None = Field(
        default=None, description="guidance in evaluation; default: that of rollout"
    )


class CheckpointConfig(Settings):
    """The best checkpoint by `evaluation.during`, and the last, are kept."""

    every: int = Field(default=20, ge=1, description="steps between checkpoints")


class ClusterConfig(Settings):
    """Where the actors run."""

    address: str | None = Field(
        default=None, description="an existing Ray cluster; default: a private one on loopback"
    )
    object_store_mb: int = Field(
        default=512, ge=80, description="object store of a private cluster, in MiB of /dev/shm"
    )
    start_timeout_s: float = Field(
        default=300, gt=0, description="deadline for rollout and reward workers to come up, seconds"
    )


class RunConfig(Settings):
    """Everything a run is made of."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    root: Path = Field(default=Path("runs"), description="run folders are made below it")
    seed: int = Field(default=0, ge=0)
    steps: int = Field(ge=1, description="optimizer steps, one batch each")
    prompts_per_step: int = Field(ge=1, description="prompt groups per optimizer step")
    replacements: int = Field(
        default=3, ge=0, description="times a group whose rewards failed is sampled again"
    )
    probe_tolerance: float = Field(
        default=1e-5, gt=0, description="nats by which a worker's probe may differ"
    )
    model: ModelConfig
    data: DataConfig
    rollout: RolloutConfig
    rewards: tuple[RewardConfig, ...] = Field(min_length=1)
    cache: CacheConfig = CacheConfig()
    learner: LearnerConfig
    algorithm: AlgorithmConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    cluster: ClusterConfig = ClusterConfig()

    @model_validator(mode="after")
    def _check_sizes(self) -> RunConfig:
        names = [reward.name for reward in self.rewards]
        if len(set(names)) < len(names):
            raise ValueError(f"rewards: names must differ, found {', '.join(names)}")
        if reserved := {"mean", "std", "group_std"} & set(names):
            raise ValueError(f"rewards: {reserved.pop()} is the name of a metric of the total")
        batch, share = self.trajectories_per_step, self.learner.ranks
        if batch % (share * self.learner.micro_batch_size):
            raise ValueError(
                f"prompts_per_step x rollout.group_size = {batch} trajectories cannot be divided"
                f" by learner.ranks x learner.micro_batch_size = {share} x"
                f" {self.learner.micro_batch_size}"
            )
        if self.data.evaluation and self.evaluation.during not in self.data.evaluation:
            raise ValueError(
                f"evaluation.during is {self.evaluation.during!r}, but data.evaluation holds only"
                f" {', '.join(self.data.evaluation)}"
            )
        return self

    @property
    def trajectories_per_step(self) -> int:
        return self.prompts_per_step * self.rollout.group_size

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.root / self.name


def load_config(path: Path, overrides: list[str]) -> RunConfig:
    """Read a YAML file and its ``base``, apply ``key.sub=value`` overrides (YAML too), validate.

    Relative paths are taken from the working folder; ``root`` must be absolute in a job that was
    submitted to Ray. Raises ``UserError`` with one line that names the key at fault, and for an
    unknown key the nearest one.
    """
    tree = read_tree(path)
    if any(override.startswith("algorithm.preset=") for override in overrides):
        forget_preset(tree)  # before any of them: an override stands, whatever their order
    for override in overrides:
        _apply(tree, override)
    if place := unwritable(tree):
        raise UserError(f"{path}: {place} holds half a surrogate pair")
    try:
        config = RunConfig.model_validate(tree)
    except ValidationError as error:
        raise UserError(f"{path}: {_first_problem(error)}") from None
    if in_submitted_job() and not config.root.is_absolute():
        raise UserError(
            f"root: {config.root} would lie in the job's own copy of the working folder, which Ray"
            " deletes; give an absolute path on shared storage"
        )
    root = config.root.absolute()
    if not is_writable(str(root)):  # of the working folder, which is no setting
        raise UserError(f"root: {str(root)!a} is no text that can be written: not UTF-8")
    return config.model_copy(update={"root": root})


def dump_config(config: RunConfig) -> str:
    """The resolved settings as YAML; loading them again gives the same run."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def _apply(tree: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise UserError(f"override {override!r} is not of the form key=value")
    *parents, leaf = key.split(".")
    node: Any = tree
    for depth, name in enumerate(parents):
        node = _below(node, name, override)
        if not isinstance(node, dict | list):
            raise UserError(f"override {override!r}: {'.'.join(parents[: depth + 1])} has no keys")
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"override {override!r}: the value is not YAML") from None
    if isinstance(value, str):
        value = _number(value)
    if isinstance(node, list):
        _item(node, leaf, override)
        node[int(leaf)] = value
    else:
        node[leaf] = value


def _below(node: Any, name: str, override: str) -> Any:
    if isinstance(node, list):
        return _item(node, name, override)
    if node.get(name) is None:  # a resolved file spells out null where a group of settings is off
        node[name] = {}
    return node[name]


def _item(node: list[Any], name: str, override: str) -> Any:
    if not name.isdecimal() or int(name) >= len(node):
        raise UserError(f"override {override!r}: {name!r} is no index of a list of {len(node)}")
    return node[int(name)]


def _number(text: str) -> str | float:
    """YAML 1.1 reads 2e-6 as a string; people mean the number."""
    try:
        return float(text)
    except ValueError:
        return text


def _first_problem(error: ValidationError) -> str:
    problem = error.errors()[0]
    key = ".".join(str(part) for part in problem["loc"])
    if problem["type"] == "extra_forbidden":
        known = _keys_at(RunConfig, problem["loc"][:-1])
        nearest = difflib.get_close_matches(str(problem["loc"][-1]), known, n=1)
        return f"unknown key {key}" + (f"; did you mean {nearest[0]}?" if nearest else "")
    if problem["type"] == "missing":
        return f"key {key} is missing"
    message = problem["msg"].removeprefix("Value error, ")
    return f"{key}: {message}" if key else message


def _keys_at(model: Any, location: tuple[int | str, ...]) -> list[str]:
    for part in location:
        if isinstance(part, int):
            continue
        model = _model_in(model.model_fields[part].annotation)
    return list(model.model_fields)


def _model_in(annotation: Any) -> Any:
    """The settings class inside an annotation such as ``tuple[RewardConfig, ...]``."""
    if get_origin(annotation) in (tuple, list, Union, UnionType, Literal):
        inner = [_model_in(argument) for argument in get_args(annotation)]
        return next((found for found in inner if found is not None), None)
    return (
        annotation if isinstance(annotation, type) and issubclass(annotation, BaseModel) else None
    )
