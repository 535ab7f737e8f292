"""Time and memory of one learner update: GRPO, EG-GRPO, and EG-GRPO as the public code makes it.

    python -m benchmarks.learner_step                        # the shapes model on a CPU
    python -m benchmarks.learner_step --model 1b --device cuda --dtype bfloat16
    python -m benchmarks.learner_step --model 7b --device cuda --dtype bfloat16 --lora 16

The update is the learner's own code (learner/update.py: micro-batches, the reference's forward
pass, the objective, AdamW) with torch alone. Neither Ray nor DeepSpeed is needed. Trajectories are
random tokens with the log-probs of the policy's own forward pass. All models but shapes have random
weights. All updates run in one process on the same weights and take turns. A ratio is the median
over rounds with its 95 % bootstrap interval. "Full log-softmax" is ours without our kernel;
benchmarks/public_way.py says what the public code's way is. Times are CPU seconds with one thread,
and wall seconds with more threads or on a GPU. The memory that `eg-grpo doctor --plan` expects is
printed beside the peak that was measured.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec

import numpy as np
import torch

from benchmarks.learner_task import GUIDANCE, MODELS, Task
from benchmarks.logprobs import full_logprob, full_logprob_entropy
from benchmarks.presets import preset
from benchmarks.public_way import PublicUpdater, public_model
from benchmarks.storage_log import MIB, peak_bytes
from benchmarks.synthetic import random_batch
from benchmarks.timing import Interval, clock_of, interleave
from benchmarks.torch_model import TorchModel
from learner.logprob_module import entropy_kernel, logprob_kernel
from learner.update import Updater
from policy.errors import UserError
from policy.runtime import tune_process

GRPO, EG_GRPO, AS_PAPER = "GRPO", "EG-GRPO, as-code", "EG-GRPO, as-paper"
FULL = "EG-GRPO, as-code, full log-softmax"
FULL_KERNELS = {entropy_kernel: full_logprob_entropy, logprob_kernel: full_logprob}
PUBLIC = "EG-GRPO, as-code, the public code's way"
# Whose time a ratio is of.
AGAINST = {EG_GRPO: GRPO, AS_PAPER: GRPO, FULL: EG_GRPO, PUBLIC: EG_GRPO}


def measure(task: Task, rounds: int) -> None:
    """Print the table of one task; raises ``UserError`` when it cannot fit."""
    task.refuse_what_cannot_fit()
    policy, special = task.policy()
    batch = random_batch(policy, special, task.shape, task.sampling)
    tokens = sum(t.num_tokens for part in batch for t in part.source.group.trajectories)
    model = TorchModel(policy, special, task.settings(), policy.device)
    updates = {
        name: partial(kind(passes, task.settings(**algorithm), special).update, batch, 0)
        for name, kind, passes, algorithm in (
            (GRPO, Updater, model, {"modalities": "none"}),
            (EG_GRPO, Updater, model, preset("as-code")),
            (AS_PAPER, Updater, model, preset("as-paper")),
            (FULL, Updater, model.with_kernels(FULL_KERNELS), preset("as-code")),
            (PUBLIC, PublicUpdater, public_model(model), preset("as-code")),
        )
        # The public code trains the conditional distribution alone.
        if name != PUBLIC or task.distribution == "conditional"
    }
    updates[GRPO]()  # from here on the optimizer has its averages
    peaks = {name: _peak(update, model) for name, update in updates.items()}
    fitting = [name for name, peak in peaks.items() if peak is not None]
    seconds = interleave(
        [updates[name] for name in fitting],
        rounds,
        clock_of(policy.device.type, torch.get_num_threads()),
    )
    columns = dict(zip(fitting, seconds.T, strict=True))

    print(
        f"\n{_title(task)}, {tokens} tokens, {rounds} rounds\n\n"
        "| update | time, s | tokens/s | time against | peak memory, MiB |\n|---|---|---|---|---|"
    )
    for name, peak in peaks.items():
        if peak is None:
            print(f"| {name} | does not fit | | | |")
            continue
        own, base = columns[name], AGAINST.get(name)
        ratio = f"{base}: {Interval.of(own / columns[base]).times()}" if base in columns else ""
        median = np.median(own)
        print(f"| {name} | {median:.3f} | {tokens / median:.0f} | {ratio} | {peak / MIB:,.1f} |")
    planned = task.planned()
    parts = planned.held | planned.working
    parts.pop("CUDA context", None)  # torch does not see it
    named = ", ".join(f"{name} {amount / MIB:,.1f}" for name, amount in parts.items() if amount)
    print(f"\nplanned: {sum(parts.values()) / MIB:,.1f} MiB ({named})", flush=True)


def _peak(update: Callable[[], object], model: TorchModel) -> int | None:
    """Most bytes alive during an update, None if the GPU has no room for them."""
    try:
        return peak_bytes(update, model.held())
    except torch.OutOfMemoryError:
        pass  # and let go of the traceback, which holds the update's tensors
    model.forget_gradients()
    torch.cuda.empty_cache()
    return None


def _title(task: Task) -> str:
    gpu = task.learner.device == "cuda"
    device = torch.cuda.get_device_name() if gpu else f"cpu, {torch.get_num_threads()} thread(s)"
    checkpointing = "gradient checkpointing, " if task.learner.gradient_checkpointing else ""
    return (
        f"{task.model}, {task.training}, {checkpointing}{task.distribution} distribution,"
        f" {task.dtype} on {device}: {task.shape.prompts} prompts x"
        f" {task.shape.group_size} in micro-batches of {task.learner.micro_batch_size}"
    )


def parsed(arguments: list[str] | None) -> argparse.Namespace:
    what, examples, how = (part.strip() for part in __doc__.split("\n\n"))
    parser = argparse.ArgumentParser(
        "python -m benchmarks.learner_step",
        description=what,
        epilog=f"examples:\n    {examples}\n\n{how}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--model", choices=list(MODELS), default="shapes",
        help="1b and 7b have the sizes of Janus-Pro (default: shapes)")  # fmt: skip
    add("--device", choices=["cpu", "cuda"], default="cpu", help="default: cpu")
    add("--dtype", choices=["float32", "bfloat16"], default="float32",
        help="of the weights; bfloat16 has float32 master weights (default: float32)")  # fmt: skip
    add("--lora", type=int, metavar="RANK", help="train an adapter (default: everything)")
    add("--gradient-checkpointing", action="store_true", help="compute activations twice")
    add("--trained-distribution", choices=["conditional", "guided"], default="conditional",
        dest="distribution", help=f"of image tokens; guided, at guidance {GUIDANCE:g}, has a second"
        " forward pass (default: conditional)")  # fmt: skip
    add("--prompts", type=int, metavar="N", help="groups of 8 in an update"
        + _defaults("prompts"))  # fmt: skip
    add("--micro-batch", type=int, metavar="N", help="trajectories at a time"
        + _defaults("micro_batch"))  # fmt: skip
    add("--cot", type=int, metavar="N", help="tokens of the longest CoT" + _defaults("cot"))
    add("--rounds", type=int, metavar="N", default=5, help="of all updates (default: 5)")
    add("--threads", type=int, metavar="N", default=1, help="of the CPU (default: 1)")
    return parser.parse_args(arguments)


def _defaults(field: str) -> str:
    named = ", ".join(f"{name} {getattr(size, field)}" for name, size in MODELS.items())
    return f" (default: {named})"


def main(arguments: list[str] | None = None) -> int:
    options = vars(parsed(arguments))
    rounds = options.pop("rounds")
    tune_process(options.pop("threads"))
    try:
        if options["device"] == "cuda" and not torch.cuda.is_available():
            raise UserError("--device cuda: torch finds no GPU here")
        if options["lora"] and find_spec("peft") is None:
            raise UserError("--lora needs peft, which is not installed")
        measure(Task.of(**options), rounds)
    except (UserError, torch.OutOfMemoryError) as error:
        print(f"learner_step: {str(error).splitlines()[0]}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
