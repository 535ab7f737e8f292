"""One validated description of a run: YAML, dotted overrides, the rooms' own settings composed.

Every mistake is one line that names the key, before any actor starts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from learner.config import AlgorithmConfig, LearnerConfig
from orchestrator.settings.cluster_address import in_submitted_job
from orchestrator.settings.config_errors import first_problem
from orchestrator.settings.config_files import merged, read_layers
from orchestrator.settings.layers import forget, inherited_from
from orchestrator.settings.overrides import apply_override, split_bases
from orchestrator.settings.renamed import check_renamed
from policy import secrets
from policy.errors import UserError
from policy.sampling import Sampling
from policy.settings import IGNORED, Deadline, Dtype, Ignored, Name, Settings, refuse
from policy.text_files import is_writable, unwritable
from policy.yaml_text import dump
from rewards.config import CacheConfig, RewardConfig
from rollout.config import RolloutConfig

METRICS_OF_THE_TOTAL = {"mean", "std", "group_std", "standard_error"}  # after reward/


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
    dtype: Dtype = Field(
        default="float32",
        description="of the policy's weights in rollout and learner; with bfloat16 the learner"
        " keeps float32 master weights",
    )


class DataConfig(Settings):
    """Prompt files, one JSON object a line."""

    train: Path
    evaluation: dict[Name, Path] = Field(
        default_factory=dict, description="fixed evaluation sets by name, such as seen, held_out"
    )
    validation: tuple[Path, ...] = Field(
        default=(),
        description="benchmark prompts that training should not see: *.txt, one a line, or *.json",
    )
    leaks: Literal["keep", "drop"] = Field(
        default="keep", description="training prompts that are in `validation` too"
    )

    @field_validator("evaluation")
    @classmethod
    def _check_names(cls, evaluation: dict[str, Path]) -> dict[str, Path]:
        check_distinct(evaluation)
        return evaluation

    def ignored(self) -> Iterator[Ignored]:
        if not self.validation:
            yield Ignored("leaks", "has no effect without data.validation", ("validation",))


class EvaluationConfig(Settings):
    """Fixed prompts and fixed seeds, so that steps and runs are compared pair by pair."""

    every: int = Field(default=20, ge=1, description="steps between evaluations of `during`")
    during: str = Field(default="held_out", description="the set evaluated during training")
    prompts: int = Field(default=64, ge=1, description="prompts taken from the head of each file")
    samples_per_prompt: int = Field(default=4, ge=1)
    guidance_scales: tuple[Annotated[float, Field(ge=0)], ...] | None = Field(
        default=None,
        min_length=1,
        description="guidance in evaluation; default: that of rollout",
    )

    @field_validator("guidance_scales")
    @classmethod
    def _check_scales(cls, scales: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if scales is not None and len(set(scales)) < len(scales):
            raise ValueError(f"names a scale twice: {', '.join(f'{scale:g}' for scale in scales)}")
        return scales


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
    start_timeout_s: Deadline = Field(
        default=300, description="deadline for rollout and reward workers to come up, seconds"
    )

    def ignored(self) -> Iterator[Ignored]:
        if self.address not in (None, "local"):
            text = "has no effect with cluster.address: it is of a private cluster"
            yield Ignored("object_store_mb", text, ("address",))


class RunConfig(Settings):
    """Everything a run is made of."""

    name: Name
    root: Path = Field(default=Path("runs"), description="run folders are made below it")
    seed: int = Field(default=0, ge=0)
    deterministic: bool = Field(
        default=False,
        description="torch's deterministic algorithms in every worker; it warns where it has none",
    )
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
        group_size, minimum = self.rollout.group_size, self.algorithm.minimum_survivors
        if minimum is not None and minimum > group_size:
            text = f"{minimum} of a group of {group_size} (rollout.group_size) can never survive"
            raise refuse(type(self), "algorithm.minimum_survivors", text)
        if self.model.dtype == "bfloat16" and self.learner.zero_stage == 0:
            # DeepSpeed would add up the gradients of micro-batches in bfloat16 there.
            raise ValueError("model.dtype bfloat16 needs learner.zero_stage 1 or more")
        if self.data.evaluation and self.evaluation.during not in self.data.evaluation:
            raise ValueError(
                f"evaluation.during is {self.evaluation.during!r}, but data.evaluation holds only"
                f" {', '.join(self.data.evaluation)}"
            )
        return self

    @field_validator("rewards")
    @classmethod
    def _check_names(cls, rewards: tuple[RewardConfig, ...]) -> tuple[RewardConfig, ...]:
        names = [reward.name for reward in rewards]
        check_distinct(names)
        if reserved := METRICS_OF_THE_TOTAL & set(names):
            raise ValueError(f"{reserved.pop()} is the name of a metric of the total")
        return rewards

    @property
    def trajectories_per_step(self) -> int:
        return self.prompts_per_step * self.rollout.group_size

    @property
    def evaluation_samplings(self) -> tuple[Sampling, ...]:
        """What fixed evaluation samples from: the rollouts' sampling at each of its scales."""
        scales = self.evaluation.guidance_scales or (self.rollout.guidance_scale,)
        return tuple(replace(self.rollout.sampling, guidance_scale=scale) for scale in scales)

    @property
    def trajectories_per_rank(self) -> int:
        """The largest share of a step that a learner rank trains on."""
        return math.ceil(self.trajectories_per_step / self.learner.ranks)

    @property
    def largest_micro_batch(self) -> int:
        """Trajectories of a learner rank's longest pass; its last one may have fewer."""
        return min(self.learner.micro_batch_size, self.trajectories_per_rank)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.root / self.name


