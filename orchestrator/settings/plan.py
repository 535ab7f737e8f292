"""``eg-grpo doctor --plan``: the memory that a run will need on each GPU and on the host.

The plan is computed from the settings and from the config.json of the model. No process starts.
Only the config.json of a model whose sizes are not known is downloaded. If a GPU is too small, a
``UserError`` names the GPU, the memory that it would need, and the processes on it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from orchestrator.settings import memory
from orchestrator.settings.batch_text import batch_text
from orchestrator.settings.checkpoint_room import checkpoint_bytes, checkpoints_at_once
from orchestrator.settings.memory import GIB, Lengths, Memory, gib_text
from orchestrator.settings.model_size import ModelSize
from orchestrator.settings.object_store import object_store_bytes
from orchestrator.settings.run_config import RunConfig
from policy.errors import UserError

RESERVE = 0.05  # share of a GPU that stays free, for fragmentation and for other programs


@dataclass(frozen=True)
class Machine:
    """The machine that the plan must fit. With ``host_bytes`` None, host memory is not checked."""

    gpus: int
    gpu_bytes: int
    host_bytes: int | None


@dataclass(frozen=True)
class Actor:
    """One actor of the run, its device and its share of a GPU."""

    name: str  # its kind and its number, e.g. ``rollout worker 0``
    role: str  # learner | rollout | reward
    device: str
    gpu_share: float

    @property
    def kind(self) -> str:
        """The name without its number. Actors of one kind need the same memory."""
        return self.name.rpartition(" ")[0]


@dataclass(frozen=True)
class Process(Actor):
    """An actor and the memory it needs."""

    memory: Memory


@dataclass
class Gpu:
    """One GPU and the processes on it."""

    processes: list[Process] = field(default_factory=list)

    def needed(self, takes_turns: bool) -> int:
        """The largest number of bytes that is needed at any time.

        torch keeps memory that it has freed, so the needs of all roles add up. They do not only if
        ``takes_turns`` (``rollout.sleep_while_learning``): then rollout and learner return their
        memory while the other one works.
        """
        everything = sum(process.memory.total for process in self.processes)
        if not takes_turns:
            return everything
        idle_rollout = sum(
            process.memory.total - process.memory.held.get("CUDA context", 0)
            for process in self.processes
            if process.role == "rollout"
        )
        idle_learner = sum(
            sum(process.memory.working.values())
            for process in self.processes
            if process.role == "learner"
        )
        return everything - min(idle_rollout, idle_learner)


@dataclass(frozen=True)
class Plan:
    """The processes of a run and their places on GPUs, with host memory by process."""

    config: RunConfig
    lengths: Lengths
    processes: list[Process]
    gpus: list[Gpu]
    host: dict[str, int]
    checkpoint: int  # bytes of one, on disk

    def refuse_what_cannot_fit(self, machine: Machine) -> None:
        """Raise ``UserError`` for the first GPU, or the host, that is too small."""
        usable = round(machine.gpu_bytes * (1 - RESERVE))
        for index, gpu in enumerate(self.gpus):
            needed = gpu.needed(self.config.rollout.sleep_while_learning)
            if needed > usable:
                names = ", ".join(process.name for process in gpu.processes)
                there = gib_text(machine.gpu_bytes)
                raise UserError(
                    f"GPU {index} would need {gib_text(needed)}, it has {there}, of which"
                    f" {RESERVE:.0%} are kept free; on it: {names}"
                )
        needed = sum(self.host.values())
        if machine.host_bytes is not None and needed > machine.host_bytes:
            there = gib_text(machine.host_bytes)
            raise UserError(f"the host would need {gib_text(needed)} of memory, it has {there}")


def make_plan(config: RunConfig, size: ModelSize, lengths: Lengths, machine: Machine) -> Plan:
    """Place the processes of a run on the GPUs of a machine and compute their memory.

    Raises ``UserError`` when the run asks for more GPUs than there are, or when its share of a GPU
    is too small for a single trajectory.
    """
    actors = list(_actors(config))
    placed = _placed(actors, machine.gpus)  # first, so that missing GPUs are the first error
    needs = _memory_by_kind(config, size, lengths, machine)
    named = {actor.name: Process(**vars(actor), memory=needs[actor.kind]) for actor in actors}
    processes = list(named.values())
    gpus = [Gpu([named[actor.name] for actor in on_gpu]) for on_gpu in placed]
    host = {"object store": object_store_bytes(size, config)}
    for process in processes:
        parts = list(process.memory.host.items())
        if process.device == "cpu":
            parts += [*process.memory.held.items(), *process.memory.working.items()]
        if process.name.endswith("rank 0"):
            parts = [part for part in parts if part[1]]
        else:  # only rank 0 of the learner publishes weights
            parts = [part for part in parts if part[0] != "publishing"]
        working = sum(amount for _, amount in parts)
        # A process reads its checkpoint into host memory at the start, before it needs the rest.
        host[process.name] = max(working, memory.PROCESS_HOST + process.memory.loading)
    return Plan(config, lengths, processes, gpus, host, checkpoint_bytes(config, size))


def table(plan: Plan, machine: Machine) -> str:
    """The plan as text: the batch, the memory of each kind of process, each GPU, host and disk."""
    lengths = plan.lengths
    lines = [
        f"batch        {batch_text(plan.config)}",
        f"tokens       CoT prompt up to {lengths.cot_prompt}, CoT {lengths.cot}, image prompt with"
        f" CoT {lengths.image_prompt}",
    ]
    shown: set[str] = set()
    for process in plan.processes:
        if process.kind in shown:
            continue
        shown.add(process.kind)
        count = sum(other.kind == process.kind for other in plan.processes)
        where = "GPU memory" if process.device == "cuda" else "host memory"
        lines += ["", f"{process.kind}, {count} of them, each in {where}"]
        parts = process.memory.held | process.memory.working
        lines += [_row(part, amount) for part, amount in parts.items() if amount]
        lines.append(
            _row("together", process.memory.total) if parts else "  (what it needs is not known)"
        )
    if plan.gpus:
        lines += ["", f"GPUs of {gib_text(machine.gpu_bytes)}"]
    for index, gpu in enumerate(plan.gpus):
        needed = gpu.needed(plan.config.rollout.sleep_while_learning)
        names = ", ".join(process.name for process in gpu.processes)
        lines.append(_row(f"GPU {index}", needed) + f"  {names or 'nobody'}")
    there = "" if machine.host_bytes is None else f" of {gib_text(machine.host_bytes)}"
    lines += ["", f"host memory{there}"]
    lines += [_row(name, amount) for name, amount in plan.host.items()]
    lines.append(_row("together", sum(plan.host.values())))
    if plan.checkpoint:
        count = checkpoints_at_once(plan.config)
        lines += ["", "disk"]
        lines += [_row("a checkpoint", plan.checkpoint)]
        lines += [_row(f"{count} at once", count * plan.checkpoint)]
    return "\n".join(lines)


def this_machine(gpus: int | None, gpu_gib: float | None, host_gib: float | None) -> Machine:
    """The machine that the arguments describe. For arguments that are None, it is this machine."""
    if (gpus is None) != (gpu_gib is None):
        raise UserError("--gpus and --gpu-memory go together")
    for gib in (gpu_gib, host_gib):
        if gib is not None and not 0 < gib < math.inf:  # false for NaN too
            raise UserError("--gpus, --gpu-memory and --host-memory must be positive")
    host_bytes = None if host_gib is None else round(host_gib * GIB)
    if gpus is not None and gpu_gib is not None:
        if gpus < 0:
            raise UserError("--gpus, --gpu-memory and --host-memory must be positive")
        return Machine(gpus, round(gpu_gib * GIB), host_bytes)
    import torch

    sizes = [
        torch.cuda.get_device_properties(index).total_memory
        for index in range(torch.cuda.device_count())
    ]
    return Machine(len(sizes), min(sizes, default=0), host_bytes or _physical_memory())


def _physical_memory() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        name, amount, *_ = line.split()
        if name == "MemTotal:":
            return int(amount) * 1024
    raise UserError("/proc/meminfo does not say how much memory there is; give --host-memory")


def _actors(config: RunConfig) -> Iterator[Actor]:
    """All actors of the run, in the order in which it starts them."""
    rollout, learner = config.rollout, config.learner
    for index in range(rollout.workers):
        name = f"rollout worker {index}"
        yield Actor(name, "rollout", rollout.device, rollout.gpus_per_worker)
    for reward in config.rewards:
        device = "cuda" if reward.gpus_per_worker > 0 else "cpu"
        for index in range(reward.workers):
            name = f"reward {reward.name} {index}"
            yield Actor(name, "reward", device, reward.gpus_per_worker)
    for index in range(config.learner_ranks):
        yield Actor(f"learner rank {index}", "learner", learner.device, learner.gpus_per_rank)


def _memory_by_kind(
    config: RunConfig, size: ModelSize, lengths: Lengths, machine: Machine
) -> dict[str, Memory]:
    rollout, learner = config.rollout, config.learner
    trains_guided = config.algorithm.trained_distribution == "guided"
    needs = {
        "rollout worker": memory.rollout_memory(
            size,
            rollout,
            lengths,
            config.model.dtype,
            guided=any(
                sampling.guided
                for sampling in (
                    rollout.sampling,
                    config.final_sampling,
                    *config.evaluation_samplings,
                )
            ),
            gpu_bytes=machine.gpu_bytes,
            lora=learner.lora,
        ),
        "learner rank": memory.learner_memory(
            size,
            learner.model_copy(update={"micro_batch_size": config.largest_micro_batch}),
            lengths,
            config.model.dtype,
            guided=trains_guided and rollout.sampling.guided,
            compares=config.algorithm.kl_beta > 0,
            needs=config.algorithm.objective().method.needs,
        ),
    }
    for reward in config.rewards:
        needs[f"reward {reward.name}"] = memory.reward_memory(reward, machine.gpu_bytes)
    return needs


def _placed(actors: Sequence[Actor], count: int) -> list[list[Actor]]:
    """The actors on each GPU. Each goes to the fullest GPU with room for its share, as in Ray."""
    gpus: list[list[Actor]] = [[] for _ in range(count)]
    free = [1.0] * count
    asked = sum(actor.gpu_share for actor in actors)
    for actor in actors:
        if actor.gpu_share > 1:
            raise UserError(f"{actor.name} asks for {actor.gpu_share:g} GPUs; it can use one")
        if actor.gpu_share == 0:
            continue
        room = [index for index in range(count) if free[index] >= actor.gpu_share - 1e-6]
        if not room:
            raise UserError(
                f"{actor.name} finds no GPU with {actor.gpu_share:g} left: the roles ask for"
                f" {asked:g} GPUs, the plan has {count} (--gpus and --gpu-memory name others)"
            )
        fullest = min(room, key=lambda index: free[index])
        gpus[fullest].append(actor)
        free[fullest] -= actor.gpu_share
    return gpus


def _row(name: str, amount: int) -> str:
    return f"  {name:<24}{gib_text(amount):>12}"
