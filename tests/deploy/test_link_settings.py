"""The settings of Ray with which a run outlives that a link is cut are the same in all files."""

from __future__ import annotations

import re

import pytest
import yaml

from tests.multihost.hosts import LINK_SETTINGS, ROOT


@pytest.mark.parametrize(
    "file", ["docs/running.md", "docs/cluster.md", "deploy/slurm/train.sbatch"]
)
def test_a_shell_exports_what_the_tests_of_a_cut_link_set(file: str) -> None:
    """Each setting is exported once, with the value of tests/multihost."""
    lines = re.findall(r"^export (.*)$", (ROOT / file).read_text(), re.MULTILINE)
    words = [word.partition("=") for line in lines for word in line.split()]
    found = [(name, value) for name, _, value in words if name.startswith(("RAY_he", "RAY_grpc"))]
    assert sorted(found) == sorted(LINK_SETTINGS.items())


@pytest.mark.parametrize("file", ["raycluster.yaml", "rayjob.yaml"])
def test_every_pod_of_ray_has_them(file: str) -> None:
    """The head and the workers of the three groups: in a connection both ends have settings."""
    spec = yaml.safe_load((ROOT / "deploy" / "kuberay" / file).read_text())["spec"]
    cluster = spec.get("rayClusterSpec", spec)
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    for group in groups:
        (container,) = group["template"]["spec"]["containers"]
        found = {variable["name"]: variable.get("value") for variable in container["env"]}
        assert {name: found.get(name) for name in LINK_SETTINGS} == LINK_SETTINGS
    assert len(groups) == 4
