"""Takes the questions of a WISE judge out of the authors' program, without running it.

WISE states no licence, so its texts are not part of this project. ``eg-grpo data fetch`` downloads
the program, and its digest pins the wording. The program builds the messages in the function
``build_evaluation_messages``: a system text and a user text, into which it puts the prompt and the
explanation.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from pathlib import Path

from policy.errors import UserError
from policy.text_files import read_text

_FUNCTION = "build_evaluation_messages"
_FIELDS = ("Prompt", "Explanation")


@dataclass(frozen=True)
class Questions:
    """The two texts of a request."""

    system: str
    # Pieces of the user text: (text, None), or ("", the field of the prompt that stands there).
    pieces: tuple[tuple[str, str | None], ...]

    def user(self, prompt: str, explanation: str) -> str:
        """The user text for one image."""
        values = dict(zip(_FIELDS, (prompt, explanation), strict=True))
        return "".join(text if name is None else values[name] for text, name in self.pieces)


def read_questions(file: Path) -> Questions:
    """The questions in a program of WISE. Raises ``UserError`` for a file that has none."""
    text = read_text(file, f"{file} (eg-grpo data fetch downloads it)")
    try:
        tree = ast.parse(text)
    except SyntaxError as error:
        raise UserError(f"{file}: not a Python program: {error}") from None
    texts = [
        value
        for function in tree.body
        if isinstance(function, ast.FunctionDef) and function.name == _FUNCTION
        for node in ast.walk(function)
        if isinstance(node, ast.Dict)
        for key, value in zip(node.keys, node.values, strict=True)
        if isinstance(key, ast.Constant) and key.value == "text"
    ]
    if len(texts) != 2:
        raise UserError(f"{file}: {_FUNCTION} has {len(texts)} texts, not a system and a user text")
    system, user = (_pieces(node, file) for node in texts)
    if any(name is not None for _, name in system):
        raise UserError(f"{file}: the system text holds a field of the prompt")
    if {name for _, name in user} != {None, *_FIELDS}:
        raise UserError(f"{file}: the user text lacks the prompt or the explanation")
    return Questions("".join(text for text, _ in system), tuple(user))


def _pieces(node: ast.expr, file: Path) -> list[tuple[str, str | None]]:
    pieces: list[tuple[str, str | None]] = []
    for part in node.values if isinstance(node, ast.JoinedStr) else [node]:
        field = part.value if isinstance(part, ast.FormattedValue) else None
        name = field.slice if isinstance(field, ast.Subscript) else None
        if isinstance(part, ast.Constant) and isinstance(part.value, str):
            pieces.append((part.value, None))
        elif isinstance(name, ast.Constant) and name.value in _FIELDS:
            pieces.append(("", str(name.value)))
        else:
            raise UserError(f"{file}:{part.lineno}: unexpected text of a question")
    return pieces
