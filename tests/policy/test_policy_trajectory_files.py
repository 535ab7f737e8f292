"""A group in a file: what is read is what was written, and nothing else is ever read."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from image_groups import image_group
from safetensors import safe_open
from safetensors.numpy import save_file

from policy.errors import UserError
from policy.trajectory_files import read_group, write_group
from policy.types import Group, NumeracyItem, Prompt, SpatialInfo

PROMPT = Prompt(
    id="train:17", text='drei "Äpfel"\n\u2028 🍎', task_type="numeracy", nouns=("apple",),
    attr_nouns=("red apple",), spatial_info=SpatialInfo("apple", "pear", "left of"),
    numeracy_info=(NumeracyItem("apple", 3),),
)  # fmt: skip
ODD = np.array([-0.0, np.nan, -np.inf, 1e-45, 0.1], dtype=np.float32)


def odd_group() -> Group:
    """One trajectory without a CoT, and one with the floats that are easily lost."""
    empty, other = image_group(PROMPT, [0, 255]).trajectories
    turned = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(6, 4, 3).transpose(1, 0, 2)
    other = replace(
        other, seed=2**63 - 1, weight_version=7, cot_ids=np.arange(5, dtype=np.int32),
        cot_logprobs=ODD, image_ids=np.arange(10, dtype=np.int64)[::2], cot_text="a\ttab, käse 🧀",
        image=turned,
    )  # fmt: skip
    return Group(PROMPT, (empty, other))


def test_a_group_comes_back_to_the_bit(tmp_path: Path) -> None:
    """Every field with its type and its bits: empty CoTs, NaN, -0.0, a denormal number, arrays that
    are not contiguous, a type that is not the usual one, text beyond ASCII, seeds of 63 bits."""
    group = odd_group()
    write_group(tmp_path / "group", group)
    read = read_group(tmp_path / "group")
    assert read.prompt == group.prompt
    assert len(read.trajectories) == 2
    for ours, theirs in zip(group.trajectories, read.trajectories, strict=True):
        for field in fields(ours):
            was, now = getattr(ours, field.name), getattr(theirs, field.name)
            assert type(now) is type(was), field.name
            if isinstance(was, np.ndarray):
                assert (now.dtype, now.shape) == (was.dtype, was.shape), field.name
                assert now.tobytes() == was.tobytes(), field.name
            else:
                assert now == was, field.name
    assert [file.name for file in tmp_path.iterdir()] == ["group"]


def test_equal_groups_make_equal_files(tmp_path: Path) -> None:
    """So that the files of a resumed run can be compared with those of the undisturbed one."""
    for name in ("a", "b"):
        write_group(tmp_path / name, odd_group())
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_a_file_without_the_unconditional_record_is_read(tmp_path: Path) -> None:
    """As earlier versions wrote it: the record is empty there."""
    file = tmp_path / "group"
    write_group(file, odd_group())
    with safe_open(file, framework="numpy") as stored:
        metadata = stored.metadata()
        tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    kept = {n: t for n, t in tensors.items() if not n.endswith("image_logprobs_unconditional")}
    assert len(kept) == len(tensors) - 2
    save_file(kept, file, metadata)
    assert [len(t.image_logprobs_unconditional) for t in read_group(file).trajectories] == [0, 0]


@pytest.mark.parametrize("cut", [0, 7, 100, -1])
def test_a_file_that_was_cut_off_is_named(tmp_path: Path, cut: int) -> None:
    """After any number of bytes."""
    file = tmp_path / "group-000.safetensors"
    write_group(file, odd_group())
    file.write_bytes(file.read_bytes()[:cut])
    with pytest.raises(
        UserError, match=r"^trajectory file .*group-000\.safetensors is damaged, or"
    ):
        read_group(file)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"format": "pt"},
        {"group": "[]"},
        {"group": "{"},
        {"group": '{"prompt": {"id": "a", "text": "b", "task_type": "c"}, "trajectories": [{}]}'},
    ],
)
def test_a_foreign_file_is_named(tmp_path: Path, metadata: dict[str, str] | None) -> None:
    """A safetensors file of something else, such as a model."""
    file = tmp_path / "model.safetensors"
    save_file({"weight": np.zeros(3)}, file, metadata)
    with pytest.raises(UserError, match=r"^trajectory file .*model\.safetensors is damaged, or is"):
        read_group(file)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    """It is said to be missing, not to be damaged. A folder in its place is damage."""
    with pytest.raises(UserError, match=r"^trajectory file .*/nowhere is missing$"):
        read_group(tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"is damaged, or is none: "):
        read_group(tmp_path)
