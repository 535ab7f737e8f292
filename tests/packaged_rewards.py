"""A reward that lies in a package which Ray installs for its workers alone.

Run as a program, from an environment that Ray may copy. It scores one image of brightness 5 with
that reward (7, times 10) and with one that says whether it could import the package (1 or 0), and
prints as JSON the total, and what is said when a package cannot be installed.
"""

from __future__ import annotations

import json
import sys
import zipfile
from pathlib import Path

from orchestrator.workers.cluster import private_environment

MODULE = """
from policy.types import Score

class Seven:
    def score(self, images, prompts):
        return [Score(7.0) for _ in images]
"""
METADATA = "Metadata-Version: 2.1\nName: tiny-reward\nVersion: 1.0\n"
WHEEL = "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"


def write_wheel(folder: Path) -> Path:
    """The package ``tiny_reward`` as a wheel, which pip installs without asking an index."""
    file = folder / "tiny_reward-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as wheel:
        wheel.writestr("tiny_reward.py", MODULE)
        wheel.writestr("tiny_reward-1.0.dist-info/METADATA", METADATA)
        wheel.writestr("tiny_reward-1.0.dist-info/WHEEL", WHEEL)
        wheel.writestr("tiny_reward-1.0.dist-info/RECORD", "")
    return file


def main(wheel: str) -> None:
    private_environment()  # before Ray is imported
    from orchestrator.workers.cluster import ray_cluster
    from orchestrator.workers.failures import WorkerFailed
    from orchestrator.workers.reward_pool import RewardPool
    from rewards.config import RewardConfig, RuntimeEnvironment
    from rewards.worker import NO_CACHE
    from tests.started_pools import Started, groups_of, reward, scores_of

    with ray_cluster(num_cpus=2, object_store_mb=80):
        missing = Path(wheel).with_name("missing-1.0-py3-none-any.whl")
        environment = RuntimeEnvironment(pip=(str(missing),))
        refused = RewardPool(
            reward("Brightness", "refused", runtime_env=environment), NO_CACHE, 200
        )
        packaged = RewardConfig(
            name="packaged", factory="tiny_reward:Seven", weight=10, cpus_per_worker=0.1,
            runtime_env=RuntimeEnvironment(pip=(wheel,)),
        )  # fmt: skip
        plain = reward("CanImport", "plain", options={"module": "tiny_reward"})
        _, refs = groups_of([[5]])
        pools = Started()(packaged, plain, start_timeout_s=200)
        (scored,) = scores_of(pools, refs)
        try:
            refused.wait_ready()
            said = ""
        except WorkerFailed as error:
            said = str(error)
    print(json.dumps({"totals": scored.totals, "said": said}))


if __name__ == "__main__":
    main(sys.argv[1])
