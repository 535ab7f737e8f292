"""``eg-grpo analyze entropy``: the entropy analyses of the paper for any checkpoints, without Ray.

It draws and scores a dataset of images in this process, keeps it, and writes from it the figures 2
to 5 of the paper, the numbers behind them, and contact sheets.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from evaluation.entropy_cots import Thresholds
from evaluation.entropy_samples import Entropies, SampledImage, sampled_images
from evaluation.entropy_tokens import TokenCounts, token_counts
from orchestrator.record.sheets import Tile, contact_sheet, save_png
from orchestrator.report.entropy_analysis import write_analysis
from orchestrator.report.figure_files import check_matplotlib
from orchestrator.settings.machine import check_device
from orchestrator.settings.run_config import RunConfig, load_config
from policy.errors import UserError
from policy.prompts import load_prompts
from policy.runtime import tune_process
from policy.types import Group, RewardResult, Score
from rewards.totals import weighted_totals

if TYPE_CHECKING:
    from orchestrator.pipeline.entropy_dataset import SettingFolder

_SHEET_SAMPLES, _SHEET_COLUMNS = 20, 5  # as in appendix E of the paper
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,99}")  # names become folders


def run(parsed: argparse.Namespace) -> None:
    """Draw, score and analyse; prints how many images failed, and where the findings are."""
    check_matplotlib()
    config = load_config(parsed.config, parsed.overrides)
    check_device(config.rollout.device, "rollout.device")
    thresholds = _thresholds(parsed)
    tune_process(config.rollout.threads)
    from orchestrator.pipeline.entropy_drawing import EntropyDrawing, Extent, Setting

    settings = [Setting(*_named(text), with_cot) for text, with_cot in parsed.settings or ()]
    if not settings:
        raise UserError("give --model NAME=MODEL, or --plain NAME=MODEL, or several of them")
    names = [setting.name for setting in settings]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise UserError(f"two settings are called {twice}; give each a name of its own")
    prompts = load_prompts(parsed.prompts or config.data.train)[: parsed.num_prompts]
    extent = Extent(tuple(prompts), parsed.cots, parsed.images, parsed.seed)
    drawing = EntropyDrawing(config, settings, extent, parsed.output)
    drawing.draw()
    drawing.score()
    rows: list[SampledImage] = []
    counts: list[TokenCounts] = []
    side_by_side: dict[int, list[list[Tile]]] = {}  # the first row of each setting, by prompt
    for folder in drawing.folders:
        for place, prompt in enumerate(prompts):
            group, results = folder.group(place, prompt), _results(folder, place, config)
            totals = weighted_totals(results, {r.name: r.weight for r in config.rewards})
            values = {name: [_value(result) for result in of] for name, of in results.items()}
            images_per_cot = folder.drawn_as.images_per_cot
            rows += sampled_images(
                folder.name, group, totals, values, images_per_cot, folder.vocabulary
            )
            counts += _counts(folder, group, parsed.entropies)
            tiles = _tiles(folder.name, group, totals, images_per_cot)
            side_by_side.setdefault(place, []).append(tiles[:_SHEET_COLUMNS])
            _save_sheet([tiles], parsed.output / "sheets" / folder.name, place)
    for place, rows_of_settings in side_by_side.items():
        _save_sheet(rows_of_settings, parsed.output / "sheets", place)
    failed = sum(row.reward is None for row in rows)
    if failed:
        print(f"left out: {failed} of {len(rows)} images, which a reward could not score")
    write_analysis(rows, counts, parsed.entropies, thresholds, parsed.output)
    print(f"findings: {parsed.output / 'findings.csv'}")


def _thresholds(parsed: argparse.Namespace) -> Thresholds:
    """The thresholds of the flags, after a check of all numbers that flags give."""
    for flag, value, least in (
        ("--num-prompts", parsed.num_prompts, 1),
        ("--cots", parsed.cots, 1),
        ("--images", parsed.images, 2),
        ("--bins", parsed.bins, 2),
    ):
        if value < least:
            raise UserError(f"{flag} must be {least} or more, not {value}")
    return Thresholds(parsed.statistic, parsed.stable_below, parsed.unstable_from, parsed.bins)


def _named(text: str) -> tuple[str, str]:
    """Name and model of ``NAME=MODEL``."""
    name, equals, model = text.partition("=")
    if not (_NAME.fullmatch(name) and equals and model):
        raise UserError(
            f"{text!r} is not NAME=MODEL, with a name of letters, digits, dot, plus, minus and"
            " underscore, and a checkpoint folder or Hub id"
        )
    return name, model


def _results(
    folder: SettingFolder, place: int, config: RunConfig
) -> dict[str, tuple[RewardResult, ...]]:
    """What each reward says of each image."""
    return {reward.name: folder.results(place, reward) or () for reward in config.rewards}


def _value(result: RewardResult) -> float | None:
    return result.value if isinstance(result, Score) else None


def _counts(folder: SettingFolder, group: Group, entropies: Entropies) -> list[TokenCounts]:
    """The tokens of a group. A CoT has several images and is counted once."""
    vocabulary, drawn = folder.vocabulary, group.trajectories
    cots = [vocabulary.of_cot(t) for t in drawn[:: folder.drawn_as.images_per_cot]]
    images = [vocabulary.of_image(t, entropies) for t in drawn]
    return [
        token_counts(folder.name, group.prompt.id, "CoT", cots),
        token_counts(folder.name, group.prompt.id, "image", images),
    ]


def _tiles(
    setting: str, group: Group, totals: Sequence[float | None], images_per_cot: int
) -> list[Tile]:
    """Twenty samples of a prompt: the first image of each CoT, then the second, and so on."""
    order = sorted(range(len(totals)), key=lambda place: (place % images_per_cot, place))
    tiles = []
    for place in order[:_SHEET_SAMPLES]:
        trajectory, total = group.trajectories[place], totals[place]
        reward = "failed" if total is None else f"{total:.2f}"
        captions = (f"{setting}  {reward}  {group.prompt.text}", trajectory.cot_text)
        tiles.append(Tile(trajectory.image, captions))
    return tiles


def _save_sheet(of_settings: Sequence[Sequence[Tile]], folder: Path, place: int) -> None:
    """All settings have as many tiles, so that each begins a row."""
    columns = min(_SHEET_COLUMNS, len(of_settings[0]))
    sheet = contact_sheet([tile for tiles in of_settings for tile in tiles], columns)
    save_png(sheet, folder / f"prompt-{place:03d}.png")
