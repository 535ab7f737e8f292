"""The manifests of ``deploy/kuberay``: against the schemas of Kubernetes and KubeRay, against each
other, and their commands and settings against the project itself."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import redis
import yaml

from orchestrator.commands.parser import make_parser
from orchestrator.pipeline.ledger_server import server_binary
from orchestrator.settings.run_config import RunConfig, load_config

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "kuberay"
KUBERNETES = "1.34"
IMAGE_FOLDER = "/opt/eg-grpo"  # the checkout in the image

Object = dict[str, Any]


def schemas() -> Path | None:
    """KubeRay's resource definitions, which are not part of the repository."""
    places = (parent / "shared" / "data" / "kuberay" for parent in ROOT.parents)
    return next((place for place in places if place.is_dir()), None)


def test_kubernetes_accepts_every_manifest() -> None:
    """All objects but those of KubeRay and of Prometheus' operator follow Kubernetes' schemas, with
    no key that it does not know. So do the pods that KubeRay is to make."""
    kubernetes_validate = pytest.importorskip("kubernetes_validate")
    for found in objects():
        if not found["apiVersion"].startswith(("ray.io/", "monitoring.coreos.com/")):
            kubernetes_validate.validate(found, KUBERNETES, strict=True)
    for template in pod_templates():
        pod = {"apiVersion": "v1", "kind": "Pod", **template}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


@pytest.mark.skipif(schemas() is None, reason="KubeRay's resource definitions are not here")
@pytest.mark.parametrize("kind", ["RayCluster", "RayJob"])
def test_kuberay_accepts(kind: str) -> None:
    """The object follows KubeRay's resource definition, with no key that it does not know."""
    folder = schemas()
    assert folder is not None
    text = (folder / f"ray.io_{kind.lower()}s.yaml").read_text()
    definition = yaml.load(text, Loader=yaml.CSafeLoader)  # a large file: the other loader is slow
    versions = definition["spec"]["versions"]
    (schema,) = (v["schema"]["openAPIV3Schema"] for v in versions if v["name"] == "v1")
    validator = jsonschema.Draft202012Validator(strict(schema))
    found = the(kind)
    validator.validate(found)
    with pytest.raises(jsonschema.ValidationError, match="'unknown' was unexpected"):
        validator.validate(found | {"spec": found["spec"] | {"unknown": 1}})


def test_a_run_of_its_own_has_the_same_cluster() -> None:
    """The cluster of the RayJob is the RayCluster, whose Ray is the version of the constraints."""
    cluster = the("RayCluster")["spec"]
    assert the("RayJob")["spec"]["rayClusterSpec"] == cluster
    assert f"\nray=={cluster['rayVersion']}\n" in (ROOT / "constraints.txt").read_text()
    assert {image for template in pod_templates() for image in images(template)} == {
        "registry.example/eg-grpo:gpu",
        "redis:8.2.3-bookworm",
    }


def test_the_command_begins_or_resumes_the_run_of_the_configmap() -> None:
    """The entrypoint is a command of this project. It names the file that the ConfigMap puts onto
    the head, and says ``--resume``, so that every attempt goes on from the last checkpoint."""
    words = shlex.split(the("RayJob")["spec"]["entrypoint"])
    parsed = make_parser().parse_args(words[1:])
    assert (words[0], parsed.command, parsed.resume) == ("eg-grpo", "train", True)
    assert str(parsed.config) == "/etc/eg-grpo/run.yaml"
    head = the("RayCluster")["spec"]["headGroupSpec"]["template"]["spec"]
    assert {"name": "run", "configMap": {"name": "eg-grpo-run"}} in head["volumes"]
    mounts = {mount["name"]: mount["mountPath"] for mount in head["containers"][0]["volumeMounts"]}
    assert mounts["run"] == "/etc/eg-grpo"
    (fetch,) = the("Job")["spec"]["template"]["spec"]["containers"]
    parsed = make_parser().parse_args(fetch["command"][1:])
    assert (parsed.command, str(parsed.output)) == ("data", "/shared/data")


