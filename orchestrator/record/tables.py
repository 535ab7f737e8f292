"""Tables as CSV files: one row for each mapping, one column for each of its keys."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from policy.disk import write_whole


def write_table(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the rows, which have the same keys; None and NaN become empty cells.

    Numbers have all their digits. Raises ``NotWritten``.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    if rows:
        writer.writerow(rows[0])
    writer.writerows([_cell(value) for value in row.values()] for row in rows)
    write_whole(file, text.getvalue())


def _cell(value: Any) -> Any:
    return "" if value is None or (isinstance(value, float) and math.isnan(value)) else value
