"""The page of one run or of several, and report.html: one file that loads nothing else.

The numbers are in the page as JSON, and its own script draws them. So the page that
``eg-grpo serve`` keeps up to date is the same.

Failure policy: a missing row or picture leaves a gap. Only a folder without a run is an error.
Prompts, CoTs and names could hold HTML. The JSON has no "<", and the script writes only text.

A page of any number of runs is at most 10 MB. Its charts and its lists have a bound each. Its
samples take what is left, at most 8 MB (see ``gallery``).
"""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from orchestrator.record.progress import duration
from orchestrator.report.charts import charts
from orchestrator.report.comparison import (
    Comparison,
    change_table,
    compare,
    evaluated_sets,
    headline,
)
from orchestrator.report.embedding import embedded
from orchestrator.report.gallery import MAX_BYTES, gallery
from orchestrator.report.run_comparison import run_table
from orchestrator.report.run_files import RunFiles, read_rows, read_runs
from policy.disk import write_whole
from policy.secrets import masked_tree
from policy.types import JsonDict
from policy.yaml_text import dump

MAX_PAGE_BYTES = 10_000_000
_MAX_ALARMS = 12  # of each run
_MAX_DROPPED = 200  # groups and updates of all runs of a page
_MAX_TEXT = 400  # characters of a prompt or reason in the list of what was dropped
_MAX_SETTINGS = 200_000  # characters of all runs of a page
_SCRIPTS = ("charts.js", "tokens.js", "gallery.js", "zoom.js", "page.js")


def write_report(run_folder: Path) -> Path:
    """Write ``report.html`` of a run folder, finished or not; returns its path.

    Raises ``UserError`` if the folder holds neither metrics nor evaluations.
    """
    return write_page([run_folder], run_folder / "report.html")


def write_page(folders: Sequence[Path], file: Path) -> Path:
    """Write the page of some run folders to ``file``; returns it. See ``write_report``."""
    write_whole(file, html(page_data(read_runs(folders))))
    return file


def headlines(run_folder: Path) -> list[str]:
    """One line for each fixed set; the command ``train`` ends by printing them."""
    sets = evaluated_sets(read_rows(run_folder / "evaluations.jsonl"))
    return [headline(compare(label, rows)) for label, rows in sets.items()]


def page_data(runs: Sequence[RunFiles]) -> JsonDict:
    """Everything that the page of these runs shows, as JSON."""
    names = [run.config.get("name", run.label) if len(runs) == 1 else run.label for run in runs]
    data: JsonDict = {
        "title": ", ".join(names),
        "runs": [
            _run(run, name, len(runs)) | {"samples": []}
            for run, name in zip(runs, names, strict=True)
        ],
        "charts": charts(runs),
        "comparison": run_table(runs) if len(runs) > 1 else [],
        "thinned": "",
    }
    left = MAX_PAGE_BYTES - len(html(data).encode()) - _MAX_TEXT  # of which ``thinned`` takes some
    samples, data["thinned"] = gallery([run.folder for run in runs], min(MAX_BYTES, left))
    for run, found in zip(data["runs"], samples, strict=True):
        run["samples"] = found
    return data


def html(data: JsonDict, live: bool = False) -> str:
    """The page. With ``live`` it asks the server that it came from for newer data."""
    templates = resources.files("orchestrator.report") / "templates"
    script = "\n".join((templates / name).read_text(encoding="utf-8") for name in _SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    source = "'self'" if live else "'none'"
    policy = (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'"
        f"; form-action 'none'; script-src 'sha256-{digest}'; connect-src {source}"
    )
    parts = {
        "POLICY": policy,
        "TITLE": _escaped(data["title"]),
        "STYLE": (templates / "page.css").read_text(encoding="utf-8"),
        "LIVE": "true" if live else "false",
        "SCRIPT": script,
        "DATA": embedded(data),  # last, because a prompt could hold the name of another part
    }
    page = (templates / "page.html").read_text(encoding="utf-8")
    for name, text in parts.items():
        page = page.replace(f"[[{name}]]", text)
    return page


def _run(run: RunFiles, name: str, sharing: int) -> JsonDict:
    """What the page shows of one run but for its samples; ``sharing`` runs are on the page."""
    last_step = max((row["step"] for row in run.metrics), default=0)
    seconds = math.fsum(row.get("seconds/step") or 0 for row in run.metrics)
    alarms = _alarms(run.metrics)
    dropped = _dropped(run)
    first = max(0, len(dropped) - _MAX_DROPPED // sharing)
    return {
        "name": name,
        "step": last_step,
        "planned": run.config.get("steps"),
        "duration": duration(seconds) if run.metrics else "",
        "sets": list(run.sets),
        "cards": [_card(compare(label, rows)) for label, rows in run.sets.items()],
        "alarms": alarms[:_MAX_ALARMS],
        "more_alarms": max(0, len(alarms) - _MAX_ALARMS),
        "table": [
            {
                "section": row.section,
                "name": row.name,
                "changes": [
                    [_finite(change.before), _finite(change.after), _finite(change.difference)]
                    for change in row.changes
                ],
            }
            for row in change_table(run.sets)
        ],
        "dropped": dropped[first:],
        "more_dropped": first,
        "settings": dump(masked_tree(run.config))[: _MAX_SETTINGS // sharing] if run.config else "",
    }


def _card(comparison: Comparison) -> JsonDict:
    """The headline of a fixed set; see ``Comparison``."""
    c = comparison
    difference = c.difference
    return {
        "label": c.label,
        "before_step": c.before_step,
        "after_step": c.after_step,
        "before": _finite(c.before),
        "after": _finite(c.after),
        "difference": None if difference is None else _finite(difference.mean),
        "error": None if difference is None else _finite(difference.standard_error),
        "errors": _finite(c.standard_errors),
        "prompts": c.num_prompts,
        "samples": c.num_samples,
        "failed": c.num_failed,
        "once": difference is None,
    }


def _alarms(metrics: Sequence[JsonDict]) -> list[JsonDict]:
    """Each alarm once, with its count and its first and last step. The most frequent is first."""
    steps: dict[str, list[int]] = {}
    for row in metrics:
        for alarm in row.get("alarms") or ():
            steps.setdefault(alarm, []).append(row["step"])
    found = [
        {"text": text, "count": len(at), "first": at[0], "last": at[-1]}
        for text, at in steps.items()
    ]
    return sorted(found, key=lambda alarm: -alarm["count"])


def _dropped(run: RunFiles) -> list[JsonDict]:
    """Groups that were dropped and updates that were skipped, each with its reason, by step."""
    groups = [
        {
            "step": row["step"],
            "what": "group",
            "prompt": row["prompt"][:_MAX_TEXT],
            "reason": "; ".join(f"{n} × {text}" for text, n in row["reasons"].items())[:_MAX_TEXT],
        }
        for row in run.dropped
    ]
    updates = [
        {
            "step": row["step"],
            "what": "update",
            "prompt": f"{len(row['groups'])} groups",
            "reason": row["reason"][:_MAX_TEXT],
        }
        for row in run.skipped
    ]
    return sorted(groups + updates, key=lambda row: row["step"])


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
