"""A checkpoint's weights are read once for a machine: its processes share the pages of the file."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from policy.checkpoint.random_checkpoint import random_config, write_random_checkpoint

# The memory that a process does not share with others, in bytes, after each thing that it does.
_PROGRAM = """
import json
import sys
from pathlib import Path

import torch

from policy.checkpoint.loading import load_policy
from policy.runtime import keep_freed_memory


def own() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


keep_freed_memory()
small, large = sys.argv[1:]
load_policy(small, torch.bfloat16)  # the libraries set themselves up
begin = own()
policy = load_policy(large, torch.bfloat16)
loaded = own() - begin
reference = policy.frozen_reference()
probe = reference.model.lm_head.weight[5].clone()
with torch.no_grad():
    for _, parameter in policy.trained_parameters():
        parameter.add_(1.0)
trained = own() - begin
total = sum(p.sum().item() for p in reference.parameters())  # reads all of them
read = own() - begin
assert torch.equal(reference.model.lm_head.weight[5], probe)
size = sum(p.nbytes for _, p in policy.trained_parameters())
print(json.dumps({"loaded": loaded / size, "trained": trained / size, "read": read / size}))
"""


@pytest.mark.parametrize("kind", ["transformers", "original"])
def test_loading_and_the_reference_copy_nothing(tmp_path: Path, kind: str) -> None:
    """Of a checkpoint of some 80 MB, in the type that it is used in: after loading, less than a
    fifth of the trained weights is in memory of the process's own. A policy in training and its
    reference have one copy of their own together, not two: the reference stays in the file's
    pages."""
    folders = []
    for name, inner in (("small", 64), ("large", 100_000)):
        config = random_config("tiny")
        config["language_config"]["intermediate_size"] = inner
        folders.append(tmp_path / name)
        folders[-1].mkdir()
        write_random_checkpoint(folders[-1], config, kind)  # type: ignore[arg-type]
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM, *map(str, folders)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["loaded"] < 0.2
    assert 0.9 < found["trained"] < 1.2
    assert found["read"] < 1.2
