"""The paper's analyses of entropies and diversity, over the seeds whose weights are kept.

For each seed ``eg-grpo analyze entropy`` draws a dataset with the checkpoint before training, with
and without CoT, and with the policies of GRPO and EG-GRPO. Its findings become means over seeds.
The Vendi score is that of the same images, by the likeness of their image tokens.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np

from benchmarks.cells import ROOT, interval
from benchmarks.experiments import weights
from benchmarks.experiments.arms import WEIGHTS_KEPT, WORLDS, Arm
from benchmarks.experiments.likeness import likeness
from benchmarks.experiments.records import Records
from benchmarks.experiments.results import markdown
from benchmarks.experiments.studies import SEEDS
from evaluation.diversity import vendi_of_cosines
from evaluation.matched import TOLERANCES, matched_diversity
from orchestrator.cli import main as eg_grpo
from policy.errors import RunFailed, UserError
from policy.trajectory_files import read_group
from policy.types import JsonDict

PROMPTS, COTS, IMAGES = 24, 5, 8
# The paper's 0.03 selects no CoT in the embedded world (docs/analysis.md).
UNSTABLE_FROM = 0.015
_PAIRS = tuple(zip(WEIGHTS_KEPT[::2], WEIGHTS_KEPT[1::2], strict=True))  # GRPO and EG-GRPO
_TRAINED = ("GRPO", "EG-GRPO")
_ROW = ("figure", "setting", "minus", "quantity", "statistic", "subset", "within_prompts")
_HEADER = f"""\
# Entropy and diversity over seeds

