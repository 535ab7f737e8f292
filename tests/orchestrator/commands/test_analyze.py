"""`eg-grpo analyze entropy` on the shapes checkpoint: files, going on, and what is refused."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from orchestrator.cli import main
from policy.trajectory_files import read_group
from tests.command_line import ROOT

MODEL = str(ROOT / "shapes" / "checkpoint")
SMALL = ["--num-prompts", "3", "--cots", "2", "--images", "3"]
SETTINGS = ["--plain", f"plain={MODEL}", "--model", f"CoT={MODEL}"]


@pytest.fixture(scope="module", autouse=True)
def _few_resamples() -> Iterator[None]:
    """Intervals of 20 resamples are enough to see that they are there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("evaluation.bootstrap.RESAMPLES", 20)
        yield


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An analysis of both settings."""
    folder = tmp_path_factory.mktemp("analysis") / "out"
    command = ["analyze", "entropy", "shapes", *SETTINGS, *SMALL, "--output", str(folder)]
    assert main(command) == 0
    return folder


def table(file: Path) -> list[dict[str, str]]:
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_figure_has_a_picture_and_its_data(output: Path) -> None:
    """PNG, SVG and CSV of figures 2 to 5; one sheet for each prompt and setting."""
    for number in (2, 3, 4, 5):
        with Image.open(output / f"figure-{number}.png") as picture:
            assert min(picture.size) > 400
        assert (output / f"figure-{number}.svg").read_text().count("<svg") == 1
        assert table(output / f"figure-{number}.csv")
    sheets = sorted(str(file.relative_to(output / "sheets").parent) for file in
                    output.rglob("sheets/**/prompt-00[012].png"))  # fmt: skip
    assert sheets == [*["."] * 3, *["CoT"] * 3, *["plain"] * 3]
    with (
        Image.open(output / "sheets" / "prompt-000.png") as both,
        Image.open(output / "sheets" / "CoT" / "prompt-000.png") as one,
    ):
        assert both.width == one.width  # five images in a row of each setting


def test_the_rows_are_those_of_the_kept_trajectories(output: Path) -> None:
    """3 prompts of 6 images in each setting. A CoT's images share its entropies; the plain setting
    has none, and its six images are of one CoT that is not there."""
    rows = table(output / "samples.csv")
    assert [row["setting"] for row in rows] == ["plain"] * 18 + ["CoT"] * 18
    plain, with_cot = rows[:6], rows[18:24]
    assert [(row["cot"], row["image"]) for row in plain] == [("0", str(i)) for i in range(6)]
    assert {row["cot_entropy_mean"] for row in plain} == {""}
    assert [(row["cot"], row["image"]) for row in with_cot] == [
        (cot, image) for cot in "01" for image in "012"
    ]
    assert len({(row["cot"], row["cot_entropy_mean"]) for row in with_cot}) == 2
    group = read_group(output / "samples" / "CoT" / "prompt-000.safetensors")
    for row, trajectory in zip(with_cot, group.trajectories, strict=True):
        assert row["prompt"] == group.prompt.text
        nats = float(row["image_entropy_mean_guided"]) * np.log(512)
        assert nats == pytest.approx(trajectory.image_entropies_guided.mean(), rel=1e-5)
        parts = [float(value) for key, value in row.items() if key.startswith("reward/")]
        assert len(parts) == 3
        assert float(row["reward"]) == pytest.approx(
            0.4 * parts[0] + 0.4 * parts[1] + 0.2 * parts[2]
        )


def test_findings_name_what_they_speak_of(output: Path) -> None:
    """Each has its interval over the three prompts; the later setting minus the earlier."""
    rows = table(output / "findings.csv")
    assert list(rows[0]) == [
        "figure", "setting", "minus", "quantity", "statistic", "subset", "within_prompts",
        "count", "prompts", "value", "low", "high",
    ]  # fmt: skip
    assert {row["figure"] for row in rows} == {
        "2", "3 left", "3 right", "4", "4 left", "4 middle", "4 right", "5",
    }  # fmt: skip
    (width,) = [
        row for row in rows
        if (row["figure"], row["minus"], row["quantity"]) == ("2", "plain", "image entropy")
        and (row["statistic"], row["within_prompts"]) == ("std", "True")
    ]  # fmt: skip
    assert (width["setting"], width["count"], width["prompts"]) == ("CoT", "36", "3")
    assert float(width["low"]) <= float(width["value"]) <= float(width["high"])


def test_nothing_is_drawn_or_scored_twice(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A prompt whose group or whose scores are missing is made again, alone, and is what it was.
    Other thresholds change the figures alone."""
    file = output / "samples" / "CoT" / "prompt-001.safetensors"
    scores = output / "samples" / "plain" / "prompt-002.structure.json"
    before = file.read_bytes(), scores.read_bytes()
    file.unlink()
    scores.unlink()
    command = ["analyze", "entropy", "shapes", *SETTINGS, *SMALL, "--output", str(output)]
    assert main([*command, "--bins", "2", "--unstable-from", "0.001"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" groups")[0] for line in lines] == [
        "drawn: 1 of 1",
        "scored by structure: 1 of 1",
        f"findings: {output / 'findings.csv'}",
    ]
    assert (file.read_bytes(), scores.read_bytes()) == before
    assert {row["bin"] for row in table(output / "figure-4.csv")} == {"1", "2"}


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--seed", "1"], "drawn with seed 0 and not 1; give another --output"),
        (["--cots", "3"], "drawn with images_per_cot 6 and not 9; give another --output"),
        (["rollout.guidance_scale=2"], "drawn with guidance_scale 1.0 and not 2.0"),
        (["--prompts", "shapes/data/seen.jsonl"], "is of the prompt"),
    ],
)
def test_samples_that_were_drawn_otherwise_are_not_mixed(
    output: Path, flags: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line names the file and what differs; exit code 2."""
    command = ["analyze", "entropy", "shapes", *SETTINGS, *SMALL, "--output", str(output), *flags]
    assert main(command) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "give --model NAME=MODEL, or --plain NAME=MODEL"),
        (["--model", MODEL], "is not NAME=MODEL"),
        (["--model", f"../x={MODEL}"], "is not NAME=MODEL"),
        ([*SETTINGS, "--model", f"plain={MODEL}"], "two settings are called plain"),
        ([*SETTINGS, "--images", "1"], "--images must be 2 or more, not 1"),
        (["--model", "a=./none"], "none does not exist"),
    ],
)
def test_flags_that_make_no_analysis_are_one_line(
    flags: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is written."""
    output = tmp_path / "out"
    assert main(["analyze", "entropy", "shapes", "--output", str(output), *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not output.exists()
