"""A checkpoint goes on with another number of ranks, with exactly the saved state."""

from __future__ import annotations

import shutil
import socket
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from learner_state import full_state
from rank_processes import Scenario, run_ranks
from safetensors.torch import load_file

from benchmarks.published import published_weights
from learner import deepspeed_passes
from learner.shares import TrainingGroup, split_over_ranks
from policy.disk import NotWritten
from policy.types import Group
from policy.weights import unpack

LEARNER = dict(micro_batch_size=3, learning_rate=1e-3)


def at_version(batch, version):
    """The batch as if weights of this version had sampled it."""
    return [
        TrainingGroup(
            Group(
                item.group.prompt,
                tuple(replace(t, weight_version=version) for t in item.group.trajectories),
            ),
            item.advantages,
        )
        for item in batch
    ]


def update(rank, batch):
    return rank.update(split_over_ranks(at_version(batch, rank.weight_version), 1)[0])


def assert_same_state(found, expected):
    """Master weights, averages and steps are equal to the bit."""
    assert found.keys() == expected.keys()
    # The number of counters depends on how the optimizer groups the parameters.
    assert torch.equal(found["step"].unique(), expected["step"].unique())
    assert all(torch.equal(found[name], expected[name]) for name in found if name != "step")


def converted(rank, checkpoint, folder):
    """Load the checkpoint by way of the universal format, as another number of ranks would."""
    rank._model.write_universal_state(checkpoint / "state", folder)
    rank._model.load_universal_state(folder)
    rank.weight_version = 2
    return rank


def test_converted_counters_lie_where_their_parameters_do(monkeypatch, tmp_path):
    """DeepSpeed reads them to the CPU, and a fused update refuses them there. ``meta`` stands for
    the GPU. Each parameter has a counter of its own."""
    counter, parameters = torch.tensor(7.0), [torch.empty(2, device="meta") for _ in range(2)]
    state = {parameter: {"step": counter} for parameter in parameters}
    optimizer = SimpleNamespace(optimizer=SimpleNamespace(state=state))
    passes = object.__new__(deepspeed_passes.DeepSpeedPasses)
    passes._engine = SimpleNamespace(_config=SimpleNamespace(), optimizer=optimizer)
    monkeypatch.setattr(passes, "load_state", lambda folder: None)
    passes.load_universal_state(tmp_path)
    found = [state[parameter]["step"] for parameter in parameters]
    assert [step.device.type for step in found] == ["meta", "meta"]
    assert found[0] is not found[1]


@pytest.mark.parametrize(
    "kind",
    [
        dict(zero_stage=2),
        pytest.param(
            dict(zero_stage=3, dtype="bfloat16", lora={"rank": 4}), marks=pytest.mark.slow
        ),
        pytest.param(dict(zero_stage=1), marks=pytest.mark.slow),
        pytest.param(dict(zero_stage=1, dtype="bfloat16"), marks=pytest.mark.slow),
        pytest.param(dict(zero_stage=2, lora={"rank": 4}), marks=pytest.mark.slow),
        pytest.param(dict(zero_stage=2, offload_optimizer=True), marks=pytest.mark.slow),
        pytest.param(
            dict(zero_stage=3, offload_optimizer=True, offload_parameters=True),
            marks=pytest.mark.slow,
        ),
    ],
    ids=str,
)
def test_conversion_loses_no_bit(make_rank, batch, tmp_path, kind):
    """By way of the universal format, one rank resumes bitwise what it saved, and its next updates
    are bitwise those of the uninterrupted run. No character of a path is part of a pattern."""
    rank = make_rank(**LEARNER, **kind)
    for _ in range(2):
        update(rank, batch)
    saved = tmp_path / "c++ (1) [2]"
    rank.save(saved)
    expected = full_state(rank)
    rows = [update(rank, batch) for _ in range(2)]
    resumed = converted(make_rank(**LEARNER, **kind), saved, tmp_path / "universal [2]")
    assert_same_state(full_state(resumed), expected)
    assert [update(resumed, batch) for _ in range(2)] == rows
    assert published_weights(resumed)[0] == published_weights(rank)[0]