def test_the_run_is_janus_pro_7b_with_each_role_on_its_own_group(tmp_path: Path) -> None:
    """The settings in the ConfigMap are those of configs/janus-pro-7b.yaml but for the places, and
    the run waits half an hour for pods that come late. Each role asks for the custom resource that
    one group declares, and the group has room for it."""
    config, base = run_settings(tmp_path), load_config(ROOT / "configs/janus-pro-7b.yaml", [])
    assert config.root == Path("/shared/runs")
    assert config.cluster == base.cluster.model_copy(update={"wait_for_room_s": 1800.0})
    place = {"root": base.root, "cluster": base.cluster, "rewards": base.rewards}
    policy = {"rollout": base.rollout, "learner": base.learner, "metrics": base.metrics}
    assert config.model_copy(update=place | policy) == base
    anywhere = {"resources": {}, "placement": "pack"}
    assert config.rollout.model_copy(update={"resources": {}}) == base.rollout
    assert config.learner.model_copy(update=anywhere) == base.learner
    rewards = tuple(reward.model_copy(update={"resources": {}}) for reward in config.rewards)
    assert rewards == base.rewards

    asked = {"learner": (config.learner.resources, config.learner.ranks * 1.0, 4.0)}
    asked["rollout"] = (config.rollout.resources, config.rollout.workers * 1.0, 3.0)
    shares = sum(reward.workers * reward.gpus_per_worker for reward in config.rewards)
    (places,) = {json.dumps(reward.resources) for reward in config.rewards}
    asked["rewards"] = (json.loads(places), round(shares, 6), 4.0)
    for group in the("RayCluster")["spec"]["workerGroupSpecs"]:
        resources, gpus, cpus = asked.pop(group["groupName"])
        (name,) = group["resources"]
        assert list(resources) == [name]
        limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
        assert gpus <= group["replicas"] * limits["nvidia.com/gpu"]
        assert cpus <= group["replicas"] * int(limits["cpu"])
    assert not asked


def test_every_pod_is_confined() -> None:
    """No pod runs as root, gains privileges, writes to its image or gets a token of Kubernetes, and
    each container says what it needs. Secrets are referred to and never written."""
    for template in pod_templates():
        pod = template["spec"]
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        for container in pod["containers"]:
            security = container["securityContext"]
            assert security["allowPrivilegeEscalation"] is False
            assert security["readOnlyRootFilesystem"] is True
            assert security["capabilities"] == {"drop": ["ALL"]}
            assert container["resources"]["requests"].keys() >= {"cpu", "memory"}
            assert container["resources"]["limits"].keys() >= {"memory"}
            for variable in container.get("env", []):
                assert ("value" in variable) != ("secretKeyRef" in variable.get("valueFrom", {}))
    assert not [found for found in objects() if found["kind"] == "Secret"]


def test_pods_of_ray_have_probes_at_the_port_of_rays_agent() -> None:
    """Kubernetes asks each host of the cluster whether its raylet lives, and the head whether its
    GCS does."""
    from ray._private import ray_constants

    cluster = the("RayCluster")["spec"]
    for group in [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]:
        (container,) = group["template"]["spec"]["containers"]
        for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
            assert container[probe]["httpGet"] == {
                "path": "/api/healthz",
                "port": ray_constants.DEFAULT_DASHBOARD_AGENT_LISTEN_PORT,
            }


def test_policies_select_the_pods_that_there_are() -> None:
    """Each label that a network policy names in this namespace is the label of some pod here."""
    worn = {item for found in pod_templates() for item in found["metadata"]["labels"].items()}
    policies = [found["spec"] for found in objects() if found["kind"] == "NetworkPolicy"]
    named = {item for policy in policies for item in selected(policy)}
    assert len(policies) == 2
    assert named <= worn
    assert ("app.kubernetes.io/part-of", "eg-grpo-submitter") in named


def test_prometheus_reaches_the_metrics_of_the_driver_and_of_ray(tmp_path: Path) -> None:
    """The pod monitor selects Ray's pods and names ports that the head has; the run listens at one
    of them, on every address; and the network policy lets Prometheus in there."""
    monitor = the("PodMonitor")["spec"]
    head = the("RayCluster")["spec"]["headGroupSpec"]["template"]
    assert monitor["selector"]["matchLabels"] == head["metadata"]["labels"]
    ports = {p["name"]: p["containerPort"] for p in head["spec"]["containers"][0]["ports"]}
    assert [end["port"] for end in monitor["podMetricsEndpoints"]] == ["eg-grpo", "metrics"]
    endpoint = monitor["podMetricsEndpoints"][0]
    assert endpoint["honorLabels"] is True
    assert endpoint["relabelings"] == [{"targetLabel": "job", "replacement": "eg-grpo"}]
    assert set(ports) == {"gcs-server", "dashboard", "client", "metrics", "eg-grpo"}
    metrics = run_settings(tmp_path).metrics
    assert (metrics.host, metrics.port) == ("0.0.0.0", ports["eg-grpo"])
    policies = [found["spec"] for found in objects() if found["kind"] == "NetworkPolicy"]
    monitoring = {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}
    (rule,) = (
        rule
        for policy in policies
        for rule in policy["ingress"]
        if {"namespaceSelector": monitoring} in rule["from"]
    )
    assert [port["port"] for port in rule["ports"]] == [ports["eg-grpo"], ports["metrics"]]


