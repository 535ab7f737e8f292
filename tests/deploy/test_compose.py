"""``deploy/compose``: against the schema of Compose, against the tools that read its files, and
against the other files of the repository. No container is started here."""

from __future__ import annotations

import json
import shutil
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from monitoring_tools import checked

FOLDER = Path(__file__).parents[2] / "deploy" / "compose"
COMPOSE = yaml.safe_load((FOLDER / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]


def mounts(service: str) -> dict[str, Path]:
    """File or folder on the host, by its place in the service's container."""
    return {
        volume["target"]: FOLDER / volume["source"]
        for volume in SERVICES[service]["volumes"]
        if volume["type"] == "bind" and "$" not in volume["source"]
    }


def in_container(service: str, folder: Path) -> Path:
    """``folder`` with the service's files at the places that they have in its container."""
    for target, source in mounts(service).items():
        place = folder / target.lstrip("/")
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source, place)
    return folder


def test_compose_accepts_the_file() -> None:
    """The file follows the schema that Compose publishes, which knows every key of it."""
    pytest.importorskip("check_jsonschema")
    schemas = files("check_jsonschema") / "builtin_schemas" / "vendor"
    schema = json.loads((schemas / "compose-spec.json").read_text(encoding="utf-8"))
    validator = jsonschema.Draft202012Validator(schema)
    validator.validate(COMPOSE)
    with pytest.raises(jsonschema.ValidationError, match="'unknown'"):
        validator.validate(COMPOSE | {"services": {"grafana": {"unknown": 1}}})


def test_images_have_versions() -> None:
    """Each image is pinned to one release, so that two users get the same programs."""
    images = {service["image"] for service in SERVICES.values()}
    assert images == {
        "prom/prometheus:v3.5.0", "prom/alertmanager:v0.28.1", "prom/node-exporter:v1.9.1",
        "grafana/grafana:12.1.0",
    }  # fmt: skip


def test_mounted_files_exist() -> None:
    """Compose would make an empty folder in the place of a file that is missing."""
    missing = [str(p) for name in SERVICES for p in mounts(name).values() if not p.exists()]
    assert not missing
    named = {v["source"] for s in SERVICES.values() for v in s["volumes"] if v["type"] == "volume"}
    assert named == set(COMPOSE["volumes"])


def test_nothing_listens_beyond_loopback() -> None:
    """The services share the host's network, publish no port, and each is told to listen on
    127.0.0.1 alone."""
    for service in SERVICES.values():
        assert service["network_mode"] == "host"
        assert "ports" not in service
    assert "--web.listen-address=127.0.0.1:9090" in SERVICES["prometheus"]["command"]
    assert "--web.listen-address=127.0.0.1:9093" in SERVICES["alertmanager"]["command"]
    assert "--cluster.listen-address=" in SERVICES["alertmanager"]["command"]
    assert "--web.listen-address=127.0.0.1:9100" in SERVICES["node-exporter"]["command"]
    assert SERVICES["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"


def test_prometheus_accepts_its_configuration(tmp_path: Path) -> None:
    """promtool reads the configuration together with the rules that it names."""
    place = in_container("prometheus", tmp_path) / "etc/prometheus/prometheus.yml"
    out = checked("promtool", "check", "config", place)
    assert "SUCCESS: 1 rule files found" in out


def test_alertmanager_accepts_its_configuration(tmp_path: Path) -> None:
    """amtool reads the configuration, and Prometheus sends its alerts to that Alertmanager."""
    place = in_container("alertmanager", tmp_path) / "etc/alertmanager/alertmanager.yml"
    assert "SUCCESS" in checked("amtool", "check-config", place)
    prometheus = yaml.safe_load((FOLDER / "prometheus.yml").read_text())
    (manager,) = prometheus["alerting"]["alertmanagers"]
    assert manager == {"static_configs": [{"targets": ["127.0.0.1:9093"]}]}


def test_grafana_finds_data_source_and_dashboard(tmp_path: Path) -> None:
    """The provisioning files name Prometheus' address and the folder that holds the dashboard."""
    root = in_container("grafana", tmp_path)
    provisioning = root / "etc/grafana/provisioning"
    (source,) = read(provisioning / "datasources/eg-grpo.yaml")["datasources"]
    assert source["type"] == "prometheus"
    assert source["url"] == "http://127.0.0.1:9090"
    assert source["isDefault"] is True
    (provider,) = read(provisioning / "dashboards/eg-grpo.yaml")["providers"]
    folder = provider["options"]["path"]
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{folder}/eg-grpo.json"
    assert json.loads((root / home.lstrip("/")).read_text())["uid"] == "eg-grpo"


def read(file: Path) -> Any:
    return yaml.safe_load(file.read_text())