`python -m benchmarks.experiments analyze` writes this page from the final weights of GRPO and
EG-GRPO as-code (seeds {SEEDS[0]} to {SEEDS[-1]}): {PROMPTS} training prompts, {COTS} CoTs each,
{IMAGES} images for each CoT. [analysis.md](../analysis.md) says what the numbers mean. Values are
means over seeds ± the half-width of the 95 % interval (Student's t). This interval speaks of other
training runs with the same prompts, and for `plain` and `CoT`, which are the checkpoint before
training, only of drawing again. `over prompts` is the interval that speaks of other prompts: the
ends of the bootstrap over prompts within a seed, as means over seeds. `in prompts` means that the
mean of each prompt was subtracted before. Numbers of single bins, whose edges differ from seed to
seed, are not here. None of this was a registered hypothesis.

The Vendi score here is not that of the paper, which takes features of CLIP. Two images are as alike
as the share of places at which they have the same image token.
"""


def page(records: Records, root: Path) -> Iterator[str]:
    """The lines of the page. Raises ``UserError`` when recorded weights are not in ``root``."""
    yield _HEADER
    for base, other in _PAIRS:
        guidance = base.cell(0).config(root).rollout.guidance_scale
        yield f"## World {base.world}, w = {guidance:g}\n"
        done = sum(seed in records.runs(arm) for arm in (base, other) for seed in SEEDS)
        if done < 2 * len(SEEDS):
            yield f"Not yet measured: {done} of {2 * len(SEEDS)} runs are finished.\n"
            continue
        for arm in (base, other):
            _check(arm, records, root)
        folders = [_analysed(base, other, seed, guidance, root) for seed in SEEDS]
        heads = [*_COLUMNS, "mean over seeds", "over prompts", "seeds"]
        yield from markdown([heads, *_findings(folders)])
        yield "\n### Diversity (6.4)\n"
        for before, after in (("CoT", "GRPO"), _TRAINED):
            heads = ["what", before, after, f"{after} minus {before}", "seeds"]
            yield from markdown([heads, *_diversity(folders, before, after)])
            yield ""
        yield ""


_COLUMNS = ("figure", "setting", "quantity", "statistic", "of", "in prompts")


def _check(arm: Arm, records: Records, root: Path) -> None:
    for seed in SEEDS:
        if weights.digest(root, arm, seed) != records.runs(arm)[seed]["weights"]["file"]:
            raise UserError(
                f"the recorded weights of {arm.cell(seed).name} are not in {root / 'weights'}:"
                " python -m benchmarks.experiments weights makes them"
            )


def _analysed(base: Arm, other: Arm, seed: int, guidance: float, root: Path) -> Path:
    """The folder of the analysis of a seed. What an earlier call has drawn is not drawn again."""
    output, before = root / "analyses" / f"{base.world}-s{seed}", ROOT / WORLDS[base.world]
    models = (before, weights.folder(root, base, seed), weights.folder(root, other, seed))
    settings = ("CoT", *_TRAINED)
    code = eg_grpo(
        [
            "analyze", "entropy", str(ROOT / "configs" / "shapes.yaml"), "--output", str(output),
            "--plain", f"plain={before}",
            *(word for pair in zip(settings, models, strict=True)
              for word in ("--model", "{}={}".format(*pair))),
            "--num-prompts", str(PROMPTS), "--cots", str(COTS), "--images", str(IMAGES),
            "--seed", str(seed), "--unstable-from", str(UNSTABLE_FROM),
            f"rollout.guidance_scale={guidance}", "rollout.threads=1",
        ]
    )  # fmt: skip
    if code:
        raise RunFailed(f"eg-grpo analyze entropy failed for {output}")
    return output


def _findings(folders: list[Path]) -> list[list[str]]:
    """One row for each number of the analyses, in their order."""
    found: dict[tuple[str, ...], list[tuple[float, ...]]] = defaultdict(list)
    for folder in folders:
        for row in _rows(folder / "findings.csv"):
            if not row["subset"].startswith("bin "):
                numbers = [row[key] for key in ("value", "low", "high")]
                of_seeds = found[tuple(row[key] for key in _ROW)]
                of_seeds += [tuple(map(float, numbers))] if all(numbers) else []  # empty: NaN
    return [
        [
            figure, f"{setting} minus {minus}" if minus else setting, quantity, statistic, subset,
            "yes" if within == "True" else "", interval([value for value, _, _ in of_seeds]),
            _over_prompts(of_seeds), str(len(of_seeds)),
        ]
        for (figure, setting, minus, quantity, statistic, subset, within), of_seeds in found.items()
    ]  # fmt: skip


def _over_prompts(of_seeds: list[tuple[float, ...]]) -> str:
    if not of_seeds:
        return ""
    low, high = (mean(numbers[end] for numbers in of_seeds) for end in (1, 2))
    return f"[{low:.3f}, {high:.3f}]"


def _diversity(folders: list[Path], before: str, after: str) -> list[list[str]]:
    """The Vendi scores of all images, and of those that are paired by their rewards."""
    scores: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for folder in folders:
        first, other = (_per_image(folder, name) for name in (before, after))
        scores["all images of a prompt"].append((_vendi(first), _vendi(other)))
        for tolerance in TOLERANCES:
            matched = matched_diversity(first, other, tolerance)
            if matched is not None:
                what = f"images paired by reward, {tolerance:g} standard deviations apart at most"
                scores[what].append(matched.vendi)
    return [
        [
            what,
            *(interval([pair[side] for pair in of_seeds]) for side in (0, 1)),
            interval([other - first for first, other in of_seeds]),
            str(len(of_seeds)),
        ]
        for what, of_seeds in scores.items()
    ]


def _vendi(result: JsonDict) -> float:
    return mean(vendi_of_cosines(np.array(of["cosines"])) for of in result["per_image"].values())


def _per_image(folder: Path, setting: str) -> JsonDict:
    """Reward and likeness of a setting's images, by prompt, as ``matched_diversity`` reads them."""
    rewards: dict[str, list[float]] = defaultdict(list)
    for row in _rows(folder / "samples.csv"):
        if row["setting"] == setting:
            rewards[row["prompt_id"]].append(float(row["reward"]))
    found: dict[str, Any] = {}
    for file in sorted((folder / "samples" / setting).glob("prompt-*.safetensors")):
        group = read_group(file)
        quality = [[reward] for reward in rewards[group.prompt.id]]
        found[group.prompt.id] = {"quality": quality, "cosines": likeness(group)}
    return {"per_image": found}


def _rows(file: Path) -> Iterator[dict[str, str]]:
    with file.open(newline="", encoding="utf-8") as stream:
        yield from csv.DictReader(stream)
