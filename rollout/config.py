"""Settings of rollout."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from policy.base_settings import CustomResources, Deadline, GpuShare, Ignored, Settings, Share
from policy.sampling import Sampling
from policy.worker_bounds import check_bounds


class VllmSettings(Settings):
    """Settings of vLLM, which count only with `rollout.engine: vllm`."""

    memory_share: float = Field(
        0.85, gt=0, le=1, description="Share of a GPU's memory that vLLM may take."
    )
    cpu_kv_cache_gib: int = Field(1, ge=1, description="KV cache of a worker on a CPU, in GiB.")
    prefill_tokens: int = Field(
        2048,
        ge=1,
        description="Prompt tokens that vLLM reads in one step; it reads longer prompts in chunks.",
    )
    parity_tolerance: float = Field(
        1e-4,
        gt=0,
        description="Nats by which vLLM's log-probs and entropies may differ from the policy's. A "
        "worker checks it when it starts and after the first push, and does not serve beyond it. "
        "1e-4 suits float32; benchmarks/vllm_gaps.py measures what bfloat16 needs.",
    )


class RolloutConfig(Settings):
    """How trajectories are sampled, by how many workers, and on what resources."""

    engine: Literal["transformers", "vllm"] = Field(
        "transformers", description="Library that generates; docs/vllm.md says how to install vllm."
    )
    vllm: VllmSettings = VllmSettings()
    workers: int = Field(1, ge=1, description="Rollout workers, each with its own policy.")
    min_workers: int = Field(1, ge=1, description="Fewest rollout workers that scaling may leave.")
    max_workers: int | None = Field(
        None,
        ge=1,
        description="Most rollout workers that scaling may start. A step is dealt in batches for"
        " so many workers, and a private cluster has room for them.",
    )
    autoscale: bool = Field(
        False,
        description="Have the run itself add and take away workers between min_workers and"
        " max_workers, by the number of batches that wait.",
    )
    group_size: int = Field(8, description="G: trajectories per prompt, at least 2.")
    guidance_scale: float = Field(
        ge=0,
        description="w: image tokens have the logits u + w (c - u), with c conditional and u "
        "unconditional; 1 skips the unconditional pass.",
    )
    final_guidance_scale: float | None = Field(
        None,
        ge=0,
        description="w of the last step: from guidance_scale on, w changes by the same amount with "
        "each step. Null keeps w. It needs trained_distribution conditional.",
    )
    temperature: float = Field(
        1.0,
        gt=0,
        description="Divides the logits of CoT and image tokens. Recorded log-probs and entropies "
        "are those of the tempered distribution. There is no top-k and no top-p.",
    )
    max_cot_tokens: int = Field(
        ge=1, description="Length at which a CoT is cut; a CoT that is cut has no EOS."
    )
    batch_size: int = Field(64, ge=1, description="Trajectories a worker generates at once.")
    threads: int = Field(1, ge=1, description="Compute threads of a worker.")
    device: Literal["cpu", "cuda"] = Field("cpu", description="Device of a worker's policy.")
    cpus_per_worker: Share = Field(1, description="CPUs that Ray reserves for a worker.")
    gpus_per_worker: GpuShare = Field(
        0,
        description="Share of a GPU that Ray reserves for a worker. A worker uses one GPU at most: "
        "a model is not split over several.",
    )
    resources: CustomResources = Field(
        default_factory=dict,
        description="Custom resources of Ray that a worker needs, such as {rollout_host: 0.001}. "
        "It runs only on hosts that have them.",
    )
    sleep_while_learning: bool = Field(
        False,
        description="Free the workers' GPU memory during the update, for roles that share a GPU.",
    )
    timeout_s: Deadline = Field(
        1800, description="Seconds after which one generate call counts as failed."
    )
    load_timeout_s: Deadline = Field(
        600, description="Seconds for a worker to load new weights, to sleep or to wake."
    )

    restarts: int = Field(
        8,
        ge=0,
        description="Losses of workers in a row, without a batch sampled in between, after which "
        "they are replaced before the run stops. Workers that run side by side when one is lost "
        "count as one loss.",
    )
    attempts: int = Field(
        3,
        ge=1,
        description="Workers that a batch may cost, and then each of its groups alone, before the "
        "group is dropped.",
    )

    @field_validator("group_size")
    @classmethod
    def _group_can_be_compared(cls, value: int) -> int:
        if value < 2:
            raise ValueError(
                f"must be 2 or more, not {value}: an advantage compares a trajectory with the "
                "others of its group"
            )
        return value

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if (self.device == "cuda") != (self.gpus_per_worker > 0):
            raise ValueError("device cuda and gpus_per_worker > 0 go together")
        if self.engine == "vllm" and self.workers > 1 and 0 < self.gpus_per_worker <= 0.5:
            raise ValueError(
                "two vllm workers cannot share a GPU, each takes the other's memory for its own:"
                f" gpus_per_worker must be above 0.5, not {self.gpus_per_worker:g}"
            )
        return self

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        check_bounds(self.workers, self.min_workers, self.max_workers, self.autoscale)
        return self

    def ignored(self) -> Iterator[Ignored]:
        """With another engine, all settings of ``vllm``. With vLLM, those of the other device."""
        if self.engine != "vllm":
            yield Ignored("vllm", "has an effect with engine vllm alone", ("engine",))
        elif self.device == "cuda":
            text = "has an effect with device cpu alone"
            yield Ignored("vllm.cpu_kv_cache_gib", text, ("engine", "device"))
        else:
            text = "has an effect with device cuda alone"
            yield Ignored("vllm.memory_share", text, ("engine", "device"))

    @property
    def most_workers(self) -> int:
        """The most workers that the settings speak of."""
        return self.max_workers or self.workers

    @property
    def sampling(self) -> Sampling:
        """What training samples from; evaluation may replace the guidance scale."""
        return Sampling(self.guidance_scale, self.temperature, self.max_cot_tokens)
