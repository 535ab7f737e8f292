"""Files that people wrote: text read alike everywhere, JSON that says one thing only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.checkpoint.generation_defaults import GenerationDefaults, load_defaults
from policy.errors import UserError
from policy.sampling import Sampling
from policy.text_files import parse_json, read_json, read_text, unwritable

PLACE = Path("rows.jsonl")


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"\xef\xbb\xbfred\nblue\n", "red\nblue\n"),
        (b"red\n\xef\xbb\xbfblue\n", "red\nblue\n"),  # two files, one behind the other
        (b"red\r\nblue\rgreen", "red\nblue\ngreen"),
        ("a\u2028b\x85c\x0bd".encode(), "a\u2028b\x85c\x0bd"),  # no line ends, though Python's are
        (b"", ""),
    ],
)
def test_text_is_read_alike_however_an_editor_wrote_it(
    tmp_path: Path, content: bytes, text: str
) -> None:
    """Neither a byte-order mark nor the kind of line end is part of what the file says."""
    (tmp_path / "file.txt").write_bytes(content)
    assert read_text(tmp_path / "file.txt") == text


@pytest.mark.parametrize(
    ("content", "line", "byte"),
    [(b"\xff\xfea\0", 1, "ff"), (b"a\r\nb\rc\nd\xe4\n", 4, "e4"), ("a\nä".encode()[:-1], 2, "c3")],
)
def test_a_byte_that_is_no_utf8_is_named_by_its_line(
    tmp_path: Path, content: bytes, line: int, byte: str
) -> None:
    """UTF-16 as PowerShell writes it, latin-1, a letter cut in two."""
    file = tmp_path / "file.txt"
    file.write_bytes(content)
    with pytest.raises(UserError) as caught:
        read_text(file)
    assert str(caught.value) == f"{file}:{line}: byte 0x{byte} is not UTF-8"


@pytest.mark.parametrize("name", ["none", ".", "a\0b", "a\udcff", "n" * 300])
def test_a_file_that_cannot_be_read_is_one_line(tmp_path: Path, name: str) -> None:
    """Not there, a folder, and names that no file can have."""
    with pytest.raises(UserError) as caught:
        read_text(tmp_path / name)
    assert "\n" not in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ('{"a": 1, "a": 1}', 7, "key 'a' is there twice"),
        ('[{"b": 0}, {"b": [{"c": 1,\n"d": {}, "\\u0063": 2}]}]', 8, "key 'c' is there twice"),
        ('{"a": "\\"b\\": {", "b": 1,\n\n "b": 2}', 9, "key 'b' is there twice"),
        ("NaN", 7, "not JSON: NaN is not a number of JSON"),
        ('{"a": [-Infinity]}', 7, "not JSON: -Infinity is not a number of JSON"),
        ("[1e999]", 7, "not JSON: 1e999 is not a number of JSON"),
        ('{"a":\n1,}', 8, "not JSON: Illegal trailing comma before end of object"),
        ('{"a": {"b": ["", "\\ud83d"]}}', 7, "a.b[1] holds half a surrogate pair"),
        ('["\\udc00\\ud800"]', 7, "[0] holds half a surrogate pair"),
        ('"\\ud83d"', 7, "the text holds half a surrogate pair"),
        ('{"a": {"\\ud83d": 1}}', 7, r"key 'a.\ud83d' holds half a surrogate pair"),
    ],
)
def test_json_that_python_would_let_pass_is_one_line(text: str, line: int, reason: str) -> None:
    """Said with the file and the line, and readable: no line of it holds what it refuses."""
    with pytest.raises(UserError) as caught:
        parse_json(text, PLACE, line=7)
    message = str(caught.value)
    if "comma" in reason:  # Python before 3.13 words it otherwise
        assert message.startswith(f"rows.jsonl:{line}: not JSON: ")
    else:
        assert message == f"rows.jsonl:{line}: {reason}"


@pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5000])
def test_json_beyond_what_python_reads_is_no_traceback(text: str) -> None:
    """Depth and digits have limits, above which it is one line."""
    with pytest.raises(UserError, match=r"^rows\.jsonl:1: not JSON: "):
        parse_json(text, PLACE)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    # characters that the search for keys must not trip over, more often than others
    | st.text() | st.text(alphabet='"\\{}[]:,\n'),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(alphabet='a"\\{}:') | st.text(), inner),
    max_leaves=20,
)  # fmt: skip


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_sound_json_is_what_it_was(value: Any, escaped: bool, indent: int | None) -> None:
    """Whatever can be written is read as it was: strictness refuses nothing that is sound."""
    text = json.dumps(value, ensure_ascii=escaped, indent=indent)
    assert parse_json(text, PLACE) == value


def test_a_pair_of_surrogates_is_one_character(tmp_path: Path) -> None:
    """As JSON writes what lies beyond 16 bits; behind a byte-order mark, too."""
    (tmp_path / "file.json").write_bytes(b'\xef\xbb\xbf{"a": "\\ud83d\\ude00"}')
    assert read_json(tmp_path / "file.json") == {"a": "😀"}


@pytest.mark.parametrize(
    ("value", "place"),
    [({"a": [{"b": "x\udcff"}]}, "a[0].b"), (("ä", {1: "\ud800"}), "[1].1"), ({"a": 1.5}, None)],
)
def test_text_that_cannot_be_written_is_found_at_any_depth(value: Any, place: str | None) -> None:
    """In mappings, lists and tuples, which settings are made of."""
    assert unwritable(value) == place


def test_a_checkpoint_says_how_it_is_sampled_once(tmp_path: Path) -> None:
    """``eg_grpo.json``: a byte-order mark is none of it, and no value is there twice. What it
    leaves out is as in the paper's runs."""
    file = tmp_path / "eg_grpo.json"
    file.write_bytes(b'\xef\xbb\xbf{"guidance_scale": 3,\n"temperature": 0.5}')
    expected = GenerationDefaults.of("janus-plain", None, Sampling(3.0, 0.5, 1024))
    assert load_defaults(tmp_path) == expected
    file.write_text('{"guidance_scale": 3,\n"guidance_scale": 0.5}')
    with pytest.raises(UserError, match=r"eg_grpo\.json:2: key 'guidance_scale' is there twice"):
        load_defaults(tmp_path)
