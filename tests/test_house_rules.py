"""The house rules that a reader relies on, held by a test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from house import ROOMS, imported_modules, imported_packages

from tools.house_map import FIRST, LAST, import_graph, longest_path

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "policy": set(),
    "shapes": {"policy"},
    "rollout": {"policy"},
    "rewards": {"policy"},
    "learner": {"policy"},
    "evaluation": {"policy", "shapes", "rollout", "rewards", "learner"},
    "orchestrator": {"policy", "shapes", "rollout", "rewards", "learner", "evaluation"},
}
FLOOR_PLAN: dict[str, set[str]] = {
    "commands": {"pipeline", "workers", "settings", "record", "report"},
    "pipeline": {"workers", "settings", "record"},
    "workers": {"settings"},
    "settings": set(),
    "report": {"record"},
    "record": set(),
}
FILES = sorted(file for room in ROOMS for file in (ROOT / room).rglob("*.py"))


@pytest.mark.parametrize("room", ROOMS)
def test_imports_point_down(room: str) -> None:
    """A room imports only rooms below it, and the four workshops never each other."""
    for file in (ROOT / room).rglob("*.py"):
        above = set(imported_packages(file)) & set(ROOMS) - MAY_IMPORT[room] - {room}
        assert not above, f"{file.relative_to(ROOT)} imports {above}"


def test_heavy_dependencies_stay_in_their_files() -> None:
    """Ray, DeepSpeed, peft, vLLM and Redis each have their places."""
    for file in FILES:
        place = file.relative_to(ROOT)
        packages = set(imported_packages(file))
        in_workers = place.is_relative_to("orchestrator/workers")
        assert "ray" not in packages or place.name == "worker.py" or in_workers, place
        assert "vllm" not in packages or place.is_relative_to("rollout/vllm"), place
        # doctor only asks whether it imports
        deepspeed_allowed = place.parts[0] == "learner" or place.name == "doctor.py"
        assert "deepspeed" not in packages or deepspeed_allowed, place
        assert "peft" not in packages or place == Path("learner/adapter.py"), place
        redis_allowed = place in (
            Path("rewards/cache.py"),
            Path("orchestrator/pipeline/ledger_connection.py"),
        )
        assert "redis" not in packages or redis_allowed, place


def test_benchmarks_import_nothing_from_the_tests() -> None:
    """Tests may use what benchmarks are made of; a benchmark runs where no tests lie."""
    helpers = {"tests"} | {file.stem for file in (ROOT / "tests").glob("*.py")}
    for file in (ROOT / "benchmarks").rglob("*.py"):
        assert not helpers & set(imported_packages(file)), file.relative_to(ROOT)


@pytest.mark.parametrize("room", FLOOR_PLAN)
def test_arrows_inside_the_orchestrator(room: str) -> None:
    """commands > pipeline > workers > settings, pipeline > record, commands > report > record."""
    for file in (ROOT / "orchestrator" / room).rglob("*.py"):
        others = {module.split(".")[1] for module in imported_modules(file, "orchestrator")}
        wrong = others - FLOOR_PLAN[room] - {room}
        assert not wrong, f"{file.relative_to(ROOT)} imports {wrong}"


def test_the_document_shows_the_longest_way_to_the_loss() -> None:
    """docs/architecture.md names the chain of imports from the command line to the loss, and no
    import goes round in a circle."""
    way = longest_path(import_graph(), FIRST, LAST)
    assert "\n".join(way) in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")


def test_every_room_of_the_orchestrator_is_in_the_floor_plan() -> None:
    """No room is left out, and no module stands in the hall but the two doors."""
    hall = ROOT / "orchestrator"
    assert {file.parent.name for file in hall.glob("*/__init__.py")} == set(FLOOR_PLAN)
    assert {file.name for file in hall.glob("*.py")} == {"__init__.py", "__main__.py", "cli.py"}


def test_files_stay_readable() -> None:
    """No file over 500 lines, median at most 150."""
    lengths = sorted(len(file.read_text(encoding="utf-8").splitlines()) for file in FILES)
    assert lengths[-1] <= 500
    assert lengths[len(lengths) // 2] <= 150


def test_light_imports_do_not_load_torch() -> None:
    """A reward worker of pixels alone stays small and starts fast: it never imports torch."""
    assert "torch" not in loaded(["rewards.worker", "rewards.remote", "shapes.rewards"])


def test_record_and_report_load_neither_ray_nor_torch() -> None:
    """Also not by way of what they import: a report is written where neither is installed."""
    assert not loaded([*modules_of("record"), *modules_of("report")]) & {"ray", "torch"}


def test_the_driver_of_a_run_loads_no_torch() -> None:
    """It holds references and numbers. Its inputs are checked in a process of their own, so a run
    starts while these libraries are still being loaded there and in the workers."""
    commands = [f"orchestrator.commands.{name}" for name in ("train", "status", "config")]
    pipeline = [
        f"orchestrator.pipeline.{name}" for name in ("opening", "opening_replay", "training")
    ]
    assert not loaded([*commands, *pipeline]) & {"torch", "transformers", "deepspeed"}


def test_settings_and_pipeline_load_no_ray() -> None:
    """Those that start actors alone do: simulated workers can play the roles of all others."""
    names = ("opening", "opening_learners", "opening_replay", "opening_evaluation")
    openings = {f"orchestrator.pipeline.{name}" for name in names}
    pipeline = set(modules_of("pipeline")) - openings
    assert "ray" not in loaded([*modules_of("settings"), *sorted(pipeline)])


def modules_of(room: str) -> list[str]:
    """Every module of a room of the orchestrator."""
    files = (ROOT / "orchestrator" / room).rglob("*.py")
    return [".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files]


def loaded(modules: list[str]) -> set[str]:
    """The packages that a fresh process has loaded once it has imported ``modules``."""
    code = f"import sys, {', '.join(modules)}; print('LOADED', *sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return set(done.stdout.rpartition("LOADED")[2].split())
