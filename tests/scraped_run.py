"""A short real run that a real Prometheus scrapes, with Ray and a node_exporter, for tests that ask
what came of it."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from command_line import ROOT

STEPS, SCRAPED = 6, 3
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
SETTINGS = (
    f"steps={STEPS}",
    *("prompts_per_step=4", "rollout.group_size=4", "rollout.max_cot_tokens=12"),
    *("evaluation.prompts=2", "evaluation.samples_per_prompt=2", "evaluation.every=1"),
    # Metrics that not every run has: of a budget rule, of the cap, of the cache, of failed scores.
    *("algorithm.bonus=budget", "algorithm.importance_cap=2", "cache.training=true"),
    'rewards=[{"name":"light","factory":"tests.faulty_rewards:Particular","cpus_per_worker":0.5}]',
)
_STARTS_S = 60.0
_RUNS_S = 400.0
_MARKED_S = 2.0  # two scrapes


def needs(program: str) -> str:
    """The path of a program of Prometheus' project. Without it the test is skipped, and fails where
    continuous integration must have it."""
    found = shutil.which(program)
    if found is None:
        text = f"{program} is not installed: tools/install-debian.sh"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(text)
    return found


class Prometheus:
    """A Prometheus that runs, and its answers."""

    def __init__(self, address: str) -> None:
        self.url = f"http://{address}"

    def query(self, expression: str, at: float) -> list[dict[str, Any]]:
        """The series of an instant query at a Unix time; each has ``metric`` and ``value``."""
        asked = urllib.parse.urlencode({"query": expression, "time": at})
        with urllib.request.urlopen(f"{self.url}/api/v1/query?{asked}", timeout=30) as answer:
            found = json.load(answer)
        series: list[dict[str, Any]] = found["data"]["result"]
        return series


@dataclass(frozen=True)
class ScrapedRun:
    """The run has ended. Prometheus goes on, and answers for the time at which the run went on."""

    folder: Path
    prometheus: Prometheus
    at: float  # a Unix time at which Prometheus had scraped ``SCRAPED`` steps or more

    def query(self, expression: str) -> list[dict[str, Any]]:
        """The series of an instant query at a time of the run."""
        return self.prometheus.query(expression, self.at)


@pytest.fixture(scope="module")
def scraped_run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ScrapedRun]:
    """Import this fixture by name. It takes half a minute, once for each file of tests."""
    root = tmp_path_factory.mktemp("scraped")
    programs = needs("prometheus"), needs("prometheus-node-exporter")
    with (
        started_node_exporter(programs[1], root) as node_exporter,
        started_prometheus(programs[0], root, node_exporter) as prometheus,
        tempfile.TemporaryDirectory(prefix="r", dir="/tmp") as ray,  # short: sockets are in it
        (root / "run.err").open("w+") as err,
    ):
        run = subprocess.Popen(
            [
                *(sys.executable, "-m", "orchestrator", "train", "configs/shapes.yaml"),
                *(f"root={root}", "name=scraped", *SETTINGS),
            ],
            cwd=ROOT, stdout=subprocess.DEVNULL, stderr=err, env=os.environ | {"RAY_TMPDIR": ray},
        )  # fmt: skip
        try:
            _name_ray(Path(ray), root, run)
            at = _scraped(prometheus, run)
            run.wait(_RUNS_S)
        finally:
            run.kill()
            run.wait()
        err.seek(0)
        assert run.returncode == 0, err.read()[-3000:]
        assert at is not None, "the run ended before Prometheus had scraped its last steps"
        yield ScrapedRun(root / "scraped", prometheus, at)


def _name_ray(ray: Path, root: Path, run: subprocess.Popen[bytes]) -> None:
    """Write the address of Ray's endpoint where Prometheus looks for it.

    Ray's dashboard writes such a file, and a private cluster has no dashboard. The agent that
    serves the metrics is there all the same, and writes its port to a file of the session.
    """
    deadline = time.monotonic() + _RUNS_S
    while run.poll() is None and time.monotonic() < deadline:
        for file in ray.glob("ray/session_2*/metrics_export_port_*"):
            if port := file.read_text(encoding="utf-8"):
                content = [{"targets": [f"127.0.0.1:{port}"]}]
                (root / "ray.json").write_text(json.dumps(content), encoding="utf-8")
                return
        time.sleep(0.2)
    assert run.poll() is not None, f"Ray wrote no port of its metrics within {_RUNS_S:g} s"


def _scraped(prometheus: Prometheus, run: subprocess.Popen[bytes]) -> float | None:
    """A late moment at which enough steps were scraped as done; None if there was none.

    It is late, so that the rules have been evaluated with these steps too. It is not the last one:
    when the run has closed its endpoint, Prometheus marks all series as over, and it does so for
    the time at which it had begun to ask.
    """
    deadline, moments = time.monotonic() + _RUNS_S, list[float]()
    while run.poll() is None and time.monotonic() < deadline:
        now = time.time()
        found = prometheus.query("eg_grpo_step", now)
        if found and float(found[0]["value"][1]) >= SCRAPED:
            moments.append(now)
        elif moments:
            break
        time.sleep(0.2)
    early = [moment for moment in moments if moment <= moments[-1] - _MARKED_S]
    return early[-1] if early else None


@contextmanager
def started_prometheus(program: str, root: Path, node_exporter: str) -> Iterator[Prometheus]:
    """A Prometheus on a free port of loopback that scrapes every run below ``root`` each second,
    and what ``ray.json`` there names, and the address of a node_exporter."""
    targets = root / ".prometheus"
    targets.mkdir(exist_ok=True)  # it looks for new files in folders that are there at its start
    config = {
        "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
        "rule_files": [str(RULES)] if RULES.is_file() else [],
        "scrape_configs": [
            {
                "job_name": "eg-grpo",
                "honor_labels": True,
                "file_sd_configs": [{"files": [f"{targets}/*.json"], "refresh_interval": "1s"}],
            },
            {
                "job_name": "ray",
                "scrape_interval": "3s",
                "file_sd_configs": [{"files": [f"{root}/ray.json"], "refresh_interval": "1s"}],
            },
            {"job_name": "node", "static_configs": [{"targets": [node_exporter]}]},
        ],
    }
    (root / "prometheus.yml").write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    command = [
        *(program, f"--config.file={root / 'prometheus.yml'}"),
        *(f"--storage.tsdb.path={root / 'data'}", "--web.listen-address=127.0.0.1:0"),
    ]
    ready = "Server is ready to receive web requests"
    with _started(command, root / "prometheus.log", ready) as address:
        yield Prometheus(address)


@contextmanager
def started_node_exporter(program: str, root: Path) -> Iterator[str]:
    """The address of a node_exporter on loopback that knows the CPUs and the memory."""
    command = [
        *(program, "--collector.disable-defaults", "--collector.cpu", "--collector.meminfo"),
        "--web.listen-address=127.0.0.1:0",
    ]
    with _started(command, root / "node_exporter.log") as address:
        yield address


@contextmanager
def _started(command: Sequence[str], log: Path, ready: str = "") -> Iterator[str]:
    """Where a server of Prometheus' project listens, once its log says so and has ``ready``."""
    with log.open("w") as stream:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=stream)
    try:
        yield _address(log, process, ready)
    finally:
        process.terminate()
        process.wait(_STARTS_S)


def _address(log: Path, process: subprocess.Popen[bytes], ready: str) -> str:
    deadline = time.monotonic() + _STARTS_S
    while process.poll() is None and time.monotonic() < deadline:
        text = log.read_text(encoding="utf-8")
        found = re.search(r'msg="?Listening on"? address=(\S+)', text)
        if found and ready in text:
            return found[1]
        time.sleep(0.1)
    raise AssertionError(log.read_text(encoding="utf-8")[-2000:])
