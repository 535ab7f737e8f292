"""Settings of the algorithm and of the learner, checked before any process starts."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

from pydantic import Field, field_validator, model_validator

from learner.algorithm.choices import (
    CAP_FACTOR,
    FRACTION,
    HIGH_QUANTILE,
    LOW_QUANTILE,
    WITH_REFERENCE,
    Aggregation,
    KlEstimator,
    MeanOver,
    Modalities,
)
from policy.base_settings import (
    CustomResources,
    Deadline,
    GpuShare,
    Ignored,
    Settings,
    Share,
    refuse,
)

if TYPE_CHECKING:  # they import torch, and the driver does without
    from learner.algorithm.methods.token_method import TokenMethod
    from learner.algorithm.objective import ObjectiveSettings

Beta = Annotated[float, Field(ge=0, lt=1)]

BUCKET_ELEMENTS = 50_000_000  # elements that DeepSpeed reduces or gathers at a time


class TopEntropyConfig(Settings):
    """The 80/20 rule."""

    fraction: float = Field(
        FRACTION, gt=0, le=1, description="share of each modality's tokens that the reward moves"
    )
    mean_over: MeanOver = Field(
        "selected",
        description="tokens that the surrogates are averaged over: selected is the authors' form,"
        " all is TRL's, whose steps are smaller by the factor fraction",
    )


class CriticalConfig(Settings):
    """Critical tokens."""

    leak: bool = Field(
        False,
        description="add the gradient that the authors' code sends through its dynamic weight",
    )


class EntropyControlConfig(Settings):
    """Targets of the mean entropies, and how the coefficients that pull towards them move."""

    cot_target: float = Field(gt=0, description="nats at which the CoT tokens' entropy is held")
    image_target: float = Field(gt=0, description="the same for image tokens")
    learning_rate: float = Field(5e-5, gt=0, description="of the coefficients, by Adam")
    limit: float = Field(0.005, gt=0, description="largest absolute value of a coefficient")


class AlgorithmConfig(Settings):
    """EG-GRPO, its ablations, and other token methods. The defaults are those of the authors' code.

    ``behaviour_logprob`` decides how rollouts are corrected that older weights sampled:

    rollout: the clipped surrogate of PPO (arXiv 1707.06347), with the ratio to the log-prob that
    was recorded at sampling. It is clip-higher (DAPO, arXiv 2503.14476) if ``clip_high`` is above
    ``clip_low``. The ratio contains the difference of the two engines as well, so that
    ``importance_cap`` applies to fresh rollouts alone.

    learner: decoupled PPO (arXiv 2110.00641; AReaL, arXiv 2505.24298). The ratio compares with the
    learner's log-probs before the update. It is always 1, because a batch is one update. The
    truncated importance weight corrects fresh and stale rollouts. ``importance_cap`` must be set,
    because nothing else would correct the stale ones.

    Both settings train fresh rollouts alike.
    """

    method: Literal["eg-grpo", "top-entropy", "similarity", "contrast", "critical"] = Field(
        "eg-grpo",
        description="what each token learns from the reward (docs/methods.md); GRPO is eg-grpo with"
        " modalities none",
    )
    top_entropy: TopEntropyConfig = TopEntropyConfig()
    critical: CriticalConfig = CriticalConfig()
    entropy_control: EntropyControlConfig | None = Field(
        None,
        description="hold mean entropies at targets, added to any method (docs/methods.md); null"
        " leaves them to themselves",
    )
    distillation_weight: float = Field(
        0.0,
        ge=0,
        description="d: added to the advantage of every image token, which pulls the conditional"
        " distribution towards the guided one that the tokens are drawn from (docs/methods.md)",
    )
    modalities: Modalities = Field(
        "both", description="tokens that entropy guides; none is plain GRPO"
    )
    bonus: Literal["capped", "budget", "budget-exact", "none"] = Field(
        "capped", description="rule of the high set's bonus; none keeps the low mask alone"
    )
    cap_factor: float = Field(
        CAP_FACTOR, gt=0, description="capped: bonus = factor * min(|advantage|, entropy)"
    )
    kappa: float = Field(
        1.0, ge=0, description="budget rules: 1 spends exactly what the low set saves"
    )
    low_quantile: float = Field(LOW_QUANTILE, ge=0, le=1, description="low set: h under this")
    high_quantile: float = Field(HIGH_QUANTILE, ge=0, le=1, description="high set: h over this")
    kl_beta: float = Field(
        0.01,
        ge=0,
        description="weight of the KL term; at 0 no reference is kept or computed",
    )
    kl_estimator: KlEstimator = Field("k3", description="estimator of the KL term")
    aggregation: Aggregation = Field("token-mean", description="how token losses are averaged")
    aggregation_constant: float = Field(
        1.0,
        gt=0,
        description="tokens that constant aggregation divides each trajectory by; above 1 there",
    )
    behaviour_logprob: Literal["rollout", "learner"] = Field(
        "rollout",
        description="which log-prob the ratio of stale rollouts divides by: rollout, the recorded "
        "one; or learner, its own before the update, where importance_cap corrects instead",
    )
    clip_low: float = Field(0.2, gt=0, lt=1, description="stale rollouts: ratio >= 1 - this")
    clip_high: float = Field(0.2, gt=0, description="stale rollouts: ratio <= 1 + this")
    dual_clip: float | None = Field(
        None,
        gt=1,
        description="stale rollouts: ratio <= this where the advantage is negative, which is where "
        "clipping leaves it free (arXiv 1912.09729 suggests 3); null switches it off",
    )
    importance_cap: float | None = Field(
        None,
        gt=0,
        description="truncated importance sampling: cap of the weight exp(learner - rollout "
        "log-prob), which stale rollouts get with behaviour_logprob learner alone; null switches "
        "it off",
    )
    trained_distribution: Literal["conditional", "guided"] = Field(
        "conditional",
        description="distribution of image tokens whose log-probs and entropies are trained on; "
        "guided costs a second forward pass",
    )
    minimum_survivors: int | None = Field(
        None, ge=2, description="scored trajectories a group needs; null is half the group"
    )

    @model_validator(mode="after")
    def _check_quantiles(self) -> Self:
        if self.low_quantile > self.high_quantile:
            raise refuse(type(self), "low_quantile", "must not exceed high_quantile")
        return self

    @model_validator(mode="after")
    def _check_constant(self) -> Self:
        if self.aggregation == "constant" and self.aggregation_constant <= 1:
            # Divided by 1, the loss would be as many times too large as a trajectory has tokens.
            raise refuse(
                type(self),
                "aggregation_constant",
                "aggregation constant divides each trajectory's sum over tokens by this: give the"
                f" tokens of a typical one, not {self.aggregation_constant:g}",
            )
        return self

    @model_validator(mode="after")
    def _check_correction(self) -> Self:
        if self.behaviour_logprob == "learner" and self.importance_cap is None:
            raise refuse(
                type(self),
                "importance_cap",
                "behaviour_logprob learner corrects stale rollouts by this importance weight alone:"
                " give a cap, such as 2",
            )
        return self

    @model_validator(mode="after")
    def _check_reference(self) -> Self:
        if self.method in WITH_REFERENCE and self.kl_beta == 0:
            raise refuse(
                type(self),
                "kl_beta",
                f"method {self.method} compares with the reference, which is not kept at 0: give a"
                " value above 0",
            )
        return self

    @model_validator(mode="after")
    def _check_entropy_control(self) -> Self:
        if self.entropy_control is not None and self.aggregation != "token-mean":
            raise refuse(
                type(self),
                "entropy_control",
                "is a mean over tokens: aggregation must be token-mean",
            )
        return self

    @model_validator(mode="after")
    def _check_distillation(self) -> Self:
        if self.distillation_weight > 0 and self.trained_distribution == "guided":
            raise refuse(
                type(self),
                "distillation_weight",
                "pulls towards the distribution that is sampled, and with trained_distribution"
                " guided it is that one which is trained: it must be conditional",
            )
        return self

    def ignored(self) -> Iterator[Ignored]:
        """Settings that the method, modalities, bonus, aggregation, kl_beta or behaviour_logprob
        make useless."""
        if self.method != "eg-grpo":
            of_eg_grpo = "modalities", "bonus", "cap_factor", "kappa", "low_quantile"
            for key in (*of_eg_grpo, "high_quantile"):
                yield Ignored(key, "has an effect with method eg-grpo alone", ("method",))
        for method, keys in (
            ("top-entropy", ("top_entropy.fraction", "top_entropy.mean_over")),
            ("critical", ("critical.leak",)),
        ):
            if self.method != method:
                for key in keys:
                    yield Ignored(key, f"has an effect with method {method} alone", ("method",))
        rule = ("modalities", "bonus")
        if self.modalities == "none":
            for key in ("low_quantile", "high_quantile", "bonus"):
                yield Ignored(key, "has no effect with modalities none", ("modalities",))
        if self.modalities == "none" or self.bonus != "capped":
            yield Ignored("cap_factor", "has an effect with bonus capped alone", rule)
        if self.modalities == "none" or self.bonus not in ("budget", "budget-exact"):
            yield Ignored("kappa", "has an effect with bonus budget and budget-exact alone", rule)
        if self.aggregation != "constant":
            text = "has an effect with aggregation constant alone"
            yield Ignored("aggregation_constant", text, ("aggregation",))
        if self.kl_beta == 0:
            yield Ignored("kl_estimator", "has no effect with kl_beta 0", ("kl_beta",))
        if self.behaviour_logprob == "learner":
            for key in ("clip_low", "clip_high", "dual_clip"):
                text = "has no effect with behaviour_logprob learner, where the ratio is always 1"
                yield Ignored(key, text, ("behaviour_logprob",))

    def objective(self) -> ObjectiveSettings:
        """The settings that the loss needs. There, bonus none is a capped bonus of factor 0."""
        from learner.algorithm.objective import ObjectiveSettings

        return ObjectiveSettings(
            modalities=self.modalities,
            low_quantile=self.low_quantile,
            high_quantile=self.high_quantile,
            bonus="capped" if self.bonus == "none" else self.bonus,
            cap_factor=0.0 if self.bonus == "none" else self.cap_factor,
            kappa=self.kappa,
            other_method=self._other_method(),
            aggregation=self.aggregation,
            aggregation_constant=self.aggregation_constant,
            kl_beta=self.kl_beta,
            kl_estimator=self.kl_estimator,
            clip_low=self.clip_low,
            clip_high=self.clip_high,
            dual_clip=self.dual_clip,
        )

    def _other_method(self) -> TokenMethod[Any, Any] | None:
        """The token method, if it is not EG-GRPO."""
        from learner.algorithm.methods.contrast import Contrast
        from learner.algorithm.methods.critical import Critical
        from learner.algorithm.methods.similarity import Similarity
        from learner.algorithm.methods.top_entropy import TopEntropy

        if self.method == "top-entropy":
            return TopEntropy(self.top_entropy.fraction, self.top_entropy.mean_over)
        if self.method == "similarity":
            return Similarity()
        if self.method == "contrast":
            return Contrast()
        if self.method == "critical":
            return Critical(self.critical.leak)
        return None


LoraTarget = Literal["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


class LoraConfig(Settings):
    """A low-rank adapter on the language model. Everything else is frozen, also the heads."""

    rank: int = Field(16, ge=1, description="rank of every adapted layer's update")
    alpha: float = Field(32.0, gt=0, description="the update is scaled by alpha / rank")
    target_modules: tuple[LoraTarget, ...] = Field(
        get_args(LoraTarget),
        min_length=1,
        description="linear layers of every decoder layer that are adapted",
    )

    @field_validator("target_modules")
    @classmethod
    def _check_targets(cls, targets: tuple[LoraTarget, ...]) -> tuple[LoraTarget, ...]:
        if len(set(targets)) < len(targets):
            raise ValueError(f"names a layer twice: {', '.join(targets)}")
        return targets

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


class LearnerConfig(Settings):
    """The learner's ranks, optimizer and timeouts."""

    ranks: int = Field(1, ge=1, description="learner processes; data-parallel")
    min_ranks: int | None = Field(
        None,
        ge=1,
        description="fewest ranks that a group is formed anew with while the cluster has no room"
        " for all, because a host is lost; null is ranks: the run waits for room, and then ends",
    )
    micro_batch_size: int = Field(
        8, ge=1, description="trajectories per forward pass of a rank; the last may have fewer"
    )
    learning_rate: float = Field(1e-6, gt=0, description="peak learning rate of AdamW")
    betas: tuple[Beta, Beta] = Field((0.9, 0.999), description="AdamW's averages")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's decoupled weight decay")
    warmup_steps: int = Field(0, ge=0, description="steps of linear warm-up; the first is not 0")
    schedule: Literal["linear", "constant"] = Field(
        "linear", description="after the warm-up: linear to 0 at the end of the run, or constant"
    )
    max_grad_norm: float = Field(1.0, gt=0, description="global gradient norm is clipped at this")
    max_skipped_updates: int = Field(
        3,
        ge=1,
        description="an update whose loss or gradient is not finite is skipped; after so many in a "
        "row the run stops",
    )
    restarts: int = Field(
        3,
        ge=0,
        description="learner groups lost in a row, without a new step done in between, that are "
        "formed anew before the run stops",
    )
    zero_stage: Literal[0, 1, 2, 3] = Field(0, description="DeepSpeed ZeRO stage")
    lora: LoraConfig | None = Field(
        None, description="train a low-rank adapter; null trains the whole language model"
    )
    gradient_checkpointing: bool = Field(
        False, description="keep one activation a decoder layer and compute the rest twice"
    )
    offload_optimizer: bool = Field(
        False, description="master weights and AdamW in CPU memory; needs zero_stage 1 or more"
    )
    offload_parameters: bool = Field(
        False, description="weights in CPU memory while they are not needed; zero_stage 3 alone"
    )
    device: Literal["cpu", "cuda"] = Field("cpu", description="where ranks compute")
    threads: int | None = Field(
        None,
        ge=1,
        description="compute threads of a rank; null takes the cores that are free in its turn: at"
        " max_staleness 0 on a CPU, where rollout waits for the learner, its share of the cores,"
        " 2 at most; on a GPU with offload_optimizer, whose AdamW computes on the host, its share"
        " of all cores; else 1. A share is that of this machine, on an existing cluster"
        " cpus_per_rank",
    )
    cpus_per_rank: Share = Field(1.0, description="CPUs that Ray sets aside for a rank")
    gpus_per_rank: GpuShare = Field(
        0.0,
        description="share of a GPU that Ray sets aside for a rank, which uses one GPU at most",
    )
    resources: CustomResources = Field(
        default_factory=dict,
        description="custom resources of Ray that a rank needs, such as {learner_host: 0.001}; it "
        "runs only on hosts that have them",
    )
    placement: Literal["pack", "together", "spread"] = Field(
        "pack",
        description="hosts of the ranks on an existing cluster. pack: as few as possible; "
        "together: one; spread: as many as possible",
    )
    rendezvous_port: int = Field(
        0, ge=0, le=65535, description="where ranks find each other; 0 takes a free port"
    )
    start_timeout_s: Deadline = Field(600.0, description="deadline of start-up, seconds")
    timeout_s: Deadline = Field(1800.0, description="deadline of any one call, seconds")

    @property
    def shares_gpu(self) -> bool:
        """Whether Ray may put other workers on the GPU of a rank."""
        return 0 < self.gpus_per_rank < 1

    @model_validator(mode="after")
    def _check_ranks(self) -> Self:
        if self.fewest_ranks > self.ranks:
            raise refuse(type(self), "min_ranks", f"must not exceed ranks ({self.ranks})")
        return self

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if self.offload_optimizer and self.zero_stage == 0:
            raise ValueError("offload_optimizer needs zero_stage 1 or more")
        if self.offload_parameters and self.zero_stage < 3:
            raise ValueError("offload_parameters needs zero_stage 3")
        if (self.device == "cuda") != (self.gpus_per_rank > 0):
            raise ValueError("device cuda and gpus_per_rank > 0 go together")
        if self.ranks > 1 and 0 < self.gpus_per_rank <= 0.5:
            raise ValueError(
                "NCCL refuses two ranks on one GPU: with several ranks gpus_per_rank must be above"
                f" 0.5, not {self.gpus_per_rank:g}"
            )
        return self

    def ignored(self) -> Iterator[Ignored]:
        """Where ranks are placed, if there is one alone; a smaller group, if a lost host takes all
        ranks with it."""
        if self.ranks == 1:
            yield Ignored("placement", "has no effect with one rank", ("ranks",))
        elif self.placement == "together":
            text = "has no effect with placement together, where all ranks are lost with their host"
            yield Ignored("min_ranks", text, ("placement",))

    @property
    def fewest_ranks(self) -> int:
        """The number of ranks of the smallest group that may be formed."""
        return self.ranks if self.min_ranks is None else self.min_ranks
