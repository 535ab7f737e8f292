"""The list of parts. The most important come first, in case the time runs out."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """``module.measures(task)`` yields the figures of the part."""

    name: str
    share: float  # of the minutes, relative to the other parts
    title: str

    @property
    def module(self) -> str:
        return f"benchmarks.gpu_check.{self.name}"


PARTS = (
    Part("card", 1, "The card and what is installed"),
    Part("head_kernel", 2, "Log-probs and entropies of a head: kernel against full log-softmax"),
    Part("learner_1b", 3, "Learner step at Janus-Pro-1B's size, full fine-tuning"),
    Part("learner_7b", 4, "Learner step at Janus-Pro-7B's size, LoRA"),
    Part("graphed_steps", 2, "The decode step as a CUDA graph"),
    Part("generation", 8, "Transformers engine against the plain loop"),
    Part("rollout_gap", 2, "Log-probs of rollout and learner in bfloat16"),
    Part("cpu_tests", 4, "Tests of the CPU on the GPU"),
    Part("not_finite", 2, "What is not finite"),
    Part("same_seed", 2, "The same seed twice, as shipped"),
    Part("deterministic", 2, "The same seed twice, with deterministic algorithms"),
    Part("deepspeed_rank", 2, "A learner rank in DeepSpeed at every ZeRO stage"),
    Part("weight_push", 2, "Weights: device to buffers to device"),
    Part("sleep_wake", 2, "Sleep and wake"),
    Part("reward_models", 4, "Reward models at real shape"),
    Part("image_decoder", 1, "Image decoder"),
)

# Those that are what a learner rank is: their processes allocate memory as a rank's does.
AS_A_RANK = ("learner_1b", "learner_7b", "deepspeed_rank")
