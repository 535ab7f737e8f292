"""Factors of low rank: merged into the base of the receiver, each push anew, or refused whole."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from policy.low_rank import Receiver, merge
from policy.weights import WeightBuckets, checksum, pack

BASE = [[1.0, 0.0], [0.0, 4.0]]


def factors(
    up: list[list[float]], scale: float = 0.5, down: list[list[float]] | None = None
) -> WeightBuckets:
    """A = [[1, 0]] unless given, for the parameter ``w``."""
    return pack(
        [
            ("lora_scale", torch.tensor(scale, dtype=torch.float64)),
            ("w.lora_A", torch.tensor(down or [[1.0, 0.0]])),
            ("w.lora_B", torch.tensor(up)),
        ]
    )


def parameters() -> dict[str, Tensor]:
    return {"w": torch.tensor(BASE), "other": torch.tensor([7.0])}


@pytest.mark.parametrize(
    ("scale", "expected"), [(0.5, [[2.0, 0.0], [-3.0, 4.0]]), (0.0, [[1.0, 0.0], [0.0, 4.0]])]
)
def test_merging_is_the_base_plus_the_scaled_product(
    scale: float, expected: list[list[float]]
) -> None:
    """W = [[1, 0], [0, 4]], A = [[1, 0]], B = [[2], [-6]]; what goes in stays as it was."""
    base, up = torch.tensor(BASE), torch.tensor([[2.0], [-6.0]])
    assert merge(base, torch.tensor([[1.0, 0.0]]), up, scale).tolist() == expected
    assert base.tolist() == BASE


def test_each_push_starts_from_the_base() -> None:
    """The second merge knows nothing of the first, B = 0 gives the base back, parameters without
    factors stay, and the answer is the checksum of what was sent."""
    receiver, live = Receiver(), parameters()
    for up, expected in (
        ([[2.0], [-6.0]], [[2.0, 0.0], [-3.0, 4.0]]),
        ([[4.0], [0.0]], [[3.0, 0.0], [0.0, 4.0]]),
        ([[0.0], [0.0]], BASE),
    ):
        weights = factors(up)
        assert receiver.load(live.items(), weights) == checksum(weights)
        assert live["w"].tolist() == expected
    assert live["other"].tolist() == [7.0]


def test_a_parameter_that_may_move_leaves_its_memory_to_the_base(tmp_path: Path) -> None:
    """The parameter gets memory of its own. Each merge starts from the pages of the file, which
    stay as they are and are not copied."""
    save_file({"w": torch.tensor(BASE)}, tmp_path / "weights.safetensors")
    with safe_open(tmp_path / "weights.safetensors", framework="pt") as stored:
        live = {"w": torch.nn.Parameter(stored.get_tensor("w"))}
    mapped = live["w"].data_ptr()
    receiver = Receiver(movable=True)
    for up, expected in (
        ([[2.0], [-6.0]], [[2.0, 0.0], [-3.0, 4.0]]),
        ([[4.0], [0.0]], [[3.0, 0.0], [0.0, 4.0]]),
    ):
        receiver.load(live.items(), factors(up))
        assert live["w"].tolist() == expected
        assert live["w"].data_ptr() != mapped
        assert receiver._base["w"].data_ptr() == mapped
        assert receiver._base["w"].tolist() == BASE


def test_full_tensors_are_the_next_base() -> None:
    """After a push of full tensors, factors are merged into those."""
    receiver, live = Receiver(), parameters()
    receiver.load(live.items(), factors([[2.0], [-6.0]]))
    full = pack([("w", torch.zeros(2, 2)), ("other", torch.tensor([8.0]))])
    assert receiver.load(live.items(), full) == checksum(full)
    receiver.load(live.items(), factors([[2.0], [-6.0]]))
    assert live["w"].tolist() == [[1.0, 0.0], [-3.0, 0.0]]
    assert live["other"].tolist() == [8.0]


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (pack([("lora_scale", torch.tensor(1.0)), ("x.lora_A", torch.ones(1, 2))]), "x.lora_A is"),
        (
            pack([("lora_scale", torch.tensor(1.0)), ("w.lora_A", torch.ones(1, 2))]),
            r"w\.lora_B is missing",
        ),
        (factors([[1.0]]), r"w\.lora_B has shape \(1, 1\), not \(2, 1\)"),
        (factors([[1.0], [1.0]], down=[[1.0]]), r"w\.lora_A has shape \(1, 1\), not \(1, 2\)"),
    ],
    ids=["unknown", "missing", "B misshapen", "A misshapen"],
)
def test_wrong_factors_change_nothing(weights: WeightBuckets, message: str) -> None:
    """The message names the factor."""
    live = parameters()
    with pytest.raises(ValueError, match=message):
        Receiver().load(live.items(), weights)
    assert live["w"].tolist() == BASE
