"""The table of faults, and the line that says whether all held."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from statistics import mean, median

from benchmarks.chaos.checks import Verdict
from benchmarks.chaos.strikes import Strike


def table(strikes: Sequence[Strike]) -> str:
    """Faults by kind in Markdown: how many, in which states, seconds to notice and to recover.

    The last column is what one fault after each minute of work would cost: mean time to recover,
    over that time and a minute.
    """
    lines = [
        "| fault | number | states | noticed after, s: median (longest) |"
        " recovered after, s: median (longest) | time lost at one fault a minute |",
        "|---|---|---|---|---|---|",
    ]
    for role, how in sorted({(strike.fault.role, strike.fault.how) for strike in strikes}):
        of_kind = [s for s in strikes if (s.fault.role, s.fault.how) == (role, how)]
        lines.append(_line(f"{how} {role}", of_kind))
    return "\n".join([*lines, _line("all", strikes)]) + "\n"


def _line(name: str, strikes: Sequence[Strike]) -> str:
    states = Counter(strike.state for strike in strikes)
    recovered = [s.recovered_s for s in strikes if s.recovered_s is not None]
    share = f"{mean(recovered) / (60 + mean(recovered)):.0%}" if recovered else "-"
    return (
        f"| {name} | {len(strikes)}"
        f" | {', '.join(f'{state} {count}' for state, count in sorted(states.items()))}"
        f" | {_times([s.noticed_s for s in strikes])}"
        f" | {_times([s.recovered_s for s in strikes])} | {share} |"
    )


def duration(faults: int, struck_s: float, calm_s: float) -> str:
    """A sentence about the whole run with faults, and the run of as many steps without."""
    return (
        f"{faults} faults in {struck_s:.0f} s, one in {struck_s / max(1, faults):.0f} s. The same"
        f" steps without faults: {calm_s:.0f} s. Time lost: {1 - calm_s / struck_s:.0%}.\n"
    )


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
