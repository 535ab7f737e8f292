"""Time of whole trajectories at guidance 5: our engine and the plain loop of public code.

Each token needs the weights of the layers and the head, and the keys and values of all rows so far.
The bandwidth limit is the time in which the GPU reads them once, at the speed of a copy.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from benchmarks.gpu_check.measuring import GB, copy_bandwidth, seconds_of, size_in_bytes
from benchmarks.gpu_check.models import engine, janus, requests, sampling_of
from benchmarks.gpu_check.task import Measure, Task
from benchmarks.plain_loop import PlainLoop
from policy.encoding import PromptEncoder
from policy.janus import JanusPolicy
from policy.types import Trajectory

ROWS = (64, 32, 128)  # of the image phase, two a trajectory; the first is the most telling


def measures(task: Task) -> Iterator[Measure]:
    policy, encoder = janus(task)
    # Kernels are loaded at first use, which must not be counted to the way that comes first.
    engine(task, policy, encoder, 1, sampling_of(task)).generate(requests(1))
    bandwidth = copy_bandwidth(task.device, task.sized(2**31, 2**24))
    yield Measure("bandwidth of a copy", bandwidth / GB, "GB/s")
    for rows in task.sized(ROWS, (4,)):
        yield from _with(task, policy, encoder, rows, bandwidth)


def _with(
    task: Task, policy: JanusPolicy, encoder: PromptEncoder, rows: int, bandwidth: float
) -> Iterator[Measure]:
    sampling = sampling_of(task)
    ours = engine(task, policy, encoder, rows // 2, sampling)
    asked = requests(rows // 2)
    prompts = [request.prompt for request in asked for _ in request.seeds]
    loop = PlainLoop(policy, encoder)
    made: list[Trajectory] = []

    def generate() -> None:
        made[:] = [t for group in ours.generate(asked) for t in group.trajectories]

    ways: dict[str, Callable[[], object]] = {"our engine": generate}
    if rows == ROWS[0] or task.tiny:  # the plain loop takes most of a minute
        ways["plain loop"] = lambda: loop.generate(prompts, sampling)
    name = task.sized(f"{rows} rows", "64 rows")
    shape = f"{rows // 2} trajectories, {policy.num_image_tokens} image tokens"
    for way, call in ways.items():
        taken = seconds_of(call)
        limit = bytes_read(policy, made) / bandwidth
        yield Measure(f"{name}, {way}", rows / 2 / taken, "images/s", shape)
        yield Measure(f"{name}, {way}: share of the bandwidth limit", 100 * limit / taken, "%")


def bytes_read(policy: JanusPolicy, made: list[Trajectory]) -> int:
    """By all token steps of one batch with guidance, CoT and image."""
    model = policy.model
    text = model.model.language_model.config
    layers = size_in_bytes(model.model.language_model.layers.parameters())
    head = size_in_bytes(model.model.generation_head.parameters())
    position = (
        len(model.model.language_model.layers)
        * 2 * text.num_key_value_heads * text.head_dim * model.dtype.itemsize
    )  # fmt: skip
    total = 0
    for step in range(max(len(t.cot_ids) for t in made)):
        running = [t for t in made if len(t.cot_ids) > step]
        total += layers + size_in_bytes([model.lm_head.weight])
        total += sum(len(t.cot_prompt_ids) + step for t in running) * position
    for step in range(policy.num_image_tokens):
        total += layers + head
        total += 2 * sum(len(t.image_prompt_ids) + step for t in made) * position
    return total
