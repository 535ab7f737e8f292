"""Opening the Ray cluster of a run or of a replay."""

from __future__ import annotations

from contextlib import ExitStack

from orchestrator.record.progress import Progress
from orchestrator.settings.cluster_address import awaited_cluster
from orchestrator.settings.machine import logical_cpus
from orchestrator.settings.run_config import RunConfig
from orchestrator.workers.cluster import ray_cluster


def open_cluster(opened: ExitStack, config: RunConfig, progress: Progress) -> None:
    """Reach the cluster that the configuration names, or start a private one.

    It is left, or ended, when ``opened`` closes. Raises ``UserError`` when there is none.
    """
    cluster = config.cluster
    with progress.waiting(awaited_cluster(cluster.address)):
        opened.enter_context(
            ray_cluster(
                cluster.address,
                logical_cpus(config),
                cluster.object_store_mb,
                cluster.start_timeout_s,
            )
        )
