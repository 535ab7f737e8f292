"""The kept steps of a run folder: whole ones alone count, and old ones go."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator.record.kept_trajectories import KeptGroup, KeptStep, KeptTrajectories
from orchestrator.record.run_folder import RunFolder
from policy.errors import UserError
from policy.types import NumeracyItem, Prompt, RewardFailure, Score, SpatialInfo
from rewards.scored_group import ScoredGroup

PROMPT = Prompt(
    id="p", text="a cat 🐈", task_type="spatial", nouns=("cat",),
    spatial_info=SpatialInfo("cat", "dog", "near"), numeracy_info=(NumeracyItem("cat", 1),),
)  # fmt: skip
SCORED = ScoredGroup(
    PROMPT,
    (0.1 + 0.2, None),
    {
        "z": (Score(0.1, {"b": 1 / 3, "a": 1e300}), RewardFailure("no answer", transient=True)),
        "a": (Score(0.2, applicable=False), Score(-0.0)),
    },
)


def keep(kept: KeptTrajectories, step: int) -> KeptStep:
    """Write one step of one group, whose file holds nothing of use."""
    (file,) = kept.begin(step, 1)
    file.write_text("group")
    whole = KeptStep(step, (KeptGroup(file.name, "abc", (1 / 3, None), SCORED),), (SCORED,))
    kept.finish(whole)
    return whole


def finished_checkpoint(folder: RunFolder, step: int) -> Path:
    """A checkpoint without content, as far as the folder looks into it."""
    written = folder.checkpoints.begin(step)
    written.mkdir()
    (written / "manifest.json").write_text("{}")
    return folder.checkpoints.finish(step, written)


def names(kept: KeptTrajectories) -> list[str]:
    return sorted(path.name for path in kept.folder.iterdir())


def test_the_numbers_of_a_step_come_back_exactly(tmp_path: Path) -> None:
    """Floats to the bit, failures as failures, and rewards and details in their order."""
    kept = KeptTrajectories(tmp_path)
    whole = keep(kept, 12)
    read = kept.read(12)
    assert read == whole
    assert kept.path(12) == tmp_path / "trajectories" / "step-000012"
    assert list(read.dropped[0].results) == ["z", "a"]
    first = read.groups[0].scored.results["z"][0]
    assert isinstance(first, Score)
    assert list(first.detail or {}) == ["b", "a"]


def test_a_step_that_is_not_whole_does_not_count(tmp_path: Path) -> None:
    """It has no ``step.json``. The next attempt at it begins with an empty folder."""
    kept = KeptTrajectories(tmp_path)
    keep(kept, 1)
    for file in kept.begin(2, 3):
        file.write_text("group")
    (kept.path(2) / ".group-002.safetensors.4711").write_text("half")
    assert kept.steps() == [1]
    assert kept.begin(2, 1) == [kept.path(2) / "group-000.safetensors"]
    assert list(kept.path(2).iterdir()) == []


def test_steps_are_deleted_by_number_and_files_of_the_user_stay(tmp_path: Path) -> None:
    """Step 1000000 comes after step 999999. What a run did not write, a run does not delete."""
    kept = KeptTrajectories(tmp_path)
    for step in (998, 999_999, 1_000_000):
        keep(kept, step)
    (kept.path(998) / "notes.txt").write_text("mine")
    (kept.folder / "step-000001-copy").mkdir()
    kept.delete_until(998)
    assert kept.steps() == [999_999, 1_000_000]
    assert [file.name for file in kept.path(998).iterdir()] == ["notes.txt"]
    kept.delete_after(999_999)
    assert names(kept) == ["step-000001-copy", "step-000998", "step-999999"]


def test_a_run_that_goes_on_deletes_the_steps_that_it_makes_again(tmp_path: Path) -> None:
    """Those after its checkpoint, and all without one; a folder without any is no error."""
    folder = RunFolder(tmp_path / "run")
    finished_checkpoint(folder, 2)
    folder.fall_back(2)
    for step in (1, 2, 3):
        keep(folder.trajectories, step)
    folder.fall_back(2)
    assert folder.trajectories.steps() == [1, 2]
    folder.fall_back(0)
    assert folder.trajectories.steps() == []
    folder.close()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("{", "not JSON"),
        ("[]", "is damaged: "),
        ('{"step": 3, "groups": [], "dropped": [], "format": 2}', "is damaged: format: "),
        ('{"step": 3, "groups": [{"file": "a"}], "dropped": []}', "is damaged: groups.0.sha256: "),
        ('{"step": 4, "groups": [], "dropped": []}', "is damaged: it is of step 4"),
    ],
)
def test_a_damaged_record_is_named(tmp_path: Path, text: str, reason: str) -> None:
    """One line with the file and the place in it."""
    kept = KeptTrajectories(tmp_path)
    keep(kept, 3)
    (kept.path(3) / "step.json").write_text(text)
    with pytest.raises(UserError) as caught:
        kept.read(3)
    assert str(kept.path(3) / "step.json") in str(caught.value)
    assert reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_checkpoint_before_the_kept_steps_is_kept_too(tmp_path: Path) -> None:
    """A run that keeps three steps and saves every second one: at each step but the first ones
    there is a checkpoint from which on every step is kept. While step 1 is kept, the first model is
    such a beginning, and no checkpoint is spared for it."""
    folder = RunFolder(tmp_path / "run")
    spared = {}
    for step in range(1, 9):
        keep(folder.trajectories, step)
        folder.trajectories.delete_until(step - 3)
        if step % 2 == 0:
            finished_checkpoint(folder, step)
            folder.checkpoints.keep_only({step})
        before = folder.checkpoints.before_kept()
        spared[step] = (before and before.name, [p.name for p in folder.checkpoints.whole()])
    assert spared == {
        1: (None, []),
        2: (None, ["step-2"]),
        3: (None, ["step-2"]),
        4: ("step-2", ["step-2", "step-4"]),
        5: ("step-2", ["step-2", "step-4"]),
        6: ("step-4", ["step-4", "step-6"]),
        7: ("step-4", ["step-4", "step-6"]),
        8: ("step-6", ["step-6", "step-8"]),
    }
    folder.close()


def test_rollout_alone_goes_on_after_what_it_has_kept(tmp_path: Path) -> None:
    """It has no checkpoint. Its last step is the last one with both a row and trajectories, of
    which the oldest are deleted in time. A run that trains begins again."""
    folder = RunFolder(tmp_path / "run")
    assert folder.resume_point(rollout_alone=True) == (0, None)
    for step in (2, 3, 4):
        keep(folder.trajectories, step)
    assert folder.resume_point(rollout_alone=True) == (0, None)
    for step in (1, 2, 3):  # the run was killed before step 4 had its row
        folder.append("metrics.jsonl", {"step": step})
    assert folder.resume_point(rollout_alone=True) == (3, None)
    assert folder.resume_point(rollout_alone=False) == (0, None)
    folder.close()
