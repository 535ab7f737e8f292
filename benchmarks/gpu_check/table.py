"""Prints results as a Markdown table with a column for each machine.

    python -m benchmarks.gpu_check.table ONE/results.json [ANOTHER/results.json ...]

A row shows every figure that any of the machines has.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.gpu_check.parts import PARTS
from benchmarks.gpu_check.results import DONE, PartResult, read

Column = dict[str, PartResult]


def markdown(columns: Sequence[Column]) -> str:
    """What was measured where, then a table a part."""
    lines = [f"{number}. {_where(column)}" for number, column in enumerate(columns, start=1)]
    heads = [str(number) for number in range(1, len(columns) + 1)]
    for part in PARTS:
        ran = [column.get(part.name) for column in columns]
        if not any(ran):
            continue
        lines += ["", f"**{part.title}** (`{part.name}`)", ""]
        lines += [_row("machine", heads), "|---" * (len(heads) + 1) + "|"]
        if any(one and one.status != DONE for one in ran):
            lines.append(_row("ended early", [one.status if one else "" for one in ran]))
        names = dict.fromkeys(m.what for one in ran if one for m in one.measures)
        lines += [_row(name, [_shown(one, name) for one in ran]) for name in names]
    return "\n".join(lines) + "\n"


def _where(column: Column) -> str:
    stamps = dict.fromkeys(", ".join(part.stamp.values()) for part in column.values())
    dates = sorted({part.date[:10] for part in column.values()})
    return f"{'; '.join(stamps)}; {' and '.join(dates)}"


def _shown(result: PartResult | None, name: str) -> str:
    found = [m for m in result.measures if m.what == name] if result else []
    return ", ".join(m.shown() + (f" ({m.shape})" if m.shape else "") for m in found)


def _row(name: str, cells: Sequence[str]) -> str:
    return f"| {' | '.join([name, *(cell.replace('|', '/') for cell in cells)])} |"


if __name__ == "__main__":
    print(markdown([read(Path(file)) for file in sys.argv[1:]]), end="")
