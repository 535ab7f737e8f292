"""The settings of a run: one class that is composed of the settings of all parts of the system.

They are read from a YAML file and from overrides on the command line. A mistake gives one line that
names the key, before any actor starts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from learner.algorithm.choices import WITH_UNCONDITIONAL
from learner.config import AlgorithmConfig, LearnerConfig
from orchestrator.settings.cluster_address import in_submitted_job
from orchestrator.settings.config_errors import first_problem
from orchestrator.settings.config_files import merged, read_layers
from orchestrator.settings.layers import forget, inherited_from
from orchestrator.settings.ledger_config import LedgerConfig
from orchestrator.settings.metrics_config import MetricsConfig
from orchestrator.settings.overrides import apply_override, split_bases
from orchestrator.settings.renamed import check_renamed
from orchestrator.settings.shipped import find_embedded_files
from policy import secrets
from policy.base_settings import IGNORED, Deadline, Dtype, Ignored, Name, Settings, refuse
from policy.errors import UserError
from policy.sampling import Sampling
from policy.text_files import is_writable, unwritable
from policy.yaml_text import dump
from rewards.config import CacheConfig, RewardConfig
from rollout.config import RolloutConfig

# The metrics reward/mean, reward/std, ... are of the total. No reward may have one of these names.
METRICS_OF_THE_TOTAL = {"mean", "std", "group_std", "standard_error"}


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
        description="type of the policy's weights in rollout and learner; with bfloat16 the learner"
        " keeps float32 master weights",
    )


class DataConfig(Settings):
    """Prompt files, one JSON object a line."""

    train: Path = Field(description="file of the prompts that are trained on")
    evaluation: dict[Name, Path] = Field(
        default_factory=dict, description="fixed evaluation sets by name, such as seen, held_out"
    )
    validation: tuple[Path, ...] = Field(
        default=(),
        description="benchmark prompts that training should not see: *.txt, one a line, or *.json",
    )
    leaks: Literal["keep", "drop"] = Field(
        default="keep",
        description="whether training keeps or drops prompts that are also in `validation`",
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
    """Evaluation with fixed prompts and seeds: steps and runs are compared prompt by prompt."""

    every: int = Field(default=20, ge=1, description="steps between evaluations of `during`")
    during: str = Field(default="held_out", description="the set evaluated during training")
    prompts: int = Field(default=64, ge=1, description="prompts taken from the head of each file")
    samples_per_prompt: int = Field(
        default=4, ge=1, description="images of each prompt, with fixed seeds"
    )
    guidance_scales: tuple[Annotated[float, Field(ge=0)], ...] | None = Field(
        default=None,
        min_length=1,
        description="guidance scales of evaluation, one set of images each; default: rollout's",
    )

    @field_validator("guidance_scales")
    @classmethod
    def _check_scales(cls, scales: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if scales is not None and len(set(scales)) < len(scales):
            raise ValueError(f"names a scale twice: {', '.join(f'{scale:g}' for scale in scales)}")
        return scales


class CheckpointConfig(Settings):
    """A run keeps its last checkpoint, and its best one by the evaluation set `during`."""

    every: int = Field(default=20, ge=1, description="steps between checkpoints")
    stop_within_s: Deadline = Field(
        default=600,
        description="seconds after Ctrl-C or SIGTERM in which the step is finished and saved; then"
        " it is abandoned. A batch system that kills after n seconds wants less than n here",
    )


class TrajectoriesConfig(Settings):
    """Trajectories that a run keeps in its folder, or that it trains on without sampling any."""

    keep_steps: int = Field(
        default=0, ge=0, description="keep the trajectories of the last steps; 0 keeps none"
    )
    replay: Path | None = Field(
        default=None,
        description="stages learner: folder of the run whose kept trajectories are trained on",
    )


class ClusterConfig(Settings):
    """Where the actors run."""

    address: str | None = Field(
        default=None,
        description="address of an existing Ray cluster; default: a private cluster on loopback",
    )
    object_store_mb: int = Field(
        default=512, ge=80, description="object store of a private cluster, in MiB of /dev/shm"
    )
    start_timeout_s: Deadline = Field(
        default=300,
        description="seconds in which a private cluster must have started, and then rollout and"
        " reward workers",
    )
    wait_for_room_s: float = Field(
        default=0,
        ge=0,
        le=10_000_000,
        description="seconds that a run waits until an existing cluster has room for all of its"
        " workers; 0 refuses at once. A cluster that starts hosts on demand needs minutes",
    )

    def ignored(self) -> Iterator[Ignored]:
        if self.address not in (None, "local"):
            text = "has no effect with cluster.address: it is of a private cluster"
            yield Ignored("object_store_mb", text, ("address",))
        if self.address == "local":
            text = "has no effect with cluster.address local: a private cluster has room"
            yield Ignored("wait_for_room_s", text, ("address",))


class RunConfig(Settings):
    """All settings of a run."""

    name: Name = Field(description="name of the run and of its folder")
    root: Path = Field(default=Path("runs"), description="run folders are made below it")
    seed: int = Field(
        default=0, ge=0, description="decides the order of prompts and everything that is sampled"
    )
    deterministic: bool = Field(
        default=False,
        description="use torch's deterministic algorithms in every worker; torch warns where it"
        " has none",
    )
    steps: int = Field(ge=1, description="optimizer steps, one batch each")
    prompts_per_step: int = Field(ge=1, description="prompt groups per optimizer step")
    max_staleness: int = Field(
        default=0,
        ge=0,
        description="weight versions by which a trajectory may be older than the weights that it"
        " updates; 0 is the paper's schedule; from 1 on, rollout and learning overlap",
    )
    stages: Literal["all", "rollout", "learner"] = Field(
        default="all",
        description="rollout: sample, score and keep trajectories, but train nothing; learner:"
        " train on those of trajectories.replay, with learner ranks alone",
    )
    replacements: int = Field(
        default=3,
        ge=0,
        description="times that a prompt is sampled again when too many of its rewards fail",
    )
    probe_tolerance: float = Field(
        default=1e-5,
        gt=0,
        description="nats by which the mean log-prob of a worker's probe may differ from the"
        " learner's; a larger difference stops the run",
    )
    model: ModelConfig
    data: DataConfig
    rollout: RolloutConfig
    rewards: tuple[RewardConfig, ...] = Field(
        min_length=1, description="rewards, whose weighted sum is trained on"
    )
    cache: CacheConfig = CacheConfig()
    ledger: LedgerConfig = LedgerConfig()
    learner: LearnerConfig
    algorithm: AlgorithmConfig
    evaluation: EvaluationConfig = EvaluationConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    trajectories: TrajectoriesConfig = TrajectoriesConfig()
    cluster: ClusterConfig = ClusterConfig()
    metrics: MetricsConfig = MetricsConfig()

    @model_validator(mode="after")
    def _check_sizes(self) -> RunConfig:
        group_size, minimum = self.rollout.group_size, self.algorithm.minimum_survivors
        if minimum is not None and minimum > group_size:
            text = f"{minimum} of a group of {group_size} (rollout.group_size) can never survive"
            raise refuse(type(self), "algorithm.minimum_survivors", text)
        unguided = [s for s in range(self.steps) if not self.training_sampling(s).guided]
        if self.algorithm.method in WITH_UNCONDITIONAL and unguided:
            falls = self.rollout.final_guidance_scale is not None
            when = f", not a way through 1 (step {unguided[0] + 1} has it)" if falls else ""
            text = (
                f"algorithm.method {self.algorithm.method} compares log-probs with those without"
                " the prompt, which are recorded with guidance alone: give a scale other than 1"
                f"{when}"
            )
            key = "final_guidance_scale" if falls else "guidance_scale"
            raise refuse(type(self), f"rollout.{key}", text)
        if self.stages == "rollout" and not self.trajectories.keep_steps:
            text = "with stages: rollout, the trajectories are all that a run leaves; keep some"
            raise refuse(type(self), "trajectories.keep_steps", text)
        if self.stages == "learner" and self.trajectories.replay is None:
            text = "with stages: learner, give the folder of the run that kept the trajectories"
            raise refuse(type(self), "trajectories.replay", text)
        if self.model.dtype == "bfloat16" and self.learner.zero_stage == 0:
            # With ZeRO-0, DeepSpeed would sum the gradients of micro-batches in bfloat16.
            raise ValueError("model.dtype bfloat16 needs learner.zero_stage 1 or more")
        final = self.rollout.final_guidance_scale
        if final is not None and self.algorithm.trained_distribution == "guided":
            text = "w changes with each step, so algorithm.trained_distribution must be conditional"
            raise refuse(type(self), "rollout.final_guidance_scale", text)
        if self.algorithm.distillation_weight > 0 and not self.draws_with_guidance:
            text = "there is no guidance to distil: rollout.guidance_scale is 1"
            raise refuse(type(self), "algorithm.distillation_weight", text)
        if self.max_staleness and self.rollout.sleep_while_learning:
            text = "the workers sample while the learner works, so they cannot sleep"
            raise refuse(type(self), "rollout.sleep_while_learning", f"max_staleness: {text}")
        if self.data.evaluation and self.evaluation.during not in self.data.evaluation:
            raise ValueError(
                f"evaluation.during is {self.evaluation.during!r}, but data.evaluation holds only"
                f" {', '.join(self.data.evaluation)}"
            )
        return self

    def ignored(self) -> Iterator[Ignored]:
        """The corrections of stale rollouts, in a run that trains on fresh ones alone; what has
        to do with trajectories, where none are sampled or none are replayed.

        A replay of rollout alone trains on stale ones, whatever ``max_staleness`` says.
        """
        if self.stages == "learner":
            text = "has no effect with stages learner, which samples nothing"
            for key in ("data.evaluation", "trajectories.keep_steps"):
                yield Ignored(key, text, ("stages",))
        else:
            text = "has an effect with stages learner alone"
            yield Ignored("trajectories.replay", text, ("stages",))
        if self.max_staleness == 0 and self.stages == "all":
            for key in ("behaviour_logprob", "clip_low", "clip_high", "dual_clip"):
                text = "has no effect with max_staleness 0, where no rollout is stale"
                yield Ignored(f"algorithm.{key}", text, ("max_staleness", "stages"))

    @field_validator("rewards")
    @classmethod
    def _check_names(cls, rewards: tuple[RewardConfig, ...]) -> tuple[RewardConfig, ...]:
        names = [reward.name for reward in rewards]
        check_distinct(names)
        if reserved := METRICS_OF_THE_TOTAL & set(names):
            raise ValueError(f"{reserved.pop()} is the name of a metric of the total")
        if "rollout" in names:
            raise ValueError("rollout is the name of another role")
        return rewards

    @property
    def trajectories_per_step(self) -> int:
        return self.prompts_per_step * self.rollout.group_size

    def training_sampling(self, step: int) -> Sampling:
        """The sampling of a training step, counted from 0."""
        first, last = self.rollout.guidance_scale, self.rollout.final_guidance_scale
        if last is None:
            return self.rollout.sampling
        scale = first + (last - first) * step / max(self.steps - 1, 1)
        return replace(self.rollout.sampling, guidance_scale=scale)

    @property
    def draws_with_guidance(self) -> bool:
        """Whether any training step samples with guidance."""
        return any(self.training_sampling(step).guided for step in range(self.steps))

    @property
    def bonus_distils_guidance(self) -> bool:
        """Whether the bonus of EG-GRPO pulls the policy towards the guided distribution.

        It does where image tokens come from that distribution and the conditional one is trained
        (docs/deviations.md, docs/evidence.md).
        """
        algorithm = self.algorithm
        bonus = algorithm.method == "eg-grpo" and algorithm.bonus != "none"
        of_image_tokens = bonus and algorithm.modalities in ("both", "image")
        conditional = algorithm.trained_distribution == "conditional"
        return of_image_tokens and conditional and self.draws_with_guidance

    @property
    def final_sampling(self) -> Sampling:
        """The sampling of the last training step, which checkpoints keep."""
        return self.training_sampling(self.steps - 1)

    @property
    def evaluation_samplings(self) -> tuple[Sampling, ...]:
        """The sampling of rollouts, at each guidance scale of fixed evaluation."""
        scales = self.evaluation.guidance_scales or (self.final_sampling.guidance_scale,)
        return tuple(replace(self.rollout.sampling, guidance_scale=scale) for scale in scales)

    @property
    def learner_ranks(self) -> int:
        """The number of learner ranks that the run starts: none in a run of rollout alone."""
        return 0 if self.stages == "rollout" else self.learner.ranks

    @property
    def trajectories_per_rank(self) -> int:
        """The largest number of a step's trajectories that one learner rank trains on."""
        return math.ceil(self.trajectories_per_step / self.learner.ranks)

    @property
    def largest_micro_batch(self) -> int:
        """Trajectories in a rank's largest micro-batch, in the smallest group of ranks that may be
        formed. The last micro-batch may have fewer."""
        share = math.ceil(self.trajectories_per_step / self.learner.fewest_ranks)
        return min(self.learner.micro_batch_size, share)

    @property
    def folder(self) -> Path:
        """The run folder."""
        return self.root / self.name


