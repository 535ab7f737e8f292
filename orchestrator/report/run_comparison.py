"""The rewards of several runs on the same fixed prompts, against those of the first run."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.summary import paired_difference
from orchestrator.report.run_files import RunFiles
from policy.types import JsonDict


def run_table(runs: Sequence[RunFiles]) -> list[JsonDict]:
    """For each fixed set the runs that have it, at the last step at which all of them evaluated it.

    ``difference`` is a run's reward minus that of the first of these runs, paired by prompt. It is
    None for the first one, and for a run that evaluated otherwise: then ``unlike`` says what
    differs.
    """
    tables = []
    for name in dict.fromkeys(name for run in runs for name in run.sets):
        having = [run for run in runs if name in run.sets]
        by_step = [{row["step"]: row for row in run.sets[name]} for run in having]
        common = sorted(set.intersection(*map(set, by_step)))
        if len(having) < 2 or not common:
            continue
        rows = [found[common[-1]] for found in by_step]
        tables.append(
            {
                "set": name,
                "step": common[-1],
                "rows": [
                    {
                        "run": run.label,
                        "mean": row["reward/mean"],
                        "error": row["reward/standard_error"],
                        "samples": row["num_samples"],
                        **_against(having[0], rows[0], run, row),
                    }
                    for run, row in zip(having, rows, strict=True)
                ],
            }
        )
    return tables


def _against(first: RunFiles, before: JsonDict, run: RunFiles, row: JsonDict) -> JsonDict:
    unlike = _unlike(first, before, run, row)
    if run is first or unlike:
        return {
            "difference": None,
            "difference_error": None,
            "unlike": "" if run is first else unlike,
        }
    # A run may evaluate more prompts than another: both take them from the head of one file.
    shared = min(len(before["prompt_means"]), len(row["prompt_means"]))
    change, count = paired_difference(before["prompt_means"][:shared], row["prompt_means"][:shared])
    known = change.standard_error if count > 1 else None
    return {
        "difference": change.mean if count else None,
        "difference_error": known,
        "unlike": "",
    }


def _unlike(first: RunFiles, before: JsonDict, run: RunFiles, row: JsonDict) -> str:
    """Why the rewards of two runs on one set cannot be paired by prompt; "" if they can.

    The prompts may be others if the SHA-256 of the set's file differs, or if it is not known.
    """
    key = f"data.evaluation.{row['set']}"
    if first.digests.get(key) is None or first.digests.get(key) != run.digests.get(key):
        return "other prompts"
    scale, scale_before = row["guidance_scale"], before["guidance_scale"]
    if scale != scale_before:
        return f"guidance {scale:g}, not {scale_before:g}"
    samples, samples_before = (
        one["num_samples"] // len(one["prompt_means"]) for one in (row, before)
    )
    if samples != samples_before:
        return f"{samples} samples of a prompt, not {samples_before}"
    return ""
