"""Settings in YAML: nothing is dropped, and nothing is read otherwise than it looks."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orchestrator.cli import main
from orchestrator.settings.run_config import load_config
from policy.errors import UserError
from policy.yaml_text import dump, parse

SHAPES = Path(__file__).parents[2] / "configs" / "shapes.yaml"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: 1\nb: 2\na: 3\n", "f.yaml:3: key a is there twice, first in line 1"),
        ("x:\n  y: {z: 1,\n      z: 2}\n", "f.yaml:3: key z is there twice, first in line 2"),
        ("l:\n- {a: 1}\n- {a: 1, a: 1}\n", "f.yaml:3: key a is there twice, first in line 3"),
        ("b: {<<: {a: 1, a: 2}}\n", "f.yaml:1: key a is there twice, first in line 1"),
        ("b: {<<: {a: 1}, <<: {c: 2}}\n", "f.yaml:1: key << is there twice, first in line 1"),
        ("'a': 1\na: 2\n", "f.yaml:2: key a is there twice, first in line 1"),
        ("1: a\n", "f.yaml:1: key '1' is read as int, not as text: quote it"),
        ("on: a\n", "f.yaml:1: key 'on' is read as bool, not as text: quote it"),
        ("? [a]\n: b\n", "f.yaml:1: a key must be text, not a list or a mapping"),
        ("a: 010\n", "f.yaml:1: a number of base 8 or 60 to some programs"),
        ("a:\n  - 1:30\n", "f.yaml:2: a number of base 8 or 60 to some programs"),
        ("a: &x {b: *x}\n", "f.yaml:1: not YAML: found unconstructable recursive node"),
        ("a: [1,\nb", "f.yaml:2: not YAML: expected ',' or ']'"),
        ("a: 1\n---\nb: 2\n", "f.yaml:2: not YAML: but found another document"),
        ("a: *x\n", "f.yaml:1: not YAML: found undefined alias 'x'"),
        ("a: !!python/object:os.system x\n", "f.yaml:1: not YAML: could not determine a constr"),
        ("a: !!timestamp x\n", "f.yaml: not YAML: a value that cannot be read"),
        ("a: !!bool maybe\n", "f.yaml: not YAML: a value that cannot be read"),
        ("a: " + "9" * 5000, "f.yaml: not YAML: a value that cannot be read"),
        ("a: " + "[" * 5000, "f.yaml: not YAML: nested too deeply"),
    ],
)
def test_what_is_not_clear_is_one_line_with_file_and_line(text: str, expected: str) -> None:
    """A key twice at any depth, a key that is no text, a number of two meanings, no YAML."""
    with pytest.raises(UserError) as caught:
        parse(text, "f.yaml")
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)


def test_anchors_and_merged_keys_still_work() -> None:
    """A key that is merged in may be there too, and that one stands; what two aliases name is two
    things afterwards."""
    tree = parse("a: &x {p: 1, q: 2}\nb: {<<: *x, q: 3}\nc: *x\nd: {<<: [*x, {r: 4}]}\n", "f")
    assert tree == {
        "a": {"p": 1, "q": 2},
        "b": {"p": 1, "q": 3},
        "c": {"p": 1, "q": 2},
        "d": {"p": 1, "q": 2, "r": 4},
    }
    tree["c"]["p"] = 9
    assert tree["a"]["p"] == 1


@pytest.mark.parametrize("written", ["1e-3", "1E-3", "0.1e-2", ".1e-2", "+1e-3", "0.001", "1.e-3"])
def test_a_number_is_one_in_a_file_as_in_an_override(tmp_path: Path, written: str) -> None:
    """In options, where nothing else would make it one: 0.001, and text where it is quoted."""
    reward = "{name: a, factory: 'm:C', options: {x: %s, y: [%s], z: '%s'}}" % ((written,) * 3)
    file = tmp_path / "c.yaml"
    file.write_text(f"base: {SHAPES}\nrewards: [{reward}]\n")
    for config in (load_config(file, []), load_config(SHAPES, [f"rewards=[{reward}]"])):
        assert config.rewards[0].options == {"x": 0.001, "y": [0.001], "z": written}


def test_a_date_and_a_commit_are_text() -> None:
    assert parse("[2026-11-26, 12e4567a, 1.2.3, 5.19.0]", "f") == [
        "2026-11-26",
        "12e4567a",
        "1.2.3",
        "5.19.0",
    ]


def test_a_second_block_in_a_configuration_does_not_reset_the_first(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two `learner:` blocks, the second without the learning rate: file, line and exit code 2."""
    file = tmp_path / "twice.yaml"
    text = SHAPES.read_text() + "\nlearner:\n  ranks: 1\n"
    file.write_text(text)
    line = text.splitlines().index("learner:") + 1
    last = len(text.splitlines()) - 1
    assert main(["train", str(file), "--dry-run"]) == 2
    expected = f"eg-grpo: {file}:{last}: key learner is there twice, first in line {line}\n"
    assert capsys.readouterr().err == expected


def test_a_key_twice_in_an_override_is_refused() -> None:
    with pytest.raises(UserError, match=r"^override learner\.lora:1: key rank is there twice"):
        load_config(SHAPES, ["learner.lora={rank: 4, rank: 8}"])


_SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**63),
    st.floats(allow_nan=False),
    st.text(),
    st.from_regex(r"[-+0-9._:eExyn~<=*]{1,8}", fullmatch=True),
)
_TREES = st.recursive(
    _SCALARS,
    lambda inner: st.one_of(st.lists(inner), st.dictionaries(st.text(), inner)),
    max_leaves=12,
)


@given(_TREES)
def test_what_is_dumped_is_read_back(tree: object) -> None:
    """Text that looks like a number is quoted, whichever rules it looks like one by."""
    assert parse(dump({"tree": tree}), "f") == {"tree": tree}