def load_config(path: Path, overrides: list[str]) -> RunConfig:
    """Read a configuration file, apply overrides and validate the result.

    The layers are, from the lowest to the highest: the files that the file names as its ``base``,
    the file itself, the files of ``base=`` overrides, and all ``key.sub=value`` overrides together.

    A setting may have no effect because of the value of another one. It is dropped if it comes
    from a base or from a lower layer than the other one, as a file may inherit a setting that it
    does not need. Otherwise it is refused.

    Relative paths are relative to the working folder. In a job that was submitted to Ray, ``root``
    must be absolute. Raises ``UserError`` with one line that names the key at fault. For an unknown
    key it suggests the nearest known one.
    """
    files, settings = split_bases(overrides)
    own = read_layers(path)
    layers = [*own, *(_laid_over(file, path) for file in files)]
    tree = merged(layers)
    for override in settings:
        apply_override(tree, override)
    if place := unwritable(tree):
        raise UserError(f"{path}: {place} holds half a surrogate pair")
    config = _validated(tree, path, inherited_from(layers, len(own) - 1, settings))
    if in_submitted_job() and not config.root.is_absolute():
        raise UserError(
            f"root: {config.root} would lie in the job's own copy of the working folder, which Ray"
            " deletes; give an absolute path on shared storage"
        )
    root = config.root.absolute()
    if not is_writable(str(root)):  # the path of the working folder was not checked above
        raise UserError(f"root: {str(root)!a} is no text that can be written: not UTF-8")
    secrets.hide(secrets.secrets_in(config.model_dump(mode="json")))
    return config.model_copy(update={"root": root})


