"""The report of a run says what the files of its folder say, whatever stage the run reached."""

from __future__ import annotations

import html
import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from orchestrator.record.run_folder import read_rows
from orchestrator.record.sheets import save_png
from orchestrator.report.charts import Series, line_chart, moving_average, thin
from orchestrator.report.comparison import change_table, compare, evaluated_sets, headline
from orchestrator.report.gallery import spaced
from orchestrator.report.page import write_report
from policy.errors import UserError
from policy.types import JsonDict

ROOT = Path(__file__).parents[3]
REWARDS = {"attributes": 0.4, "structure": 0.4, "cleanliness": 0.2}
TASKS = ("color", "spatial", "numeracy")
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)> & \"quoted\" 'too' {{ 7 * 7 }}"


def metrics_row(step: int, rng: np.random.Generator) -> JsonDict:
    """A row as a run writes it, with a reward that rises and a spike of time at evaluations."""
    progress = 1 - math.exp(-step / 40)
    noise = rng.normal(size=12) * 0.03
    seconds = {"rollout": 1.6, "reward": 0.15, "learn": 1.3, "sync": 0.08}
    seconds |= {"evaluate": 3.4} if step % 20 == 0 else {}
    return {
        "step": step,
        "time": 1.7e9 + 3 * step,
        "reward/mean": 0.6 + 0.2 * progress + noise[0],
        "reward/std": 0.25 - 0.06 * progress + noise[1] / 2,
        "reward/group_std": 0.17 - 0.04 * progress + noise[2] / 2,
        "reward/attributes": 0.63 + 0.2 * progress + noise[3],
        "reward/structure": 0.45 + 0.28 * progress + noise[4],
        "reward/cleanliness": 0.85 + 0.08 * progress + noise[5] / 2,
        "reward/strict": 0.3 + 0.3 * progress + noise[6],
        "entropy/cot/mean": 0.11 - 0.03 * progress + noise[7] / 10,
        "entropy/cot/std": 0.16 - 0.02 * progress + noise[7] / 10,
        "entropy/image/mean": 0.21 - 0.05 * progress + noise[8] / 10,
        "entropy/image/std": 0.2 - 0.02 * progress + noise[8] / 10,
        "kl/mean": None if step == 7 else 0.04 * progress + abs(noise[9]) / 20,
        "ratio/mean": 1.0,
        "ratio/clipped": 0.0,
        "grad_norm": 0.9 + abs(noise[10]) * 8,
        "learning_rate": 1.5e-4 * min(1, step / 8),
        "cot_length/mean": 14 + noise[11] * 8,
        "bonus/mean": 0.05 + noise[0] / 10,
        "bonus/flip_share": None if step == 3 else abs(noise[1]) / 3,
        "tokens/low_fraction": 0.2 + noise[2] / 10,
        "tokens/high_fraction": 0.2 + noise[3] / 10,
        **{f"seconds/{stage}": value * (1 + noise[4]) for stage, value in seconds.items()},
        "seconds/step": sum(seconds.values()) * (1 + noise[4]) + 0.06,
        "alarms": ["the gradient is exactly zero"] if step in (4, 9) else [],
    }


def evaluation_row(step: int, name: str, num_prompts: int = 96) -> JsonDict:
    """A fixed set whose prompts differ widely and all improve by about the same."""
    rng = np.random.default_rng(step + 1000 * len(name))
    base = np.random.default_rng(len(name)).uniform(0.3, 0.9, num_prompts)
    gain = 0.16 * (1 - math.exp(-step / 40)) * (0.4 if name == "held_out" else 1)
    means = np.clip(base + gain + rng.normal(0, 0.05 if step else 0, num_prompts), 0, 1)
    mean = float(means.mean())
    return {
        "step": step,
        "set": name,
        "guidance_scale": 1.0,
        "reward/mean": mean,
        "reward/standard_error": float(means.std(ddof=1) / math.sqrt(num_prompts)),
        **{f"reward/{reward}": mean + 0.03 * place for place, reward in enumerate(REWARDS)},
        "detail/structure/strict": mean - 0.2,
        "by_task": {task: mean + 0.04 * place for place, task in enumerate(TASKS)},
        "num_prompts": num_prompts,
        "num_samples": 4 * num_prompts,
        "num_failed": 1 if name == "held_out" else 0,
        "prompt_means": [None, *means[1:].tolist()] if step == 20 else means.tolist(),
    }


def draw_shapes(rng: np.random.Generator, side: int) -> np.ndarray:
    """A red disc and a blue square, somewhere."""
    picture = Image.new("RGB", (side, side), (232, 229, 222))
    draw = ImageDraw.Draw(picture)
    k, (x, y) = side / 32, rng.integers(3, 8, 2)
    draw.ellipse([x * k, y * k, (x + 9) * k, (y + 9) * k], fill=(203, 45, 48))
    draw.rectangle([18 * k, (y + 6) * k, 27 * k, (y + 15) * k], fill=(44, 83, 190))
    return np.asarray(picture)


