"""The live view of a run, drawn by rich on a console that records, from literal rows."""

from __future__ import annotations

import io
import logging
import math
import re
import sys
import time

import pytest
from rich.console import Console

from orchestrator.record.live_view import LiveProgress, can_show, shown_progress, sparkline
from orchestrator.record.progress import Progress
from policy.errors import RunFailed, UserError

ROW = {
    "step": 1, "reward/mean": 0.5, "kl/mean": 0.0012, "grad_norm": 0.25,
    "entropy/cot/mean": 0.11, "entropy/image/mean": None, "staleness/mean": 0.5,
    "staleness/max": 1, "seconds/rollout": 2.0, "seconds/learn": 1.0, "seconds/step": 3.0,
}  # fmt: skip


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True


def on_terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """A terminal of 80 columns without colours, which is standard error from now on."""
    terminal = Terminal()
    monkeypatch.setattr("sys.stderr", terminal)
    for name, value in {"TERM": "xterm", "NO_COLOR": "1", "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)
    return terminal


def drawn(view: LiveProgress, columns: int = 100) -> str:
    """The text of the view's frame on a terminal of so many columns."""
    console = Console(file=io.StringIO(), record=True, width=columns)
    console.print(view.frame())
    return console.export_text()


def test_the_start_says_what_is_awaited_and_for_how_long() -> None:
    """Before the first wait, in a wait inside another one, and after both."""
    now = [100.0]
    view = LiveProgress(80, lambda: now[0])
    now[0] = 103.0
    assert "reading files and loading libraries  3 s" in drawn(view)
    with view.waiting("starting Ray"):
        now[0] = 175.0
        assert "starting Ray  1 min 12 s" in drawn(view)
        with view.waiting("loading the model on learner rank 0"):
            assert "loading the model on learner rank 0  0 s" in drawn(view)
            assert "starting Ray" not in drawn(view)
        assert "starting Ray  0 s" in drawn(view)
    assert "step 0/80" in drawn(view)


def test_a_step_is_drawn_with_its_estimate_curves_and_stages() -> None:
    """The bar of the longest stage is the longest; a metric without a value is a dash."""
    view = LiveProgress(11, lambda: 0.0)
    view.step(ROW)
    view.step(ROW | {"step": 2, "reward/mean": 0.75, "seconds/step": 5.0})
    text = drawn(view)
    assert "step 2/11" in text
    assert "ETA 36 s" in text  # 9 steps of 4 s
    assert "reward           0.7500  ▁█" in text
    assert "entropy image         -" in text
    assert "staleness 0.5 (at most 1)" in text
    assert f"rollout time      2.0 s  {'█' * 40}" in text
    assert f"learn time        1.0 s  {'█' * 20}" in [line.rstrip() for line in text.splitlines()]
    view.step(ROW | {"reward/mean": 0.25})  # the run fell back and repeats step 1
    assert "reward           0.2500  ▄" in drawn(view)


@pytest.mark.parametrize("columns", [72, 80])
def test_a_narrow_terminal_has_each_label_and_each_number(columns: int) -> None:
    """A line is cut at its end, with an ellipsis. The bar of the progress gets shorter instead."""
    now = [0.0]
    view = LiveProgress(80, lambda: now[0])
    view.step(ROW | {"step": 39, "seconds/step": 15.7})
    view.workers([("rollout", "sampling"), ("learner", "idle")])
    with view.waiting("loading /" + "x" * 99):
        now[0] = 716.0
        lines = drawn(view, columns).splitlines()
    assert max(map(len, lines)) <= columns
    assert [line[:17].rstrip() for line in lines] == [
        *("progress", "now", "reward", "entropy cot", "entropy image", "update"),
        *("rollout time", "learn time", "rollout workers", "learner ranks"),
    ]
    assert lines[0].startswith("progress         step 39/80  ")
    assert "ETA 10 min 44 s  11 min 56 s so far" in lines[0]
    assert lines[1].rstrip().endswith("x…")


def test_workers_are_counted_by_role_and_the_busy_ones_say_what_is_done() -> None:
    """The learner explains a step before the rollout workers that sample ahead."""
    view = LiveProgress(11, lambda: 0.0)
    rollout = [("rollout", "sampling"), ("rollout", "sampling"), ("rollout", "idle")]
    view.workers([*rollout, ("reward", "idle"), ("learner", "idle")])
    text = drawn(view)
    assert "now              rollout: sampling" in text
    assert "rollout workers  1 idle, 2 sampling" in text
    view.workers([*rollout, ("reward", "idle"), ("learner", "learning")])
    assert "now              learner: learning" in drawn(view)


def test_a_resumed_run_shows_the_steps_that_are_done() -> None:
    """Until the first row, the step is the one of the checkpoint."""
    view = LiveProgress(80, lambda: 0.0)
    view.begin(20)
    assert "step 20/80" in drawn(view)
    view.step(ROW | {"step": 21})
    assert "step 21/80" in drawn(view)


def test_a_number_that_is_not_finite_does_not_hide_the_error_of_the_run(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run's own error leaves the view after rows whose metrics are NaN and infinity."""
    terminal = on_terminal(monkeypatch)

    def run() -> None:
        with shown_progress(5) as view:
            view.step(ROW | {"reward/mean": math.nan, "kl/mean": math.nan})
            view.step(ROW | {"step": 2, "entropy/cot/mean": math.inf})
            raise RunFailed("a rank died")

    with pytest.raises(RunFailed, match="a rank died"):
        run()
    assert "step 2/5" in terminal.getvalue()


def test_a_short_wait_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """It need not last until the next frame."""
    terminal = on_terminal(monkeypatch)
    with shown_progress(5) as view, view.waiting("starting Ray"):
        pass
    assert re.search(r"starting Ray  \d+ s", terminal.getvalue())


def test_a_long_line_has_no_line_break_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path of 200 characters on a terminal of 80 can be copied whole, from a note and from a
    line that other code prints. The frame below it is as wide as the terminal at most."""
    terminal = on_terminal(monkeypatch)
    with shown_progress(5) as view:
        view.note(f"run folder /{'x' * 200}")
        print(f"model /{'y' * 200}", file=sys.stderr)
        view.step(ROW)
        logging.getLogger("eg_grpo").warning("z" * 200)
    assert f"run folder /{'x' * 200}\n" in terminal.getvalue()
    assert f"model /{'y' * 200}\n" in terminal.getvalue()
    assert f"{'z' * 60}" in terminal.getvalue()
    assert "z" * 80 not in terminal.getvalue()


def test_brackets_and_colons_of_other_code_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """A part of a line that is flushed is no markup: neither is a tag read nor a picture put in."""
    terminal = on_terminal(monkeypatch)
    with shown_progress(5):
        print("loading [/models] :smile:", end="", file=sys.stderr, flush=True)
    assert "loading [/models] :smile:" in terminal.getvalue()


@pytest.mark.parametrize("said", [False, True])
def test_a_view_that_said_nothing_leaves_nothing(
    said: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mistake in the input comes before the first note: its line is then all there is. The last
    thing that the view writes is the erasure of its frame."""
    terminal = on_terminal(monkeypatch)

    def run() -> None:
        with shown_progress(5) as view:
            if said:
                view.note("run folder runs/shapes")
            raise UserError("data.train: no file")

    with pytest.raises(UserError):
        run()
    after = terminal.getvalue().rpartition("step 0/5")[2]
    assert ("\x1b[2K" in after) != said


def test_the_last_three_warnings_are_shown_masked_and_the_last_frame_has_no_clock(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Warnings of the run's log are in the view while it is open; afterwards the cursor is back."""
    terminal = on_terminal(monkeypatch)
    with shown_progress(5) as view:
        assert isinstance(view, LiveProgress)
        for name in ("first", "second", "third", "http://me:password@host is\naway"):
            logging.getLogger("eg_grpo").warning("%s", name)
        assert view.warnings.texts == ["second", "third", "http://***@host is away"]
        print("a line of a worker", file=sys.stderr)
        view.note("a note")
    assert "now" not in drawn(view)
    written = terminal.getvalue()
    assert "a line of a worker\n" in written.replace("\r", "")
    assert "a note\n" in written.replace("\r", "")
    assert written.index("\x1b[?25l") < written.rindex("\x1b[?25h")  # the cursor is shown again
    assert "\x1b[3" not in written  # no colour


def test_a_stream_that_cannot_show_the_view_gets_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A pipe, a closed stream, a terminal without a cursor, and one that does not show UTF-8."""
    monkeypatch.setenv("TERM", "xterm")
    assert can_show(Terminal())
    assert not can_show(io.StringIO())
    assert not can_show(None)
    latin = Terminal()
    latin.encoding = "iso-8859-1"
    assert not can_show(latin)
    monkeypatch.setenv("TERM", "dumb")
    assert not can_show(Terminal())
    with shown_progress(80) as progress:
        progress.step(ROW)
    assert capsys.readouterr().err == (
        "step  1/80  reward 0.5000  kl 0.0012  entropy cot 0.1100 image -  3.0 s  ETA 3 min 57 s\n"
    )


def test_a_long_wait_is_a_line_where_there_is_no_view(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wait that is over before the limit leaves no line."""
    with Progress(3).waiting("starting Ray"):
        pass
    monkeypatch.setattr("orchestrator.record.progress._LONG_WAIT_S", 0.01)
    with Progress(3).waiting("loading the model on learner rank 0"):
        said, deadline = "", time.monotonic() + 60
        while not said.endswith("\n") and time.monotonic() < deadline:
            said += capsys.readouterr().err
            time.sleep(0.01)
    assert said == "loading the model on learner rank 0 (0.01 s so far)\n"


def test_a_sparkline_has_gaps_and_means_of_parts() -> None:
    """Four values in two characters are two means; equal values are at half height."""
    assert sparkline([0.0, 1.0, 0.5], 10) == "▁█▅"
    assert sparkline([0.0, 0.0, 2.0, 4.0], 2) == "▁█"
    assert sparkline([1.0, None, 2.0], 3) == "▁ █"
    assert sparkline([0.3, 0.3], 2) == "▄▄"
    assert sparkline([None, None], 2) == "  "
    assert sparkline([1.0, math.nan, -math.inf, 2.0], 4) == "▁  █"
    assert sparkline([], 2) == ""
