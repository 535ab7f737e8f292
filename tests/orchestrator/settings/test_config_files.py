"""A configuration file may name a `base`; what results is one plain file."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from orchestrator.settings.config_files import merged, read_layers
from orchestrator.settings.run_config import dump_config, load_config
from policy.errors import UserError

CONFIGS = Path(__file__).parents[3] / "configs"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_mappings_are_merged_and_the_rest_replaced(tmp_path: Path) -> None:
    """Two levels of base, each relative to the file that names it."""
    write(tmp_path / "base.yaml", "a: {x: 1, y: {p: 1, q: 2}}\nlist: [1, 2]\nkept: 0\n")
    write(tmp_path / "middle.yaml", "base: base.yaml\na: {y: {q: 3}}\nlist: [9]\n")
    top = write(tmp_path / "sub" / "top.yaml", "base: ../middle.yaml\na: {x: null}\n")
    assert merged(read_layers(top)) == {
        "a": {"x": None, "y": {"p": 1, "q": 3}},
        "list": [9],
        "kept": 0,
    }


def test_the_resolved_file_stands_alone(tmp_path: Path) -> None:
    """dump(load(file with base)) names no base and loads to the same run."""
    derived = write(tmp_path / "d.yaml", f"base: {CONFIGS / 'shapes.yaml'}\nsteps: 3\n")
    config = load_config(derived, ["seed=4"])
    assert (config.steps, config.seed, config.prompts_per_step) == (3, 4, 16)
    dumped = write(tmp_path / "alone" / "config.yaml", dump_config(config))
    assert "base" not in yaml.safe_load(dumped.read_text())
    assert load_config(dumped, []) == config


def test_a_preset_replaces_what_the_base_spells_out(tmp_path: Path) -> None:
    """A resolved file as base holds bonus and aggregation of its own preset; a rule given wins."""
    base = write(tmp_path / "base.yaml", dump_config(load_config(CONFIGS / "shapes.yaml", [])))
    paper = write(tmp_path / "paper.yaml", f"base: {base}\nalgorithm: {{preset: as-paper}}\n")
    assert load_config(paper, []).algorithm.bonus == "budget"
    exact = f"base: {base}\nalgorithm: {{preset: as-paper, bonus: budget-exact}}\n"
    assert load_config(write(paper, exact), []).algorithm.bonus == "budget-exact"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("base: none.yaml", "none.yaml, the base of {file}, does not exist"),
        ("base: top.yaml", "base leads back to the file it started from"),
        ("base: other.yaml", "base leads back to the file it started from"),
        ("base: [a]", "base must name a file"),
        ("base: list.yaml", "list.yaml: expected a mapping of settings"),
    ],
)
def test_a_base_that_cannot_be_is_one_line(tmp_path: Path, text: str, expected: str) -> None:
    """Missing, itself, a longer circle, no name, no mapping."""
    top = write(tmp_path / "top.yaml", text)
    write(tmp_path / "other.yaml", "base: top.yaml")
    write(tmp_path / "list.yaml", "[1]")
    with pytest.raises(UserError) as caught:
        load_config(top, [])
    assert expected.format(file=top) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_configuration_is_text_as_every_other_file_is(tmp_path: Path) -> None:
    """With a byte-order mark and the line ends of an editor; a byte that is no text has a line."""
    top = tmp_path / "top.yaml"
    top.write_bytes(b"\xef\xbb\xbfbase: base.yaml\r\nb: 2\r\n")
    write(tmp_path / "base.yaml", "a: 1")
    assert merged(read_layers(top)) == {"a": 1, "b": 2}
    (tmp_path / "base.yaml").write_bytes(b"a: 1\nb: k\xe4se\n")
    with pytest.raises(UserError, match=r"base\.yaml:2: byte 0xe4 is not UTF-8"):
        merged(read_layers(top))
