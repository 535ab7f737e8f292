"""``eg-grpo replay`` says what is missing before anything starts."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.commands.learner_alone import _beginning, _check_learners_machine
from orchestrator.record.kept_trajectories import KeptStep, KeptTrajectories
from orchestrator.record.own_checkpoints import OwnCheckpoints
from orchestrator.settings.model_size import ModelSize
from orchestrator.settings.run_config import dump_config, load_config
from policy.checkpoint.loading import read_config
from policy.errors import UserError

SHAPES = Path(__file__).parents[3] / "configs" / "shapes.yaml"


def run_folder(path: Path, kept: range, checkpoints: tuple[int, ...]) -> Path:
    """A run with these kept steps and checkpoints, as far as the command looks into them."""
    (path / "checkpoints").mkdir(parents=True)
    for step in kept:
        KeptTrajectories(path).begin(step, 0)
        KeptTrajectories(path).finish(KeptStep(step, (), ()))
    for step in checkpoints:
        written = OwnCheckpoints(path).begin(step)
        written.mkdir()
        (written / "manifest.json").write_text("{}")
        OwnCheckpoints(path).finish(step, written)
    return path


def test_a_replay_needs_no_gpu_for_workers_that_it_does_not_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The run could have had four rollout workers with a GPU each. This machine has none."""
    monkeypatch.chdir(SHAPES.parent.parent)
    on_gpus = ["rollout.device=cuda", "rollout.gpus_per_worker=1", "rollout.max_workers=4"]
    size = ModelSize.of(read_config(Path("shapes/checkpoint")))
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    _check_learners_machine(load_config(SHAPES, on_gpus), size)


@pytest.mark.parametrize(
    ("kept", "start", "last", "checkpoint", "steps"),
    [
        (range(1, 5), None, 80, None, range(1, 5)),
        (range(1, 5), None, 3, None, range(1, 4)),
        (range(1, 5), "step-2", 80, "step-2", range(3, 5)),
        (range(3, 7), None, 80, "step-2", range(3, 7)),
        (range(4, 7), None, 80, "step-4", range(5, 7)),
        (range(3, 7), "step-4", 80, "step-4", range(5, 7)),
    ],
)
def test_where_a_replay_begins(
    tmp_path: Path, kept: range, start: str | None, last: int, checkpoint: str | None, steps: range
) -> None:
    """With the first model if it can, else with the first checkpoint from which on every step is
    kept; else where the flag says."""
    run = run_folder(tmp_path / "run", kept, (2, 4))
    found, found_steps = _beginning(run, start, last)
    assert (found and found.name, found_steps) == (checkpoint, steps)


@pytest.mark.parametrize(
    ("own", "checkpoint", "steps"),
    [
        (None, "run/checkpoints/step-2", range(3, 7)),
        (5, "run-replay/checkpoints/step-5", range(6, 7)),
        (6, "run-replay/checkpoints/step-6", range(7, 7)),
    ],
)
def test_a_replay_goes_on_from_its_own_checkpoint(
    tmp_path: Path, own: int | None, checkpoint: str, steps: range
) -> None:
    """If it has one. With all steps done there is none left."""
    run = run_folder(tmp_path / "run", range(3, 7), (2, 4))
    of_replay = run_folder(tmp_path / "run-replay", range(0), (own,) if own else ())
    last = OwnCheckpoints(of_replay).last()
    assert _beginning(run, None, 80, last) == (tmp_path / checkpoint, steps)


@pytest.mark.parametrize(
    ("kept", "start", "message"),
    [
        (range(0), None, r"has kept no trajectories \(trajectories\.keep_steps\)$"),
        (range(1, 5), "step-3", r"^--from: .* has no checkpoint step-3, only step-2, step-4$"),
        (range(6, 8), None, r"keeps steps 6 to 7, but no checkpoint .*: it has step-2, step-4$"),
        (range(2, 5), "step-4", r"keeps no trajectories of a step from 5 to 80$"),
        (range(1, 5), "step-4", r"keeps no trajectories of a step from 5 to 80$"),
        (range(4, 7), "step-2", r"keeps no trajectories of step 3$"),
    ],
)
def test_what_is_missing_is_said(
    tmp_path: Path, kept: range, start: str | None, message: str
) -> None:
    """A replay never leaves a step out in silence."""
    run = run_folder(tmp_path / "run", kept, (2, 4))
    with pytest.raises(UserError, match=message):
        _beginning(run, start, 80)


def test_the_command_ends_with_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No run there, nothing kept, a name that leaves no room for a number, a run that would replay
    itself: exit code 2. ``train`` with the same settings is the same."""
    monkeypatch.chdir(SHAPES.parents[1])
    assert main(["replay", str(tmp_path / "none")]) == 2
    assert "none/config.yaml does not exist" in capsys.readouterr().err
    run = run_folder(tmp_path / "run", range(0), ())
    (run / "config.yaml").write_text(dump_config(load_config(SHAPES, [])))
    assert main(["replay", str(run)]) == 2
    assert capsys.readouterr().err == (
        f"eg-grpo: {run} has kept no trajectories (trajectories.keep_steps)\n"
    )
    assert main(["replay", str(run), f"name={'x' * 95}"]) == 2
    assert "name: a replay may add a number to it" in capsys.readouterr().err
    alone = ["train", str(run / "config.yaml"), "stages=learner", f"root={tmp_path}"]
    assert main(alone) == 2
    assert "trajectories.replay: with stages: learner, give the folder" in capsys.readouterr().err
    replay = f"trajectories.replay={run}"
    assert main([*alone, replay, "name=other"]) == 2
    assert "has kept no trajectories (trajectories.keep_steps)" in capsys.readouterr().err
    assert main([*alone, replay, "name=run", "--resume"]) == 2
    assert f"name: {run} is the run that is replayed; give another" in capsys.readouterr().err
