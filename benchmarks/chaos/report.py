"""The table of faults, and the line that says whether all held."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from statistics import median

from benchmarks.chaos.checks import Verdict
from benchmarks.chaos.trial import Strike


def table(strikes: Sequence[Strike]) -> str:
    """Faults by kind in Markdown: how many, in which states, seconds to notice and to recover."""
    lines = [
        "| fault | number | states | noticed after, s: median (longest) |"
        " recovered after, s: median (longest) | time lost at one fault a minute |",
        "|---|---|---|---|---|---|",
    ]
    for kind in sorted({(strike.fault.role, strike.fault.how) for strike in strikes}):
        of_kind = [s for s in strikes if (s.fault.role, s.fault.how) == kind]
        states = Counter(strike.state for strike in of_kind)
        recovered = [s.recovered_s for s in of_kind if s.recovered_s is not None]
        share = f"{median(recovered) / (60 + median(recovered)):.0%}" if recovered else "-"
        lines.append(
            f"| {kind[1]} {kind[0]} | {len(of_kind)}"
            f" | {', '.join(f'{state} {count}' for state, count in sorted(states.items()))}"
            f" | {_times([s.noticed_s for s in of_kind])}"
            f" | {_times([s.recovered_s for s in of_kind])} | {share} |"
        )
    return "\n".join(lines) + "\n"


def last_line(
    strikes: Sequence[Strike],
    verdict: Verdict,
    late_refused: int,
    weights_equal: bool | None,
    seconds_lost: float,
) -> str:
    """One JSON object; ``weights_equal`` is null where the weights need not be equal."""
    return json.dumps(
        {
            "faults": len(strikes),
            "lost": verdict.lost,
            "duplicated": verdict.duplicated,
            "unexpected": verdict.unexpected,
            "late_commits_refused": late_refused,
            "weights_equal": weights_equal,
            "seconds_lost": round(seconds_lost, 1),
        }
    )


def _times(seconds: Sequence[float | None]) -> str:
    """A fault may stay unnoticed: the learner's group may fall for another reason first."""
    known = [value for value in seconds if value is not None]
    unknown = f", {len(seconds) - len(known)} unknown" if len(known) < len(seconds) else ""
    return f"{median(known):.1f} ({max(known):.1f}){unknown}" if known else "unknown"
