"""The settings of Ray with which a run outlives that a link is cut are the same in all files.

With these a run outlives that a link is cut for 30 s. TCP sends again 51 s after the beginning of
such a cut. By then Ray's default of 5 failed checks is reached, and the host counts as dead. A
server drops a connection that is silent for 20 s, and its client asks only after 300 s.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest
import yaml

from tests.multihost.by_hand import EXPORTS
from tests.multihost.hosts import ROOT


def exported(lines: Iterable[str]) -> list[tuple[str, str]]:
    """The settings of Ray's connections that a shell exports."""
    found = [re.match(r"export (.*)$", line) for line in lines]
    words = [word.partition("=") for line in found if line for word in line[1].split()]
    return [(name, value) for name, _, value in words if name.startswith(("RAY_he", "RAY_grpc"))]


# Of docs/cluster.md, whose lines the tests of a cut link type.
LINK_SETTINGS = dict(exported(EXPORTS))


@pytest.mark.parametrize("file", ["docs/running.md", "deploy/slurm/train.sbatch"])
def test_a_shell_exports_what_the_tests_of_a_cut_link_set(file: str) -> None:
    """Each setting is exported once, with the value of tests/multihost."""
    assert len(LINK_SETTINGS) == 4
    found = exported((ROOT / file).read_text().splitlines())
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
