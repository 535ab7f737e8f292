"""Two nodes, of which one stops answering when an answer of its reward worker lies ready there.

Run as a program: a cluster of two nodes needs a process of its own. ``far`` scores three groups
in one call on the second node; what it answers is too large to travel with the news that it is
done. ``near`` scores one group a call on the first node. The second node is frozen between the
news and the fetching, until ``near`` has scored all three. Prints the totals as JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.chaos.hosts import started
from orchestrator.workers.cluster import private_environment


def main(folder: str) -> None:
    private_environment()  # before Ray is imported
    import ray
    from ray.cluster_utils import Cluster

    from tests.faulty_rewards import wait_for_files
    from tests.started_pools import Started, groups_of, reward, scores_of

    head = dict(num_cpus=2, include_dashboard=False)
    cluster = started(lambda: Cluster(True, head_node_args=head))
    node = started(lambda: cluster.add_node(num_cpus=1, num_gpus=1))
    raylet = node.all_processes["raylet"][0].process.pid
    cluster.connect()
    _, refs = groups_of([[1], [2], [3]])
    pools = Started()(
        reward("Marks", "near", options={"folder": folder}, batch_size=1, cpus_per_worker=2),
        reward("Wordy", "far", cpus_per_worker=1, gpus_per_worker=1, timeout_s=600),
    )
    frozen, ray_wait = False, ray.wait

    def wait(refs: list[Any], **options: Any) -> Any:
        nonlocal frozen
        if not frozen and (calls := pools.pools["far"].calls):
            ray_wait(calls, timeout=60, fetch_local=False)
            os.kill(raylet, signal.SIGSTOP)
            frozen = True
        return ray_wait(refs, **options)

    ray.wait = wait
    with ThreadPoolExecutor(1) as thread:
        scoring = thread.submit(scores_of, pools, refs)
        try:
            wait_for_files(folder, 3)
            held_back = not scoring.done()
        finally:
            os.kill(raylet, signal.SIGCONT)
        scored = scoring.result(timeout=60)
    print(json.dumps({"held_back": held_back, "totals": [group.totals for group in scored]}))
    ray.shutdown()
    cluster.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
