"""The JSON of a page, as text that can stand inside a script element."""

from __future__ import annotations

import json
from typing import Any


def embedded(data: Any) -> str:
    """JSON that can stand in a script element: no text in it can end the element."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for letter in "<>&\u2028\u2029":
        text = text.replace(letter, f"\\u{ord(letter):04x}")
    return text


def embedded_size(data: Any) -> int:
    """The bytes of ``embedded(data)`` in UTF-8."""
    return len(embedded(data).encode())
