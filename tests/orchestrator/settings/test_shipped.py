"""Shipped configurations are found by name, from any folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.settings.input_checks import check_inputs
from orchestrator.settings.run_config import load_config
from orchestrator.settings.shipped import config_file, shipped_names
from policy.errors import UserError

ROOT = Path(__file__).parents[3]


def test_a_run_of_a_shipped_configuration_works_in_an_empty_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its name and by its path in the repository; the files it names are found; the run folder
    is below the working folder."""
    monkeypatch.chdir(tmp_path)
    config = load_config(Path("shapes"), [])
    assert config.root == tmp_path / "runs"
    assert len(check_inputs(config).prompts) == 2000
    assert load_config(Path("configs/shapes.yaml"), []) == config
    paper = load_config(Path("ablations/only-cot"), ["base=presets/as-paper"])
    assert (paper.algorithm.modalities, paper.algorithm.bonus) == ("cot", "budget")


def test_files_of_the_working_folder_come_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file called like a shipped configuration is used, a folder is not, and prompts of the
    working folder stand before those of the package."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shapes" / "data").mkdir(parents=True)
    (tmp_path / "shapes" / "data" / "train.jsonl").write_text("")
    config = load_config(Path("shapes"), [])
    assert config.data.train == Path("shapes/data/train.jsonl")
    assert config.data.evaluation["seen"] == ROOT / "shapes/data/seen.jsonl"
    (tmp_path / "janus-pro-1b").write_text("name: mine")
    assert config_file(Path("janus-pro-1b")) == Path("janus-pro-1b")
    assert config_file(Path("none")) == Path("none")
    with pytest.raises(UserError, match=r"^configuration file shape does not .* mean shapes\?$"):
        config_file(Path("shape"))


def test_every_configuration_can_be_copied_and_means_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its base is found by name; an existing file is left alone, and an unknown name refused."""
    monkeypatch.chdir(tmp_path)
    names = shipped_names()
    assert {"shapes", "ablations/only-cot", "janus-pro-1b-lora-1gpu"} < set(names)
    for name in names:
        if name.startswith(("presets/", "methods/")):  # part of a configuration
            continue
        assert main(["configs", "copy", name, "copy.yaml"]) == 0
        assert load_config(Path("copy.yaml"), []) == load_config(Path(name), [])
        (tmp_path / "copy.yaml").unlink()
    (tmp_path / "shapes.yaml").write_text("mine")
    capsys.readouterr()
    assert main(["configs", "copy", "shapes"]) == 2
    assert capsys.readouterr().err == "eg-grpo: shapes.yaml cannot be written: File exists\n"
    assert main(["configs", "copy", "../shapes/none"]) == 2
    assert "no configuration is called ../shapes/none" in capsys.readouterr().err


def test_each_configuration_is_listed_with_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    """The line is the first sentence of the file."""
    assert main(["configs"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(list((ROOT / "configs").rglob("*.yaml")))
    said = dict(line.split(maxsplit=1) for line in lines)
    expected = 'The paper\'s "w/ only sem": entropy guides the CoT tokens alone'
    assert said["ablations/only-cot"] == expected
