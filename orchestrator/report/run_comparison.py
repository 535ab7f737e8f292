"""The rewards of several runs on the same fixed prompts, against those of the first run."""

from __future__ import annotations

from collections.abc import Sequence

from evaluation.summary import paired_difference
from orchestrator.report.run_files import RunFiles
from policy.types import JsonDict


def run_table(runs: Sequence[RunFiles]) -> list[JsonDict]:
    """For each fixed set the runs at the last step at which all of them evaluated it.

    ``difference`` is a run's reward minus that of the first run, paired by prompt. It is None for
    the first run, and for a run whose prompts may be others: then the files of the set differ, or
    it is not known whether they do.
    """
    tables = []
    for name in runs[0].sets:
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
    key = f"data.evaluation.{row['set']}"
    same = first.digests.get(key) is not None and first.digests.get(key) == run.digests.get(key)
    if run is first or not same:
        return {"difference": None, "difference_error": None, "paired": run is first or same}
    # A run may evaluate more prompts than another: both take them from the head of one file.
    shared = min(len(before["prompt_means"]), len(row["prompt_means"]))
    change, count = paired_difference(before["prompt_means"][:shared], row["prompt_means"][:shared])
    known = change.standard_error if count > 1 else None
    return {
        "difference": change.mean if count else None,
        "difference_error": known,
        "paired": True,
    }
