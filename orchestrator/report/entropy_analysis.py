"""Writes the entropy analyses of a dataset: figures 2 to 5 with their data, and all findings."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from evaluation.entropy_cots import Thresholds, cot_findings, instability_findings
from evaluation.entropy_samples import (
    CotTable,
    Entropies,
    ImageTable,
    SampledImage,
    cot_table,
    image_tables,
)
from evaluation.entropy_spread import spread_findings, stability_findings, token_findings
from evaluation.entropy_tokens import BINS, TokenCounts, TokenTable, token_tables
from evaluation.findings import Finding
from orchestrator.record.tables import write_table
from orchestrator.report.cot_figures import cot_entropy_figure, instability_figure
from orchestrator.report.figure_files import save
from orchestrator.report.spread_figures import image_spread_figure, token_figure
from policy.errors import RunFailed


def write_analysis(
    rows: Sequence[SampledImage],
    counts: Sequence[TokenCounts],
    entropies: Entropies,
    thresholds: Thresholds,
    output: Path,
) -> list[Finding]:
    """Write the analyses into ``output``; returns their findings.

    ``samples.csv`` has all images, ``findings.csv`` all numbers, and ``figure-N.csv`` what
    ``figure-N.png`` and ``figure-N.svg`` show. Figures 3 and 4 are left out where no setting has a
    CoT. Raises ``RunFailed`` when too few images were scored.
    """
    images = image_tables(rows, entropies)
    cots = [cot_table(table) for table in images if table.with_cot]
    for table in images:
        if not len(table.reward_S):
            raise RunFailed(f"no image of {table.setting} could be scored")
    for of_cots in cots:
        if len(of_cots.prompt_K) < thresholds.bins:
            raise RunFailed(
                f"{of_cots.setting}: {len(of_cots.prompt_K)} CoTs have two scored images or more;"
                f" {thresholds.bins} bins need as many"
            )
    tokens = token_tables(counts)
    prompts = list(dict.fromkeys((row.prompt_id, row.prompt) for row in rows))
    ids, texts = [prompt_id for prompt_id, _ in prompts], [text for _, text in prompts]
    findings = [*spread_findings(images), *stability_findings(cots), *token_findings(tokens)]
    with_cot = {table.setting: table for table in images if table.with_cot}
    for of_cots in cots:
        findings += cot_findings(with_cot[of_cots.setting], of_cots, thresholds)
        findings += instability_findings(of_cots, thresholds)
    findings.sort(key=lambda finding: finding.figure)

    write_table(output / "samples.csv", [_sample_cells(row) for row in rows])
    write_table(output / "findings.csv", [_cells(finding) for finding in findings])
    save(image_spread_figure(images), output / "figure-2")
    write_table(output / "figure-2.csv", list(_image_rows(images, ids)))
    save(token_figure(tokens), output / "figure-5")
    write_table(output / "figure-5.csv", list(_token_rows(tokens)))
    if cots:
        save(cot_entropy_figure(images, cots, thresholds, findings, texts), output / "figure-3")
        settings = [table.setting for table in images]
        save(instability_figure(cots, settings, thresholds, findings), output / "figure-4")
        write_table(output / "figure-3.csv", list(_cot_rows(cots, thresholds, ids)))
        write_table(output / "figure-4.csv", list(_instability_rows(cots, thresholds, ids)))
    return findings


def _sample_cells(row: SampledImage) -> dict[str, Any]:
    cells = asdict(row)
    of_rewards = cells.pop("of_rewards")
    return cells | {f"reward/{name}": value for name, value in of_rewards.items()}


def _cells(finding: Finding) -> dict[str, Any]:
    cells = asdict(finding)
    interval = cells.pop("interval")
    return {**cells, **interval}


def _image_rows(tables: Sequence[ImageTable], ids: Sequence[str]) -> Iterator[dict[str, Any]]:
    for table in tables:
        for place in range(len(table.reward_S)):
            yield {
                "setting": table.setting,
                "prompt_id": ids[table.prompt_S[place]],
                "cot": table.cot_S[place],
                "image_entropy": table.image_entropy_S[place],
                "reward": table.reward_S[place],
            }


def _cot_rows(
    tables: Sequence[CotTable], thresholds: Thresholds, ids: Sequence[str]
) -> Iterator[dict[str, Any]]:
    for table in tables:
        stable_K = thresholds.stable_K(table, thresholds.spread)
        for place in range(len(table.reward_K)):
            yield {
                "setting": table.setting,
                "prompt_id": ids[table.prompt_K[place]],
                "cot": table.cot_K[place],
                "cot_entropy": table.cot_entropy_K[place],
                "reward": table.reward_K[place],
                "stable": int(stable_K[place]),
            }


def _instability_rows(
    tables: Sequence[CotTable], thresholds: Thresholds, ids: Sequence[str]
) -> Iterator[dict[str, Any]]:
    for table in tables:
        spread_K = table.spread_K(thresholds.spread)
        bin_K, _ = thresholds.bins_K(table)
        unstable_K = thresholds.unstable_K(table, thresholds.spread)
        for place in range(len(table.reward_K)):
            yield {
                "setting": table.setting,
                "prompt_id": ids[table.prompt_K[place]],
                "cot": table.cot_K[place],
                "image_entropy": table.entropy_K[place],
                thresholds.spread: spread_K[place],
                "reward": table.reward_K[place],
                "bin": bin_K[place] + 1,
                "unstable": int(unstable_K[place]),
            }


def _token_rows(tables: Sequence[TokenTable]) -> Iterator[dict[str, Any]]:
    for table in tables:
        count_B = table.count_PB.sum(axis=0)
        for place in range(int(np.flatnonzero(count_B)[-1]) + 1):
            yield {
                "setting": table.setting,
                "modality": table.modality,
                "from": place / BINS,
                "to": (place + 1) / BINS,
                "tokens": count_B[place],
            }
