"""Checks that this machine has the packages, ports, GPUs and shared memory that a configuration
asks for."""

from __future__ import annotations

import math
import os
import shutil
import socket

from orchestrator.settings.cluster_address import cluster_address
from orchestrator.settings.host import SHARED_MEMORY
from orchestrator.settings.metrics_config import check_sinks
from orchestrator.settings.model_size import ModelSize
from orchestrator.settings.object_store import WEIGHT_VERSIONS, object_store_bytes
from orchestrator.settings.resources import Role, roles
from orchestrator.settings.run_config import RunConfig
from policy.errors import UserError


def check_machine(config: RunConfig, size: ModelSize) -> None:
    """Raise ``UserError`` for a package, a port, GPUs or shared memory that this machine lacks.
    ``size`` is that of the model.

    On an existing cluster only packages and the port are checked, because actors may run on other
    machines.
    """
    check_sinks(config.metrics)
    if config.learner_ranks and (port := config.learner.rendezvous_port):
        check_port(port, "learner.rendezvous_port")
    if cluster_address(config.cluster.address) is not None:
        return
    for role in roles(config):
        check_nothing_custom(role)
    check_device(config.rollout.device, "rollout.device")
    if config.learner_ranks:
        check_device(config.learner.device, "learner.device")
    check_gpus(logical_gpus(config), "the roles")
    needed = math.ceil(object_store_bytes(size, config) / 2**20)
    if needed > config.cluster.object_store_mb:
        raise UserError(
            f"cluster.object_store_mb: {config.cluster.object_store_mb} MiB cannot hold a step's"
            f" trajectories and {WEIGHT_VERSIONS} weight versions; set it to {needed} or more"
        )
    free = shutil.disk_usage(SHARED_MEMORY).free // 2**20 if SHARED_MEMORY.is_dir() else 0
    if free < config.cluster.object_store_mb:
        raise UserError(
            f"cluster.object_store_mb: {config.cluster.object_store_mb} MiB asked for, but"
            f" {SHARED_MEMORY} has {free} MiB free (in a container, raise --shm-size)"
        )


def check_nothing_custom(role: Role) -> None:
    """Raise ``UserError`` when a worker of a private cluster asks for a resource of its own."""
    if role.each.custom:
        raise UserError(
            f"{role.key}.resources: a private cluster has no {', '.join(role.each.custom)};"
            " give the cluster.address of one that has"
        )


def check_gpus(asked: float, who: str) -> None:
    """Raise ``UserError`` when this machine has fewer GPUs than ``who`` ask for."""
    if asked <= 0:
        return
    import torch

    if asked > (there := torch.cuda.device_count()):
        raise UserError(f"{who} ask for {asked:g} GPUs (*.gpus_per_*), this machine has {there}")


def check_device(device: str, key: str) -> None:
    """Raise ``UserError`` when the device is cuda and torch finds no GPU."""
    if device != "cuda":
        return
    import torch

    if not torch.cuda.is_available():
        build = (
            "this torch is built without CUDA" if torch.version.cuda is None else "no GPU is found"
        )
        raise UserError(f"{key}: cuda cannot be used on this machine: {build}")


def check_port(port: int, key: str) -> None:
    """Raise ``UserError`` when another process listens on the port."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind(("127.0.0.1", port))
        except OSError:
            raise UserError(f"{key}: port {port} is taken by another process") from None


def logical_cpus(config: RunConfig) -> float:
    """The CPUs to declare to Ray: the sum that all actors ask for, or all cores if that is more."""
    asked = (
        config.rollout.most_workers * config.rollout.cpus_per_worker
        + config.learner_ranks * config.learner.cpus_per_rank
        + sum(reward.most_workers * reward.cpus_per_worker for reward in config.rewards)
    )
    return max(asked, float(os.cpu_count() or 1))


def logical_gpus(config: RunConfig) -> float:
    """The GPUs that all actors together ask Ray for."""
    return (
        config.rollout.most_workers * config.rollout.gpus_per_worker
        + config.learner_ranks * config.learner.gpus_per_rank
        + sum(reward.most_workers * reward.gpus_per_worker for reward in config.rewards)
    )