def keep_samples(folder: Path, step: int, name: str, prompts: int, side: int) -> list[JsonDict]:
    """Pictures and records of two samples of each prompt."""
    rows = []
    for place in range(prompts):
        for index in range(2):
            rng = np.random.default_rng((step, place, index))
            image = f"step-{step:06d}/{name}-{place}-{index}.png"
            save_png(draw_shapes(rng, side), folder / "samples" / image)
            failed = place == 2 and step == 20
            scores = {reward: float(rng.uniform(0.3, 1)) for reward in REWARDS}
            rows.append(
                {
                    "step": step,
                    "set": name,
                    "prompt_id": f"{name}:{place}",
                    "prompt": f"a photo of a red circle left of a blue square, number {place}",
                    "index": index,
                    "cot": "one red circle on the left, one blue square on the right. "
                    * (place + 1),
                    "total": None if failed else sum(REWARDS[r] * scores[r] for r in REWARDS),
                    "rewards": scores | ({"structure": None} if failed else {}),
                    "failures": {"structure": "no reply within 30 s"} if failed else {},
                    "image": image,
                }
            )
    return rows


def write_run(
    folder: Path,
    steps: int,
    evaluated: dict[str, tuple[int, ...]],
    planned: int = 80,
    prompts: int = 3,
    side: int = 32,
) -> Path:
    """A run folder as a run of ``steps`` steps leaves it."""
    rng = np.random.default_rng(0)
    evaluations = [evaluation_row(step, name) for name, at in evaluated.items() for step in at]
    records = [
        row
        for name, at in evaluated.items()
        for step in at
        for row in keep_samples(folder, step, name, prompts, side)
    ]
    for name, rows in (
        ("metrics.jsonl", [metrics_row(step, rng) for step in range(1, steps + 1)]),
        ("evaluations.jsonl", evaluations),
        ("samples/records.jsonl", records),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "config.yaml").write_text(f"name: shapes\nsteps: {planned}\nseed: 0\n")
    return folder


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of 80 steps: seen at both ends, held_out every 20 steps."""
    folder = tmp_path_factory.mktemp("runs") / "shapes"
    return write_run(folder, 80, {"seen": (0, 80), "held_out": (0, 20, 40, 60, 80)})


@pytest.fixture(scope="module")
def page(finished: Path) -> str:
    """The finished run's report."""
    return write_report(finished).read_text()


def row_of(step: int, prompt_means: list[float | None], **more: object) -> JsonDict:
    samples = {"num_samples": 4 * len(prompt_means), "num_failed": 0}
    return {"step": step, "prompt_means": prompt_means, **samples, **more}


def visible_text(page: str) -> str:
    """The page's words without markup, pictures and white space."""
    return " ".join(
        html.unescape(re.sub(r"<style.*?</style>|<[^>]*>", " ", page, flags=re.S)).split()
    )


def shown_steps(page: str) -> list[int]:
    """The steps under the pictures, in reading order."""
    return [int(step) for step in re.findall(r"<span[^>]*>step (\d+)</span>", page)]


def test_the_headline_is_paired_over_prompts() -> None:
    """Changes 0.1, 0.2, 0.3: mean 0.2, standard error 0.1/sqrt(3), though prompts differ by 0.8."""
    rows = [row_of(0, [0.1, 0.5, 0.9]), row_of(20, [0, 0, 0]), row_of(40, [0.2, 0.7, 1.2])]
    found = compare("seen", rows)
    assert (found.before_step, found.after_step) == (0, 40)
    assert found.before == pytest.approx(0.5)
    assert found.after == pytest.approx(0.7)
    assert found.difference is not None
    assert found.difference.mean == pytest.approx(0.2)
    assert found.difference.standard_error == pytest.approx(0.1 / math.sqrt(3))
    assert found.standard_errors == pytest.approx(2 * math.sqrt(3))
    assert (found.num_prompts, found.num_samples) == (3, 12)


def test_only_prompts_that_both_evaluations_scored_count() -> None:
    """A prompt without a score, or beyond the shorter evaluation, changes no number."""
    rows = [row_of(0, [0.1, None, 0.5, 0.3]), row_of(40, [0.2, 0.9, None, 0.6, 1.0])]
    found = compare("seen", rows)
    assert found.before == pytest.approx(0.2)
    assert found.after == pytest.approx(0.4)
    assert found.difference is not None
    assert found.difference.mean == pytest.approx(0.2)
    assert found.num_prompts == 2


