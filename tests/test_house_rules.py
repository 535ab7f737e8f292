"""The house rules that a reader relies on, held by a test."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from house import ROOMS, imported_packages

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
        ray_allowed = (
            place.name == "worker.py"
            or place.parts[0] == "orchestrator"
            or place == Path("orchestrator/workers/learner_group.py")
        )
        assert "ray" not in packages or ray_allowed, place
        assert "vllm" not in packages or place.match("rollout/vllm_*.py"), place
        # doctor only asks whether it imports
        deepspeed_allowed = place.parts[0] == "learner" or place.name == "doctor.py"
        assert "deepspeed" not in packages or deepspeed_allowed, place
        assert "peft" not in packages or place == Path("learner/adapter.py"), place
        redis_allowed = place in (Path("rewards/cache.py"), Path("orchestrator/ledger.py"))
        assert "redis" not in packages or redis_allowed, place


def test_files_stay_readable() -> None:
    """No file over 500 lines, median at most 150."""
    lengths = sorted(len(file.read_text(encoding="utf-8").splitlines()) for file in FILES)
    assert lengths[-1] <= 500
    assert lengths[len(lengths) // 2] <= 150


@pytest.mark.parametrize("module", ["rewards.worker", "rewards.remote", "shapes.rewards"])
def test_light_imports_do_not_load_torch(module: str) -> None:
    """A reward worker of pixels alone stays small and starts fast: it never imports torch."""
    code = f"import sys, {module}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