@pytest.mark.slow
def test_groups_of_parameters_keep_their_own_steps(make_rank, batch, tmp_path, monkeypatch):
    """At ZeRO 3 a model of more than 1e9 parameters a rank is updated in groups. Their step
    counters are tensors, and if they were one and the same, each update would count several."""

    def in_groups(*given):
        settings = usual(*given)
        settings["zero_optimization"]["sub_group_size"] = 2_000
        return settings

    usual = deepspeed_passes.deepspeed_settings
    monkeypatch.setattr(deepspeed_passes, "deepspeed_settings", in_groups)
    rank = make_rank(**LEARNER, zero_stage=3)
    for _ in range(2):
        update(rank, batch)
    rank.save(tmp_path / "step-2")
    assert len(full_state(rank)["step"]) > 1
    resumed = converted(make_rank(**LEARNER, zero_stage=3), tmp_path / "step-2", tmp_path / "u")
    assert [update(resumed, batch) for _ in range(2)] == [update(rank, batch) for _ in range(2)]
    assert_same_state(full_state(resumed), full_state(rank))


def test_a_conversion_that_cannot_be_written_is_one_line(make_rank, batch, tmp_path):
    """It names the folder, and says how much space is free."""
    rank = make_rank(**LEARNER, zero_stage=2)
    update(rank, batch)
    rank.save(tmp_path / "step-1")
    (tmp_path / "full").write_text("no folder")
    with pytest.raises(NotWritten, match=r"full/u/deepspeed cannot be written: .* MiB are free"):
        rank._model.write_universal_state(tmp_path / "step-1" / "state", tmp_path / "full" / "u")


KINDS = {
    "zero-0": dict(zero_stage=0),
    "zero-2-bfloat16": dict(zero_stage=2, dtype="bfloat16"),
    "zero-3-lora": dict(zero_stage=3, lora={"rank": 4}),
}


def another_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def assert_close(found, expected, kind):
    """Weights and metrics rows of another number of ranks: equal but for rounding."""
    (weights, row), (others, other_row) = found, expected
    coarse = kind.get("dtype") == "bfloat16"
    row.pop("probe", None)
    assert row == pytest.approx(other_row, rel=2e-2 if coarse else 1e-3, abs=1e-3)
    apart = sum((weights[n].float() - others[n].float()).square().sum() for n in others)
    size = sum(others[n].float().square().sum() for n in others)
    assert float((apart / size).sqrt()) < (1e-3 if coarse else 1e-5)


@pytest.mark.slow
def test_a_run_goes_on_with_more_ranks_and_with_fewer(make_rank, checkpoint, batch, tmp_path):
    """One rank's checkpoint on two, theirs on three and on one again. Each loads the saved state to
    the bit, and makes the update that the uninterrupted single rank makes, but for rounding. The
    verified checkpoint stays as it is, and nothing stays beside it."""
    uninterrupted, states = {}, {}
    for name, kind in KINDS.items():
        rank = make_rank(**LEARNER, **kind)
        for _ in range(2):
            update(rank, batch)
        rank.save(tmp_path / f"one-{name}")
        states[name] = full_state(rank)
        results = []
        for _ in range(2):
            row = update(rank, batch)
            weights = {n: tensor.clone() for n, tensor in unpack(published_weights(rank)[1])}
            results.append((weights, row))
        uninterrupted[name] = results

    def go_on(ranks, version, before):
        scenarios = [
            Scenario(
                f"{ranks}-{name}",
                [at_version(batch, version)],
                LEARNER | kind,
                resume=before(name),
            )
            for name, kind in KINDS.items()
        ]
        found = run_ranks(scenarios, checkpoint, tmp_path, another_port(), ranks)
        for name, kind in KINDS.items():
            weights, rows = found[f"{ranks}-{name}"]
            assert_close((weights, rows[0]), uninterrupted[name][version - 2], kind)
        assert not list(tmp_path.glob(".*"))

    go_on(2, 2, lambda name: tmp_path / f"one-{name}")
    for name, state in states.items():
        assert_same_state(load_file(tmp_path / f"2-{name}-loaded.safetensors"), state)
    two = {name: load_file(tmp_path / f"2-{name}-state.safetensors") for name in KINDS}
    go_on(3, 3, lambda name: tmp_path / f"2-{name}-checkpoint")
    for name, kind in KINDS.items():
        assert_same_state(load_file(tmp_path / f"3-{name}-loaded.safetensors"), two[name])
        rank = make_rank(**LEARNER, **kind)
        rank.load(tmp_path / f"2-{name}-checkpoint")
        assert_same_state(full_state(rank), two[name])
        row = update(rank, batch)
        assert_close((dict(unpack(published_weights(rank)[1])), row), uninterrupted[name][1], kind)


def test_what_a_killed_load_left_is_removed(make_rank, batch, tmp_path):
    """Also by a load with the ranks that wrote the checkpoint, which converts nothing."""
    rank = make_rank(**LEARNER)
    rank.save(tmp_path / "step-0")
    left = tmp_path / ".step-0.universal"
    shutil.copytree(tmp_path / "step-0" / "state", left)
    rank.load(tmp_path / "step-0")
    assert not left.exists()