def test_redis_takes_the_password_and_keeps_every_write(tmp_path: Path) -> None:
    """The command of the Redis pod, run here on a socket: it refuses a client without the password,
    writes the append-only file at each change and never evicts, as the ledger demands."""
    (container,) = the("StatefulSet")["spec"]["template"]["spec"]["containers"]
    shell, option, script = container["command"]
    socket = tmp_path / "socket"
    here = f"dir {tmp_path}\nport 0\nunixsocket {socket}"
    assert "dir /data\n" in script
    (tmp_path / "redis-server").symlink_to(server_binary())
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "REDIS_PASSWORD": "s3cret"}
    server = subprocess.Popen(
        [shell, option, script.replace("dir /data", here)],
        env=environment, stdout=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        client = redis.Redis.from_url(f"unix://:s3cret@{socket}")
        deadline = time.monotonic() + 60
        while not answers(client):
            assert server.poll() is None
            assert time.monotonic() < deadline, "it does not answer"
            time.sleep(0.05)
        for key, value in {"appendfsync": "always", "appendonly": "yes"}.items():
            assert client.config_get(key) == {key: value}
        assert client.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
        with pytest.raises(redis.AuthenticationError):
            redis.Redis.from_url(f"unix://{socket}").ping()
        assert b"s3cret" not in Path(f"/proc/{server.pid}/cmdline").read_bytes()
    finally:
        server.terminate()
        server.wait(timeout=60)


def test_workers_reach_the_redis_that_has_the_password() -> None:
    """The ledger's URL has the name and port of the Service, and its password comes from the Secret
    that Redis itself reads."""
    (ray, *_) = the("RayCluster")["spec"]["headGroupSpec"]["template"]["spec"]["containers"]
    (server,) = the("StatefulSet")["spec"]["template"]["spec"]["containers"]
    service = the("Service")
    assert ray["env"][0]["valueFrom"] == server["env"][0]["valueFrom"]
    (port,) = service["spec"]["ports"]
    place = f"{service['metadata']['name']}:{port['port']}"
    url = f"redis://:$({ray['env'][0]['name']})@{place}/0"
    assert ray["env"][1] == {"name": "REDIS_URL", "value": url}
    assert (
        the("StatefulSet")["spec"]["template"]["metadata"]["labels"]
        == (service["spec"]["selector"])
    )


@cache
def objects() -> list[Object]:
    files = sorted(FOLDER.glob("*.yaml"))
    return [found for file in files for found in yaml.safe_load_all(file.read_text())]


def the(kind: str) -> Object:
    """The one object of this kind."""
    (found,) = (found for found in objects() if found["kind"] == kind)
    return found


def pod_templates() -> list[Object]:
    """All pod templates: those of Jobs, of the StatefulSet, of Ray's hosts and of the submitter."""
    return [
        value
        for found in objects()
        for key, value in nodes(found)
        if key.lower().endswith("template") and "containers" in value["spec"]
    ]


def nodes(tree: Any) -> Iterator[tuple[str, Object]]:
    """Every mapping in the tree, with its key."""
    for key, value in tree.items() if isinstance(tree, dict) else enumerate(tree):
        if isinstance(value, dict):
            yield str(key), value
        if isinstance(value, dict | list):
            yield from nodes(value)


def images(template: Object) -> list[str]:
    return [container["image"] for container in template["spec"]["containers"]]


def selected(policy: Object) -> list[tuple[str, str]]:
    """The labels of pods that a policy names."""
    return [
        item
        for key, value in nodes(policy)
        if key == "podSelector"
        for item in value["matchLabels"].items()
    ]


def answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.ConnectionError:
        return False


def run_settings(folder: Path) -> RunConfig:
    """The settings in the ConfigMap. The image's checkout is this one."""
    text = the("ConfigMap")["data"]["run.yaml"]
    assert re.search(rf"^base: {IMAGE_FOLDER}/configs/", text, re.MULTILINE)
    (folder / "run.yaml").write_text(text.replace(IMAGE_FOLDER, str(ROOT)))
    return load_config(folder / "run.yaml", [])


def strict(schema: Any) -> Any:
    """The schema, in which an object may only have the keys that it names."""
    if isinstance(schema, list):
        return [strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    found = {key: strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and schema.get("type") == "object":
        found.setdefault("additionalProperties", False)
    return found