@pytest.mark.parametrize("change", [0.0, 0.25])
def test_no_spread_is_no_certainty(change: float) -> None:
    """Equal changes have standard error 0, one prompt has none: neither gives a ratio."""
    equal = compare("seen", [row_of(0, [0.5, 0.5]), row_of(1, [0.5 + change] * 2)])
    assert equal.difference is not None
    assert (equal.difference.standard_error, equal.standard_errors) == (0, None)
    single = compare("seen", [row_of(0, [0.5]), row_of(1, [0.5 + change])])
    assert single.difference is not None
    assert math.isnan(single.difference.standard_error)
    assert single.standard_errors is None


def test_sets_are_told_apart_by_guidance() -> None:
    """A set at two scales is two sets; of two rows of one step, as a resumed run has, the last."""
    keys = [("seen", 5, 0), ("seen", 5, 2), ("seen", 1, 0), ("other", 1, 3), ("other", 1, 3)]
    rows = [
        {"set": name, "guidance_scale": scale, "step": step, "place": place}
        for place, (name, scale, step) in enumerate(keys)
    ]
    places = {
        label: [row["place"] for row in found] for label, found in evaluated_sets(rows).items()
    }
    assert places == {"seen, w = 5": [0, 1], "seen, w = 1": [2], "other": [4]}


def test_the_table_holds_first_and_last_means() -> None:
    """Totals, rewards, details and tasks in this order; what one side lacks has no difference."""
    first = {"reward/mean": 0.5, "reward/standard_error": 0.1, "by_task": {"color": 0.25}}
    last = {"reward/mean": 0.75, "reward/hps": 0.5, "detail/hps/strict": 0.125, "by_task": {}}
    table = change_table({"seen": [row_of(0, [], **first), row_of(9, [], **last)]})
    assert [(row.name, row.changes[0].before, row.changes[0].after) for row in table] == [
        ("reward", 0.5, 0.75),
        ("hps", None, 0.5),
        ("hps/strict", None, 0.125),
        ("color", 0.25, None),
    ]
    assert [row.changes[0].difference for row in table] == [0.25, None, None, None]


def test_a_finished_run_is_told_in_numbers(page: str) -> None:
    """Headline, alarms, charts, table and one column per evaluation step are on the page."""
    text = visible_text(page)
    found = compare("seen", [evaluation_row(0, "seen"), evaluation_row(80, "seen")])
    assert found.difference is not None
    assert "80 of 80 training steps" in text
    assert f"{found.before:.3f} → {found.after:.3f}" in text
    assert f"+{found.difference.mean:.3f} ± {found.difference.standard_error:.3f}" in text
    assert f"({found.standard_errors:.1f} standard errors)" in text
    assert "96 prompts, 384 samples; step 0 → 80" in text
    assert "384 samples, 1 failed" in text
    assert "No evaluation of the last step" not in text
    assert "the gradient is exactly zero – 2 times, steps 4 to 9" in text
    for title in ("Reward on fixed prompts", "Entropy spread", "KL to the reference", "Time of a"):
        assert title in text
    assert shown_steps(page) == [0, 80] * 3 + [0, 20, 40, 60, 80] * 3
    assert "structure: no reply within 30 s" in text


