"""What a host is said to lack, compared with the host of the driver."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from orchestrator.settings import host
from orchestrator.settings.host import Expected, Finding, examine_host, file_sizes, marked
from rewards.config import RewardConfig

MIB = 2**20


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder with two files, and one that a download left."""
    folder = tmp_path / "model"
    (folder / ".cache").mkdir(parents=True)
    (folder / ".cache" / "lock").write_text("")
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"12345")
    return folder


def expected(model: Path, **parts: object) -> Expected:
    whole = Expected(
        python=platform.python_version(),
        packages={"numpy": version("numpy")},
        model=model,
        model_files={"config.json": 2, "model.safetensors": 5},
        rewards=(),
        mark=None,
        store_bytes=100 * MIB,
        needed_bytes=100 * MIB,
    )
    return replace(whole, **parts)  # type: ignore[arg-type]


def lacks(what: Expected) -> list[Finding]:
    return [found for found in examine_host(what) if not found.ok]


def texts(found: Sequence[Finding]) -> list[tuple[str, str]]:
    return [(each.what, each.text) for each in found]


def test_a_host_that_has_all_lacks_nothing(model: Path) -> None:
    """The hidden files of a model do not count."""
    assert file_sizes(model) == {"config.json": 2, "model.safetensors": 5}
    reward = RewardConfig(name="attributes", factory="shapes.rewards:Attributes")
    with marked(model) as mark:
        found = examine_host(expected(model, rewards=[reward], mark=mark))
    assert [each.what for each in found if each.ok] == [
        "python", "packages", "object store", "model.path", "rewards.attributes", "root",
    ]  # fmt: skip
    assert len(found) == 6


def test_other_versions_are_named(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build for another device is the same version; another Python of one release is, too."""
    monkeypatch.setattr(platform, "python_version", lambda: "3.11.2")
    assert not lacks(expected(model, python="3.11.9", packages={"numpy": f"{version('numpy')}+x"}))
    found = lacks(expected(model, python="3.12.0", packages={"numpy": "0.1", "no-such": "2.0"}))
    assert texts(found) == [
        ("python", "3.11.2; the driver has 3.12.0"),
        ("packages", f"no-such is missing; numpy is {version('numpy')}, the driver has 0.1"),
    ]


def test_a_model_that_is_missing_or_another_is_named(model: Path) -> None:
    """By the names and sizes of its files."""
    nowhere = model / "nowhere"
    assert texts(lacks(expected(nowhere))) == [("model.path", f"{nowhere} is not there")]
    other = {"config.json": 3, "model.safetensors": 5, "tokenizer.json": 9}
    assert texts(lacks(expected(model, model_files=other))) == [
        ("model.path", f"{model} is not the driver's: other or no config.json, tokenizer.json")
    ]


def test_a_small_object_store_or_shared_memory_is_named(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is missing is rounded up to whole MiB."""
    short = expected(model, needed_bytes=100 * MIB + 1)
    assert texts(lacks(short)) == [
        ("object store", "100 MiB cannot hold what may be here, 101 MiB; start Ray there with a"
         " larger --object-store-memory"),
    ]  # fmt: skip
    monkeypatch.setattr(host, "SHARED_MEMORY", model / "no-such-folder")
    assert lacks(expected(model))[0].text.endswith(
        "has 0 MiB, 100 may be needed (in a container, raise --shm-size)"
    )


def test_a_reward_whose_module_is_missing_is_named(model: Path) -> None:
    """A reward that brings its own packages cannot be checked before they are installed."""
    reward = RewardConfig(name="mine", factory="no_such_module:Mine")
    (found,) = lacks(expected(model, rewards=[reward]))
    assert found.what == "rewards.mine"
    assert "no_such_module" in found.text
    later = RewardConfig(name="mine", factory="no_such_module:Mine", runtime_env={"pip": ["x"]})
    assert not lacks(expected(model, rewards=[later]))


def test_a_root_that_is_another_folder_is_named(model: Path) -> None:
    """The mark that the driver made is not there, as on a disk of the host's own."""
    (found,) = lacks(expected(model, mark=model / ".same-folder-1"))
    assert found.what == "root"
    assert found.text.startswith(f"{model} is not the driver's folder of this name; ")


def test_a_mark_leaves_nothing_behind(tmp_path: Path) -> None:
    """Neither the file nor a root that was not there before."""
    root = tmp_path / "a" / "runs"
    with marked(root) as mark:
        assert mark.parent == root
        assert mark.is_file()
    assert not root.exists()
    root.mkdir()
    with marked(root):
        pass
    assert list(root.iterdir()) == []


def test_a_gpu_that_ray_counts_and_torch_does_not_find_is_named(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process of the check sees no GPU by Ray's will, which must not count."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    for available, finds in ((False, 0), (True, 1)):
        monkeypatch.setattr("torch.cuda.is_available", lambda available=available: available)
        monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
        (found,) = lacks(expected(model, gpus=2.0))
        assert (found.what, found.text) == (
            "GPUs", f"Ray counts 2, torch {torch.__version__} finds {finds}",
        )  # fmt: skip
