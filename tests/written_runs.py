"""Run folders with synthetic numbers, written by the project's own writers; no actor runs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from learner.algorithm.advantages import group_advantages
from orchestrator.pipeline.drops import Drops
from orchestrator.pipeline.sample_records import TokenMaps, TrainingSamples, sample_row
from orchestrator.pipeline.step_batch import StepBatch
from orchestrator.record.run_folder import RunFolder
from orchestrator.record.sheets import save_png
from orchestrator.settings.model_size import ModelSize
from orchestrator.settings.run_config import RunConfig, dump_config, load_config
from orchestrator.workers.rollout_events import GroupRef
from policy.checkpoint.loading import load_encoder, read_config
from policy.disk import write_whole
from policy.encoding import PromptEncoder
from policy.types import Group, JsonDict, Prompt, RewardFailure, Score, Trajectory
from rewards.scored_group import ScoredGroup

ROOT = Path(__file__).parent.parent
CHECKPOINT = ROOT / "shapes" / "checkpoint"
REWARDS = {"attributes": 0.4, "structure": 0.4, "cleanliness": 0.2}
TASKS = ("color", "spatial", "numeracy")
COT = "a small red circle at the left and a large blue square at the bottom right"
FAILURE = "no reply within 30 s"


@cache
def settings(seed: int = 0, steps: int = 80, name: str = "shapes") -> RunConfig:
    """The configuration of the embedded world, with paths that hold in any folder."""
    data = [
        f"data.train={ROOT / 'shapes/data/train.jsonl'}",
        f"data.evaluation.seen={ROOT / 'shapes/data/seen.jsonl'}",
        f"data.evaluation.held_out={ROOT / 'shapes/data/held_out.jsonl'}",
    ]
    changed = [f"seed={seed}", f"steps={steps}", f"name={name}", f"model.path={CHECKPOINT}", *data]
    return load_config(ROOT / "configs" / "shapes.yaml", changed)


@cache
def encoder() -> PromptEncoder:
    return load_encoder(CHECKPOINT, "shapes")


@cache
def token_maps() -> TokenMaps:
    return TokenMaps.of(settings(), CHECKPOINT, ModelSize.of(read_config(CHECKPOINT)))


def metrics_row(step: int, rng: np.random.Generator) -> JsonDict:
    """A row as a run writes it, with a reward that rises and a spike of time at evaluations."""
    progress = 1 - math.exp(-step / 40)
    noise = rng.normal(size=12) * 0.03
    seconds = {"rollout": 1.6, "reward": 0.15, "learn": 1.3, "sync": 0.08}
    seconds |= {"evaluate": 3.4} if step % 20 == 0 else {}
    return {
        "step": step,
        "time": 1.7e9 + 3 * step,
        "reward/mean": 0.6 + 0.2 * progress + noise[0],
        "reward/std": 0.25 - 0.06 * progress + noise[1] / 2,
        "reward/group_std": 0.17 - 0.04 * progress + noise[2] / 2,
        "reward/attributes": 0.63 + 0.2 * progress + noise[3],
        "reward/structure": 0.45 + 0.28 * progress + noise[4],
        "reward/cleanliness": 0.85 + 0.08 * progress + noise[5] / 2,
        "entropy/cot/mean": 0.11 - 0.03 * progress + noise[7] / 10,
        "entropy/cot/std": 0.16 - 0.02 * progress + noise[7] / 10,
        "entropy/image/mean": 0.21 - 0.05 * progress + noise[8] / 10,
        "entropy/image/std": 0.2 - 0.02 * progress + noise[8] / 10,
        "kl/mean": None if step == 7 else 0.04 * progress + abs(noise[9]) / 20,
        "ratio/clipped": 0.0,
        "grad_norm": 0.9 + abs(noise[10]) * 8,
        "cot_length/mean": 14 + noise[11] * 8,
        "bonus/mean": 0.05 + noise[0] / 10,
        "bonus/flip_share": None if step == 3 else abs(noise[1]) / 3,
        "tokens/low_fraction": 0.2 + noise[2] / 10,
        "tokens/high_fraction": 0.2 + noise[3] / 10,
        **{f"seconds/{stage}": value * (1 + noise[4]) for stage, value in seconds.items()},
        "seconds/step": sum(seconds.values()) * (1 + noise[4]) + 0.06,
        "alarms": ["the gradient is exactly zero"] if step in (4, 9) else [],
    }


def evaluation_row(step: int, name: str, num_prompts: int = 96, shift: float = 0.0) -> JsonDict:
    """A fixed set whose prompts differ widely and all improve by about the same."""
    rng = np.random.default_rng(step + 1000 * len(name))
    base = np.random.default_rng(len(name)).uniform(0.3, 0.9, num_prompts)
    gain = 0.16 * (1 - math.exp(-step / 40)) * (0.4 if name == "held_out" else 1)
    means = np.clip(base + gain + rng.normal(0, 0.05 if step else 0, num_prompts), 0, 1) + shift
    mean = float(means.mean())
    return {
        "step": step,
        "set": name,
        "guidance_scale": 1.0,
        "reward/mean": mean,
        "reward/standard_error": float(means.std(ddof=1) / math.sqrt(num_prompts)),
        **{f"reward/{reward}": mean + 0.03 * place for place, reward in enumerate(REWARDS)},
        "detail/structure/strict": mean - 0.2,
        "by_task": {task: mean + 0.04 * place for place, task in enumerate(TASKS)},
        "num_prompts": num_prompts,
        "num_samples": 4 * num_prompts,
        "num_failed": 1 if name == "held_out" else 0,
        "prompt_means": [None, *means[1:].tolist()] if step == 20 else means.tolist(),
    }


def row_of(step: int, prompt_means: list[float | None], **more: object) -> JsonDict:
    samples = {"num_samples": 4 * len(prompt_means), "num_failed": 0}
    return {"step": step, "prompt_means": prompt_means, **samples, **more}


def draw_shapes(rng: np.random.Generator, side: int) -> np.ndarray:
    """A red disc and a blue square, somewhere."""
    picture = Image.new("RGB", (side, side), (232, 229, 222))
    draw = ImageDraw.Draw(picture)
    k, (x, y) = side / 32, rng.integers(3, 8, 2)
    draw.ellipse([x * k, y * k, (x + 9) * k, (y + 9) * k], fill=(203, 45, 48))
    draw.rectangle([18 * k, (y + 6) * k, 27 * k, (y + 15) * k], fill=(44, 83, 190))
    return np.asarray(picture)


def trajectory(
    prompt: Prompt, index: int, rng: np.random.Generator, side: int = 32, tokens: int = 64
) -> Trajectory:
    """A trajectory with the CoT ``COT`` and random entropies, in nats."""
    words = encoder().tokenizer.encode(COT, add_special_tokens=False)
    cot_ids = np.array([*words, encoder().special.eos], dtype=np.int32)
    cot, image = (rng.uniform(0, 3, size).astype(np.float32) for size in (len(cot_ids), tokens))
    return Trajectory(
        prompt_id=prompt.id, index_in_group=index, weight_version=0, seed=2**62 + index,
        cot_prompt_ids=cot_ids, cot_ids=cot_ids, cot_logprobs=-cot, cot_entropies=cot,
        cot_text=encoder().cot_text(cot_ids), image_prompt_ids=cot_ids,
        image_ids=np.zeros(tokens, dtype=np.int32),
        image_logprobs_conditional=-image, image_entropies_conditional=image,
        image_logprobs_guided=-image, image_entropies_guided=image / 2,
        image=draw_shapes(rng, side),
    )  # fmt: skip


def scored_group(prompt: Prompt, size: int, rng: np.random.Generator, failed: int) -> ScoredGroup:
    """Random scores; the last ``failed`` trajectories have none from the reward structure."""
    values = {name: rng.uniform(0.3, 1, size) for name in REWARDS}
    results: dict[str, tuple[Score | RewardFailure, ...]] = {
        name: tuple(Score(float(value)) for value in found) for name, found in values.items()
    }
    broken = (RewardFailure(FAILURE),) * failed
    results["structure"] = (*results["structure"][: size - failed], *broken)
    totals = [sum(REWARDS[name] * float(values[name][i]) for name in REWARDS) for i in range(size)]
    return ScoredGroup(prompt, (*totals[: size - failed], *(None,) * failed), results)


class Fetched:
    """Stands for the rollout pool: a group is its own reference."""

    def fetch(self, groups: Sequence[GroupRef]) -> list[Group]:
        return [group.ref for group in groups]


def keep_samples(folder: RunFolder, step: int, name: str, prompts: int, side: int) -> None:
    """Two samples of each prompt. At step 20 those of the third prompt have failed."""
    for place in range(prompts):
        rng = np.random.default_rng((step, place))
        text = f"a photo of a red circle left of a blue square, number {place}"
        prompt = Prompt(f"{name}:{place}", text, TASKS[place % len(TASKS)])
        scores = scored_group(prompt, 2, rng, failed=2 if place == 2 and step == 20 else 0)
        for index in range(2):
            image = f"step-{step:06d}/{name}-{place}-{index}.png"
            sample = trajectory(prompt, index, rng, side)
            save_png(sample.image, folder.path / "samples" / image)
            row = sample_row(step, name, image, sample, scores, token_maps())
            folder.append("samples/records.jsonl", row)


def keep_groups(folder: RunFolder, step: int, samples: TrainingSamples, side: int = 32) -> None:
    """Three groups of eight that a step trains on; the last trajectory of each has failed."""
    rng = np.random.default_rng((7, step))
    refs, scored, advantages = [], [], []
    for place in range(3):
        text = f"a photo of a red circle above a blue square, step {step}, number {place}"
        prompt = Prompt(f"train:{step}-{place}", text, TASKS[place])
        members = tuple(trajectory(prompt, index, rng, side) for index in range(8))
        refs.append(GroupRef(prompt, Group(prompt, members), 8))
        scored.append(scored_group(prompt, 8, rng, failed=1))
        advantages.append(group_advantages(scored[-1].totals, 4) or [])
    samples.keep(step, StepBatch(refs, scored, advantages, [], {}, {}))


def write_run(
    path: Path,
    steps: int,
    evaluated: Mapping[str, Sequence[int]],
    planned: int = 80,
    prompts: int = 3,
    side: int = 32,
    seed: int = 0,
    groups: Sequence[int] = (),
    shift: float = 0.0,
) -> Path:
    """A run folder as a run of ``steps`` steps leaves it, without checkpoints.

    ``evaluated`` has the steps at which each set was evaluated, ``groups`` the steps of which
    training groups are offered to the record, and ``shift`` is added to every reward of the fixed
    sets.
    """
    folder = RunFolder(path)
    config = settings(seed, planned, path.name)
    write_whole(path / "config.yaml", dump_config(config))
    write_whole(path / "inputs.json", json.dumps({f"data.evaluation.{n}": n for n in evaluated}))
    rng = np.random.default_rng(seed)
    rows = [metrics_row(step, rng) for step in range(1, steps + 1)]
    write_whole(path / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    for name, at in evaluated.items():
        for step in at:
            folder.append("evaluations.jsonl", evaluation_row(step, name, shift=shift))
            keep_samples(folder, step, name, prompts, side)
    samples = TrainingSamples(planned, folder, Fetched(), token_maps())  # type: ignore[arg-type]
    for step in groups:
        keep_groups(folder, step, samples, side)
    if groups:
        lost = Prompt("train:9", "a photo of two green crosses", "numeracy")
        Drops(folder, 2).too_few(groups[0] - 1, 0, scored_group(lost, 8, rng, failed=6), 4)
    folder.close()
    return path
