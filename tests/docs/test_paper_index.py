"""docs/paper_index.md leads from each equation of the paper to its function and its test."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "paper_index.md").read_text(encoding="utf-8")
LINK = r"\[`([\w.]+)`\]\(\.\./([\w./]+)\)"
ROWS = re.findall(rf"^\| ([^|]+) \| [^|]+ \| {LINK} \| {LINK} \|$", PAGE, re.MULTILINE)
FUNCTIONS = re.findall(rf"{LINK} \|$", PAGE.split("## What is not in the paper")[1], re.MULTILINE)


def documentation(name: str, file: str) -> str:
    """The docstring of a function or method, which must lie in that file."""
    module, found = file.removesuffix(".py").replace("/", "."), None
    assert name.startswith(f"{module}.")
    found = importlib.import_module(module)
    for part in name.removeprefix(f"{module}.").split("."):
        found = getattr(found, part)
    return inspect.getdoc(found) or ""


def test_the_table_is_whole() -> None:
    """Every row of the first table is read below, and all numbered formulas are in one of them."""
    lines = PAGE.split("|---|---|---|---|\n")[1].split("\n\n")[0].splitlines()
    assert len(ROWS) == len(lines)
    cited = {int(number) for row in ROWS for number in re.findall(r"eq\. (\d+)", row[0])}
    assert cited == {1, 2, 4, 5, 6, 7, 8, 9, 10, 15}


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row[0]} {row[1]}")
def test_function_cites_the_equation_and_the_test_exists(row: tuple[str, ...]) -> None:
    """The docstring has the words of the first column, such as "eq. 8", and the test is there."""
    paper, function, file, test, test_file = row
    said = documentation(function, file)
    for place in paper.split(", "):
        assert re.search(rf"{re.escape(place)}\b", said), f"{function} does not cite {place}"
    assert re.search(rf"^def {test}\(", (ROOT / test_file).read_text(encoding="utf-8"), re.M)


@pytest.mark.parametrize(("function", "file"), FUNCTIONS)
def test_functions_of_other_sources_exist(function: str, file: str) -> None:
    """The second table names functions that exist."""
    assert documentation(function, file)
