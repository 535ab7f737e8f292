"""docs/troubleshooting.md quotes messages that exist, and has a row for each error."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from house import ROOMS

from orchestrator.record.metrics import find

ROOT = Path(__file__).parents[2]
GAP = "\N{HORIZONTAL ELLIPSIS}"  # stands for a part of a message that differs
# Classes whose first argument is the line that a user reads. Others take their text from these.
ERRORS = {
    "UserError", "RunFailed", "FolderInUse", "NotWritten", "UpdatesSkipped", "Superseded",
    "LedgerLost", "CommitRefused", "LearnerLost", "WorkerFailed",
}  # fmt: skip
LETTERS = 11  # with fewer of its own, a message only names where another error came from


def text_of(node: ast.expr) -> str:
    """The text of an expression, with a gap for each part that is computed."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(map(text_of, node.values))
    if isinstance(node, ast.BinOp):
        return text_of(node.left) + text_of(node.right)
    return GAP


def letters(text: str) -> int:
    return len(re.findall(r"[a-z]", text))


@cache
def texts() -> frozenset[tuple[bool, str]]:
    """Every text of the source, and whether it is the line of an error."""
    return frozenset(_texts())


def _texts() -> Iterator[tuple[bool, str]]:
    for file in (file for room in ROOMS for file in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant | ast.JoinedStr | ast.BinOp):
                yield False, text_of(node).replace("\n", " ")
            elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ERRORS:
                yield from ((True, text_of(line)) for line in node.args[:1])


def quoted(page: str, column: str) -> list[str]:
    """What stands in backticks in the first column of the tables whose first column is so named."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    tables = re.findall(rf"^\| {column} \|.*\n\|[-|]+\n((?:\|.*\n)+)", text, re.MULTILINE)
    cells = [row.split(" | ")[0] for table in tables for row in table.splitlines()]
    return [words for cell in cells for words in re.findall(r"`([^`]+)`", cell)]


def pattern(words: str) -> re.Pattern[str]:
    """Finds the message. Three dots match anything inside one text."""
    return re.compile(".*".join(re.escape(part) for part in words.split("...") if part))


MESSAGES = [*quoted("troubleshooting.md", "message"), *quoted("signs.md", "alarm")]


def test_what_is_quoted_is_said() -> None:
    """The parts of a quoted message, in their order, are in one text of the source."""
    said = "\n".join(text for _, text in texts())
    assert [words for words in MESSAGES if not pattern(words).search(said)] == []


def test_every_error_has_a_row() -> None:
    """Whoever adds an error adds what it means and what to do, or widens a row that fits."""
    rows = [pattern(words) for words in MESSAGES if letters(words) >= LETTERS]
    raised = {text for is_error, text in texts() if is_error and letters(text) >= LETTERS}
    missing = [text for text in raised if not any(row.search(text) for row in rows)]
    assert not missing, "no row in docs/troubleshooting.md for\n" + "\n".join(missing)


def test_signs_are_metrics() -> None:
    """docs/signs.md names keys of the table of metrics."""
    keys = quoted("signs.md", "key")
    assert len(keys) > 30
    assert [key for key in keys if find(re.sub(r"[{}]", "", key)) is None] == []
