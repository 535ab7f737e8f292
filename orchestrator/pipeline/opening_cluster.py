"""Opening the Ray cluster of a run, a replay or an evaluation."""

from __future__ import annotations

from contextlib import ExitStack

from orchestrator.record.progress import Progress
from orchestrator.settings.cluster_address import awaited_cluster
from orchestrator.settings.run_config import ClusterConfig
from orchestrator.workers.cluster import is_connected, ray_cluster


def open_cluster(
    opened: ExitStack, cluster: ClusterConfig, num_cpus: float, progress: Progress
) -> None:
    """Reach the cluster that the settings name, or start a private one with ``num_cpus``.

    It is left, or ended, when ``opened`` closes. If this process has a cluster already, that one is
    used and goes on. Raises ``UserError`` when there is none.
    """
    if is_connected():
        return
    with progress.waiting(awaited_cluster(cluster.address)):
        opened.enter_context(
            ray_cluster(cluster.address, num_cpus, cluster.object_store_mb, cluster.start_timeout_s)
        )
