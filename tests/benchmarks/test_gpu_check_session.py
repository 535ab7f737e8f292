"""The session of the check for a GPU: what one part does cannot end the others or be lost."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from misbehaving_parts import Misbehaving

from benchmarks.gpu_check.parts import Part
from benchmarks.gpu_check.results import DONE, FILE, PartResult, Results, read
from benchmarks.gpu_check.session import Session, ended_in_order
from benchmarks.gpu_check.table import markdown
from benchmarks.gpu_check.task import Measure

WELL = Misbehaving("ends_well", 1, "")


@pytest.fixture(autouse=True)
def environment_stays() -> Iterator[None]:
    """A session sets variables for its parts, not for the tests after it."""
    with mock.patch.dict(os.environ):
        yield


def run(folder: Path, *parts: Part, minutes: float = 4) -> bool:
    return Session("cpu", True, minutes, folder).run(parts)


def runs(pid: object) -> bool:
    """Whether the process is there and more than an entry that nobody has collected."""
    file = Path(f"/proc/{pid:.0f}/stat")
    return file.exists() and file.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.slow
def test_no_part_ends_the_others(tmp_path: Path) -> None:
    """One raises, one exits, one is killed as the kernel does when memory ends, one hangs: what
    each had measured is kept, how it ended is said, its own processes end, and the last one runs.
    """
    # 240 s x 2 x the share: nine seconds for the one that hangs.
    hangs = Misbehaving("hangs", 0.06, "")
    bad = [Misbehaving(name, 1, "") for name in ("raises", "exits", "is_killed")]
    assert run(tmp_path, hangs, *bad, WELL) is False
    parts = read(tmp_path / FILE)
    assert {name: part.status.split(" within")[0] for name, part in parts.items()} == {
        "hangs": "not ended",
        "raises": "ValueError: two lines",
        "exits": "its process ended with code 7",
        "is_killed": "its process ended with code -9",
        "ends_well": DONE,
    }
    assert all(part.measures[0].what == "drawn" for part in parts.values())
    assert not runs(parts["hangs"].measures[1].value)


@pytest.mark.slow
def test_a_second_call_goes_on_with_what_is_missing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Done parts keep their figures, also beside one that failed; on another card or with other
    versions they are measured again; without time nothing is started and nothing is lost."""
    fails = Misbehaving("raises", 1, "")
    assert run(tmp_path, WELL, fails) is False
    first = read(tmp_path / FILE)
    assert run(tmp_path, WELL) is True
    assert run(tmp_path, WELL, fails) is False
    second = read(tmp_path / FILE)
    assert second["ends_well"] == first["ends_well"]
    assert second["raises"].measures != first["raises"].measures

    written = json.loads((tmp_path / FILE).read_text())
    written["ends_well"]["stamp"]["torch"] = "torch 1.0"
    (tmp_path / FILE).write_text(json.dumps(written))
    assert run(tmp_path, WELL, minutes=0.05) is False
    assert "no time left for ends_well" in capsys.readouterr().out
    assert read(tmp_path / FILE)["ends_well"].measures == first["ends_well"].measures
    assert run(tmp_path, WELL) is True
    assert read(tmp_path / FILE)["ends_well"].measures != first["ends_well"].measures


def test_a_termination_unwinds_the_session() -> None:
    """As an exception, so that the running part is ended on the way, and only there."""
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit) as ended, ended_in_order():
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == before


def test_results_are_read_as_they_were_written(tmp_path: Path) -> None:
    """And a half-written file, as a crash leaves it, takes no place of a whole one."""
    results = Results(tmp_path)
    results.parts["card"] = PartResult(
        {"device": "A"}, "2026-11-26", DONE, 1.5, [Measure("a", 1.0)]
    )
    results.write()
    (tmp_path / "results.new").write_text("{")
    assert Results(tmp_path).parts == results.parts
    assert results.is_done("card", {"device": "A"})
    assert not results.is_done("card", {"device": "B"})
    assert not results.is_done("head_kernel", {"device": "A"})


def test_machines_stand_side_by_side() -> None:
    """A row for each figure that any of them has; what is not measured is empty, not 0."""
    figures = [Measure("time", 12.3456, "ms", "V = 8"), Measure("memory", 123_456.0, "MiB")]
    cpu = {"card": PartResult({"device": "CPU"}, "2026-11-26T20:00", DONE, 1.0, figures)}
    gpu = {"card": PartResult({"device": "GPU"}, "2026-11-27T20:00", "it ended", 1.0, figures[:1])}
    lines = markdown([cpu, gpu]).splitlines()
    assert lines[:2] == ["1. CPU; 2026-11-26", "2. GPU; 2026-11-27"]
    assert lines[-3:] == [
        "| ended early | done | it ended |",
        "| time | 12.3 ms (V = 8) | 12.3 ms (V = 8) |",
        "| memory | 123,456 MiB |  |",
    ]
    assert markdown([cpu]).splitlines()[-1] == "| memory | 123,456 MiB |"