def _laid_over(file: Path, path: Path) -> dict[str, Any]:
    """The one layer of a file that ``base=`` lays over ``path``.

    A file with a base of its own is a whole configuration: its base, such as the embedded world,
    would replace model, prompts and rewards of ``path`` without a word. It raises ``UserError``.
    """
    *bases, layer = read_layers(file)
    if bases:
        raise UserError(
            f"override base: {file} has a base of its own, which would replace settings of {path};"
            f" train {file} itself, or copy the settings that are wanted to a file without a base"
        )
    return layer


def load_saved(path: Path) -> RunConfig:
    """The settings of an earlier run from its config.yaml, with masked secrets.

    Settings that have no effect are dropped. Raises ``UserError`` when an earlier version wrote a
    key that this version does not have.
    """
    return _validated(merged(read_layers(path)), path, lambda key, decided_by: True)


def dump_config(config: RunConfig) -> str:
    """All settings as YAML, with secrets masked. Loading the text gives the same settings."""
    return dump(secrets.masked_tree(config.model_dump(mode="json")))


def _validated(
    tree: dict[str, Any], path: Path, inherited: Callable[[str, Sequence[str]], bool]
) -> RunConfig:
    """Validate ``tree``; settings without effect are dropped if they are inherited, else refused.

    ``inherited(key, others)`` says whether ``key`` comes from a lower layer than the ``others``
    that take its effect away.
    """
    check_renamed(tree, path)
    tree = find_embedded_files(tree)
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
    """The dotted key of a setting without effect, and the keys that take its effect away."""
    key, found = ".".join(map(str, problem["loc"])), problem["ctx"]
    prefix = key.removesuffix(found["key"])
    return key, [prefix + other for other in found["decided_by"]]


def check_distinct(names: Sequence[str] | dict[str, Any]) -> None:
    """Raise ``ValueError`` if two names differ by case alone or not at all.

    Names become files, and some file systems ignore case.
    """
    if len({name.casefold() for name in names}) < len(names):
        raise ValueError(f"names must differ, not by case alone, found {', '.join(names)}")
