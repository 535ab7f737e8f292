"""Checkpoints: resumed training is the same training, and damaged files are refused unopened."""

from __future__ import annotations

import json
import os
import pickle
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from learner_settings import learner_settings

from benchmarks.published import published_weights
from learner.shares import TrainingGroup, split_over_ranks
from learner.step_checkpoint import Manifest, check_resumable, verified_manifest, write_manifest
from policy.checkpoint.generation_defaults import GenerationDefaults, load_defaults
from policy.checkpoint.loading import load_policy
from policy.errors import UserError
from policy.sampling import Sampling
from policy.types import Group
from policy.weights import unpack


def whole(batch, version=0):
    renewed = [
        TrainingGroup(
            Group(
                item.group.prompt,
                tuple(replace(t, weight_version=version) for t in item.group.trajectories),
            ),
            item.advantages,
        )
        for item in batch
    ]
    return split_over_ranks(renewed, 1)[0]


@pytest.fixture
def saved(make_rank, batch, tmp_path):
    rank = make_rank()
    rank.update(whole(batch))
    rank.save(tmp_path / "step-1")
    return tmp_path / "step-1"


@pytest.mark.parametrize(
    "settings",
    [
        dict(),
        pytest.param(dict(zero_stage=1), marks=pytest.mark.slow),
        pytest.param(dict(zero_stage=2), marks=pytest.mark.slow),
        pytest.param(dict(zero_stage=1, dtype="bfloat16"), marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_resumed_training_is_bitwise_the_uninterrupted_one(make_rank, batch, tmp_path, settings):
    """Two updates, checkpoint, two more: rows and weights equal those after a restart. No character
    of the path is part of a pattern."""
    rank = make_rank(warmup_steps=3, **settings)
    for version in range(2):
        rank.update(whole(batch, version))
    folder = tmp_path / "c++ (1) [2]"
    rank.save(folder)
    rows = [rank.update(whole(batch, version)) for version in (2, 3)]
    resumed = make_rank(warmup_steps=3, **settings)
    resumed.load(folder)
    assert resumed.weight_version == 2
    assert [resumed.update(whole(batch, version)) for version in (2, 3)] == rows
    assert published_weights(resumed)[0] == published_weights(rank)[0]


def test_the_model_folder_is_a_checkpoint_of_its_own(make_rank, batch, saved):
    """model/ loads as any Janus checkpoint, and holds the trained weights, frozen parts too. It
    says with which template and sampling it was trained."""
    exported = load_policy(saved / "model")
    resumed = make_rank()
    resumed.load(saved)
    trained = dict(unpack(published_weights(resumed)[1]))
    for name, tensor in exported.model.named_parameters():
        if name in trained:
            assert torch.equal(tensor, trained[name]), name
    assert (saved / "model" / "tokenizer.json").is_file()
    expected = GenerationDefaults.of("shapes", None, Sampling(1.0, 1.0, 64))
    assert load_defaults(saved / "model") == expected


def test_training_can_start_from_the_model_folder(saved, batch, free_port):
    """A warm start: version 0, and the KL reference is the exported policy."""
    from learner.rank import LearnerRank
    from learner.rank_settings import Place

    rank = LearnerRank(learner_settings(saved / "model"), Place(0, 1, "127.0.0.1", free_port))
    assert rank.update(whole(batch))["kl/mean"] == 0.0
    rank.close()


def test_a_base_that_transformers_would_not_save_gets_its_checkpoints(saved, free_port, tmp_path):
    """Its generation_config.json sets a temperature and does not sample: loaded with a warning at
    most, and refused by ``save_pretrained`` after all the training before."""
    from learner.rank import LearnerRank
    from learner.rank_settings import Place

    (saved / "model" / "generation_config.json").write_text('{"temperature": 0.7}')
    rank = LearnerRank(learner_settings(saved / "model"), Place(0, 1, "127.0.0.1", free_port))
    rank.save(tmp_path / "next")
    rank.close()
    written = json.loads((tmp_path / "next" / "model" / "generation_config.json").read_text())
    assert (written["pad_token_id"], written.get("temperature")) == (0, None)


def files_of(folder: Path) -> list[Path]:
    return sorted(file for file in folder.rglob("*") if file.is_file())


def test_every_changed_or_missing_file_is_named(saved):
    """One flipped byte or one absent file, whichever it is, and the error says which."""
    for file in files_of(saved):
        content = file.read_bytes()
        file.write_bytes(bytes([content[0] ^ 1]) + content[1:])
        with pytest.raises(UserError, match=f"{file}.*corrupt"):
            verified_manifest(saved)
        file.unlink()
        with pytest.raises(UserError, match=file.name):
            verified_manifest(saved)
        file.write_bytes(content)
    verified_manifest(saved)


def test_all_of_a_checkpoint_is_on_the_disk_before_it_counts(tmp_path, monkeypatch):
    """Files and folders are synced while there is no manifest, and its name is synced at the end.

    Older checkpoints are deleted when it is there, so power that fails must not empty it.
    """
    folder = tmp_path / "checkpoints" / "step-1"
    for name in ("model/weights", "state/of/optimizer"):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_text(name)
    synced = {False: set(), True: set()}  # by whether the manifest was there

    def fsync(descriptor: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
        synced[(folder / "manifest.json").is_file()].add(path)

    monkeypatch.setattr(os, "fsync", fsync)
    write_manifest(
        folder,
        Manifest(weight_version=1, world_size=1, zero_stage=0, dtype="float32", reference="a"),
    )
    everything = {folder.parent, folder, *folder.rglob("*")} - {folder / "manifest.json"}
    assert synced[False] == everything | {folder / ".manifest.json"}
    assert synced[True] == {folder}


class Trap:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def test_damaged_files_are_never_unpickled(make_rank, saved, tmp_path):
    """A pickle that came in behind the manifest's back is refused unread."""
    mark = tmp_path / "unpickled"
    state = next(file for file in files_of(saved / "state") if file.suffix == ".pt")
    state.write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(UserError, match=state.name):
        make_rank().load(saved)
    assert not mark.exists()
    pickle.loads(state.read_bytes())
    assert mark.exists()  # the trap works


@pytest.mark.parametrize("name", ["state/zero_pp_rank_9.pt", "model/a.json"])
def test_files_that_the_manifest_does_not_name_are_refused(make_rank, saved, tmp_path, name):
    """DeepSpeed finds its files by pattern: one that came later is refused unread, wherever
    something is loaded from; notes beside those folders are their owner's."""
    mark = tmp_path / "unpickled"
    (saved / "notes.txt").write_text("a good run")
    verified_manifest(saved)
    (saved / name).write_bytes(pickle.dumps(Trap(mark)))
    with pytest.raises(UserError, match=rf"{name} is not in the checkpoint's manifest\.json"):
        make_rank().load(saved)
    assert not mark.exists()
    verified_manifest(saved, others="leave")


def test_a_checkpoint_of_an_earlier_version_loads(make_rank, saved):
    """It has a random state for each rank in rng/, which its manifest names and nothing reads."""
    manifest = verified_manifest(saved)
    assert not (saved / "rng").exists()
    (saved / "rng").mkdir()
    (saved / "rng" / "rank-0.safetensors").write_bytes(b"anything")
    write_manifest(saved, manifest)
    resumed = make_rank()
    resumed.load(saved)
    assert resumed.weight_version == 1


def test_a_linked_folder_in_a_checkpoint_is_refused(saved, tmp_path):
    """What is in it would be loaded, and is not walked through."""
    (saved / "state" / "more").symlink_to(tmp_path)
    with pytest.raises(UserError, match=r"state/more is not in the checkpoint's manifest"):
        verified_manifest(saved)


def test_a_manifest_of_somebody_elses_in_the_model_is_a_file_like_others(saved):
    """Tokenizer folders may hold any .json; only the checkpoint's own name is not in it."""
    (saved / "model" / "manifest.json").write_text("{}")
    found = verified_manifest(saved, others="leave")
    write_manifest(saved, found)
    assert "model/manifest.json" in verified_manifest(saved).files


def test_an_unfinished_checkpoint_is_refused(make_rank, saved):
    (saved / "manifest.json").unlink()
    with pytest.raises(UserError, match=r"manifest\.json"):
        make_rank().load(saved)


def test_a_checkpoint_of_another_run_is_refused(make_rank, batch, saved, checkpoint):
    """Another ZeRO stage, data type or reference, but not another number of ranks."""
    with pytest.raises(UserError, match="zero_stage 0, not 1"):
        make_rank(zero_stage=1).load(saved)
    ours = Manifest(weight_version=0, world_size=2, zero_stage=2, dtype="float32", reference="a")
    for change, reason in (
        ({"dtype": "bfloat16"}, "dtype bfloat16, not float32"),
        ({"reference": "b"}, "another KL reference"),
    ):
        with pytest.raises(UserError, match=reason):
            check_resumable(saved, ours.model_copy(update=change), ours)
    check_resumable(saved, ours.model_copy(update={"world_size": 4}), ours)
