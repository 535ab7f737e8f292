"""``eg-grpo configs``: lists the configurations that ship with the package, and copies them."""

from __future__ import annotations

import argparse
from pathlib import Path

from orchestrator.settings.shipped import copied_text, first_line, shipped_names
from policy.errors import UserError


def run(parsed: argparse.Namespace) -> None:
    """Print one line for each configuration, or copy one.

    Raises ``UserError`` when no configuration has the name, or the file exists.
    """
    if parsed.action == "copy":
        _copy(parsed.name, parsed.file)
        return
    names = shipped_names()
    width = max(map(len, names))
    for name in names:
        print(f"{name:<{width}}  {first_line(name)}")


def _copy(name: str, file: Path | None) -> None:
    text = copied_text(name)
    file = file or Path(f"{Path(name).name}.yaml")
    try:
        with file.open("x", encoding="utf-8") as out:
            out.write(text)
    except OSError as error:
        raise UserError(f"{file} cannot be written: {error.strerror}") from None
    print(file)