def load_config(path: Path, overrides: list[str]) -> RunConfig:
    """Read a YAML file and its ``base``, apply overrides, validate.

    From the lowest layer to the highest: what the file names as its ``base``, the file, the files
    of ``base=`` overrides, all ``key.sub=value`` overrides (YAML too) together. A setting that
    another one makes useless is refused, unless it stands in a lower layer than what makes it so:
    then it is dropped. Relative paths are taken from the working folder; ``root`` must be absolute
    in a job that was submitted to Ray. Raises ``UserError`` with one line that names the key at
    fault, and for an unknown key the nearest one.
    """
    files, settings = split_bases(overrides)
    layers = [layer for file in (path, *files) for layer in read_layers(file)]
    tree = merged(layers)
    for override in settings:
        apply_override(tree, override)
    if place := unwritable(tree):
        raise UserError(f"{path}: {place} holds half a surrogate pair")
    config = _validated(tree, path, inherited_from(layers, settings))
    if in_submitted_job() and not config.root.is_absolute():
        raise UserError(
            f"root: {config.root} would lie in the job's own copy of the working folder, which Ray"
            " deletes; give an absolute path on shared storage"
        )
    root = config.root.absolute()
    if not is_writable(str(root)):  # of the working folder, which is no setting
        raise UserError(f"root: {str(root)!a} is no text that can be written: not UTF-8")
    secrets.hide(secrets.secrets_in(config.model_dump(mode="json")))
    return config.model_copy(update={"root": root})


def load_saved(path: Path) -> RunConfig:
    """The settings of an earlier run, secrets masked; what it named and nothing read is dropped.

    Raises ``UserError`` when an earlier version wrote what this one does not know.
    """
    return _validated(merged(read_layers(path)), path, lambda key, decided_by: True)


def dump_config(config: RunConfig) -> str:
    """The resolved settings as YAML; but for masked secrets, loading them gives the same run."""
    return dump(secrets.masked_tree(config.model_dump(mode="json")))


def _validated(
    tree: dict[str, Any], path: Path, inherited: Callable[[str, Sequence[str]], bool]
) -> RunConfig:
    """``inherited``: whether a setting that others make useless, by its key and theirs, is one
    that whoever set those was given, and need not know of."""
    check_renamed(tree, path)
    while True:
        try:
            return RunConfig.model_validate(tree)
        except ValidationError as error:
            useless = [
                problem["loc"]
                for problem in error.errors()
                if problem["type"] == IGNORED and inherited(*_full_keys(problem))
            ]
            if not useless:
                raise UserError(f"{path}: {first_problem(RunConfig, error)}") from None
        for location in useless:
            forget(tree, location)


def _full_keys(problem: ErrorDetails) -> tuple[str, list[str]]:
    """The dotted key of a useless setting, and those of what makes it so."""
    key, found = ".".join(map(str, problem["loc"])), problem["ctx"]
    prefix = key.removesuffix(found["key"])
    return key, [prefix + other for other in found["decided_by"]]


def check_distinct(names: Sequence[str] | dict[str, Any]) -> None:
    """Raise ``ValueError`` unless files named so are different ones everywhere."""
    if len({name.casefold() for name in names}) < len(names):
        raise ValueError(f"names must differ, not by case alone, found {', '.join(names)}")