def test_model_words_cannot_become_markup(tmp_path: Path) -> None:
    """A prompt, CoT, failure, set name or setting full of HTML shows as the text that it is."""
    write_run(tmp_path, 1, {EVIL: ()})
    record = keep_samples(tmp_path, 0, "seen", 1, 32)[0]
    record |= {"prompt": EVIL, "cot": EVIL * 3, "failures": {"hps": EVIL}, "set": EVIL}
    (tmp_path / "samples" / "records.jsonl").write_text(json.dumps(record) + "\n")
    rows = [evaluation_row(step, EVIL) for step in (0, 1)]
    (tmp_path / "evaluations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "config.yaml").write_text("# " + EVIL)
    page = write_report(tmp_path).read_text()
    assert "<script" not in page
    assert "<img src=x" not in page
    assert "{{ 7 * 7 }}" in page
    assert visible_text(page).count("<script>alert(1)</script>") >= 6


def test_the_page_asks_nothing_of_the_network(page: str) -> None:
    """No address but data: URIs and places in the page itself; a policy forbids the rest."""
    assert not re.search(r"https?:|//[a-z]", re.sub(r"data:[^\"]*", "", page))
    assert not re.search(r"@import|<link|<script|<iframe|<object", page)
    for address in re.findall(r"(?:src|href)=\"([^\"]*)\"|url\(([^)]*)\)", page):
        assert "".join(address).startswith(("data:image/", "#"))
    assert "Content-Security-Policy\" content=\"default-src 'none'" in page


def test_the_same_folder_gives_the_same_bytes(finished: Path, page: str) -> None:
    """A second process, which orders its sets otherwise, writes the same report."""
    code = (
        "import sys; from pathlib import Path; from orchestrator.report.page import write_report\n"
        "write_report(Path(sys.argv[1]))"
    )
    command, environment = [sys.executable, "-c", code, str(finished)], {"PYTHONHASHSEED": "7"}
    subprocess.run(command, check=True, cwd=ROOT, env=os.environ | environment)
    assert (finished / "report.html").read_text() == page
    assert not list(finished.glob(".report*"))


def test_a_run_stopped_early_still_has_a_report(tmp_path: Path) -> None:
    """Three steps and the evaluation of step 0: nothing to compare yet, and the page says so."""
    text = visible_text(write_report(write_run(tmp_path, 3, {"seen": (0,)})).read_text())
    assert "3 of 80 training steps" in text
    assert "evaluated at step 0 only: nothing to compare yet" in text
    assert "No evaluation of the last step: training is at step 3." in text


def test_a_folder_with_little_in_it(tmp_path: Path) -> None:
    """One step without settings, evaluations or samples; a picture that is gone; nothing at all."""
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "reward/mean": 0.5}\n{"step": 2, "rew')
    text = visible_text(write_report(tmp_path).read_text())
    assert f"{tmp_path.name} 1 training step in" in text
    assert "No evaluation on fixed prompts yet." in text
    assert "Reward in training" in text
    for absent in ("KL to the reference", "Time of a step", "Before and after", "Settings"):
        assert absent not in text

    write_run(tmp_path, 1, {"seen": (0,)})
    (tmp_path / "samples" / "step-000000" / "seen-0-0.png").unlink()
    assert "no picture" in visible_text(write_report(tmp_path).read_text())

    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no run"):
        write_report(tmp_path / "empty")


def test_a_long_run_stays_small(tmp_path: Path) -> None:
    """2,000 steps with 101 evaluations of large pictures: six columns, lines thinned out."""
    at = tuple(range(0, 2001, 20))
    write_run(tmp_path, 2000, {"seen": at}, planned=2000, prompts=0)
    for step in at:
        rows = keep_samples(tmp_path, step, "seen", 1, 32 if step else 384)
        with (tmp_path / "samples" / "records.jsonl").open("a") as file:
            file.writelines(json.dumps(row) + "\n" for row in rows)
    page = write_report(tmp_path).read_text()
    assert shown_steps(page) == [0, 400, 800, 1200, 1600, 2000]
    assert page.count("data:image/jpeg") == 1
    assert page.count("data:image/png") == 5
    assert len(page) < 500_000


def test_evenly_spaced_steps() -> None:
    """First and last are always there."""
    assert spaced([0, 20, 80], 6) == [0, 20, 80]
    assert spaced(range(0, 101, 10), 6) == [0, 20, 40, 60, 80, 100]
    assert spaced(range(100), 2) == [0, 99]


def test_smoothing_and_thinning_leave_gaps_alone() -> None:
    """A missing value counts in no mean and stays missing; thinned lines keep their mean."""
    nan = math.nan
    smooth = moving_average(np.array([1.0, 3.0, nan, 5.0, 7.0]), 3)
    np.testing.assert_array_equal(smooth, [2, 2, nan, 6, 6])
    steps, values = thin(np.arange(1.0, 8.0), np.array([1, 3, nan, 5, nan, nan, 9]), 4)
    np.testing.assert_array_equal(steps, [1.5, 3.5, 5.5, 7])
    np.testing.assert_array_equal(values, [2, 5, nan, 9])


def test_labels_are_text() -> None:
    """A label with markup or a dollar sign is shown as it is, and nothing global is changed."""
    svg = line_chart([Series("<b>$x$", [1, 2], [0.5, None]), Series("y", [1, 2], [1.0, 2.0])])
    assert "&lt;b&gt;$x$" in svg
    assert svg.startswith("<svg")
    assert not Series("none", [1], [None]).present


def test_rows_cut_off_by_a_crash_are_left_out(tmp_path: Path) -> None:
    """Only lines with their newline are rows; a missing file has none."""
    (tmp_path / "rows.jsonl").write_text('{"step": 1}\n\n{"step": 2}\n{"st')
    assert read_rows(tmp_path / "rows.jsonl") == [{"step": 1}, {"step": 2}]
    assert read_rows(tmp_path / "none.jsonl") == []


def test_the_headline_of_the_command_line() -> None:
    """Prompt means 0.2, 0.4 become 0.5, 0.9: +0.4 with standard error 0.1; one row has none."""
    rows = [
        {"step": step, "prompt_means": means, "num_samples": 8, "num_failed": 0}
        for step, means in ((0, [0.2, 0.4]), (5, [0.5, 0.9]))
    ]
    assert headline(compare("seen", rows)) == (
        "reward on seen prompts: 0.300 -> 0.700, +0.400 ± 0.100 (standard error), 8 samples"
    )
    assert headline(compare("seen", rows[:1])) == "reward on seen prompts: 0.300, 8 samples"
