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


def test_of_several_bases_a_later_one_lies_over_an_earlier_one(tmp_path: Path) -> None:
    """Each is taken with its own bases, and the file that names them lies over all."""
    write(tmp_path / "root.yaml", "a: 1\nb: 1\nc: 1\nd: 1\n")
    write(tmp_path / "low.yaml", "base: root.yaml\nb: 2\nc: 2\n")
    write(tmp_path / "high.yaml", "c: 3\nd: 3\n")
    top = write(tmp_path / "top.yaml", "base: [low.yaml, high.yaml]\nd: 4\n")
    assert merged(read_layers(top)) == {"a": 1, "b": 2, "c": 3, "d": 4}


def test_presets_lie_over_a_configuration_in_a_file_and_on_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resolved file, which spells out the rules of the code, becomes the paper's and back; an
    override stands over base=, whatever their order. Paths on the command line are relative to the
    working folder, those in a file to the file."""
    resolved = write(tmp_path / "r.yaml", dump_config(load_config(CONFIGS / "shapes.yaml", [])))
    (tmp_path / "presets").symlink_to(CONFIGS / "presets")
    paper = write(tmp_path / "paper.yaml", "base: [r.yaml, presets/as-paper.yaml]\n")
    monkeypatch.chdir(CONFIGS)

    def rules(path: Path, *overrides: str) -> tuple[str, str]:
        algorithm = load_config(path, list(overrides)).algorithm
        return algorithm.bonus, algorithm.aggregation

    as_code, as_paper = "base=presets/as-code.yaml", "base=presets/as-paper.yaml"
    assert rules(resolved) == rules(paper, as_code) == ("capped", "token-mean")
    assert rules(paper) == rules(resolved, as_paper) == ("budget", "sequence-mean")
    for order in (["algorithm.bonus=none", as_paper], [as_paper, "algorithm.bonus=none"]):
        assert rules(resolved, *order) == ("none", "sequence-mean")
    assert rules(resolved, as_paper, as_code) == ("capped", "token-mean")
    assert rules(resolved, "base=[presets/as-code.yaml, presets/as-paper.yaml]") == rules(paper)


def test_a_whole_configuration_is_not_laid_over_another(tmp_path: Path) -> None:
    """Its base, the embedded world, would silently replace Janus-Pro's model and prompts."""
    whole = CONFIGS / "ablations" / "grpo.yaml"
    with pytest.raises(UserError) as caught:
        load_config(CONFIGS / "janus-pro-7b.yaml", [f"base={whole}"])
    assert str(caught.value).startswith(f"override base: {whole} has a base of its own")
    partial = write(tmp_path / "grpo.yaml", "algorithm: {modalities: none}\n")
    config = load_config(CONFIGS / "janus-pro-7b.yaml", [f"base={partial}"])
    assert (config.algorithm.modalities, config.name) == ("none", "janus-pro-7b")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("base=none.yaml", "configuration file none.yaml does not exist"),
        ("base=", "override base must name a file or a list of files"),
        ("base={a: b}", "override base must name a file or a list of files"),
        ("base=[a", "override base:1: not YAML"),
    ],
)
def test_a_base_on_the_command_line_that_cannot_be_is_one_line(
    override: str, expected: str
) -> None:
    with pytest.raises(UserError) as caught:
        load_config(CONFIGS / "shapes.yaml", [override])
    assert str(caught.value).startswith(expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("base: none.yaml", "none.yaml, the base of {file}, does not exist"),
        ("base: top.yaml", "base leads back to the file it started from"),
        ("base: other.yaml", "base leads back to the file it started from"),
        ("base: 1", "top.yaml: base must name a file or a list of files"),
        ("base: [[a]]", "top.yaml: base must name a file or a list of files"),
        ("base: [list.yaml, none.yaml]", "list.yaml: expected a mapping of settings"),
        ("base: list.yaml", "list.yaml: expected a mapping of settings"),
    ],
)
def test_a_base_that_cannot_be_is_one_line(tmp_path: Path, text: str, expected: str) -> None:
    """Missing, itself, a longer circle, no names, no mapping."""
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
