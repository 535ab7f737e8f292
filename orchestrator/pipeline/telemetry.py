"""Opens what shows a run while it goes on: its exporter, and the sinks that get its rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from orchestrator.pipeline.ledger import Ledger
from orchestrator.record.discovery import announced, target_of
from orchestrator.record.exported import PREFIX
from orchestrator.record.exporter import Exporter, served
from orchestrator.record.run_folder import RunFolder
from orchestrator.record.sinks import RunOfSinks, Sinks, TensorBoard, Trackio, WandB
from orchestrator.settings.run_config import RunConfig
from policy.secrets import masked_tree
from policy.types import JsonDict

if TYPE_CHECKING:
    from orchestrator.workers.object_stores import ObjectStores


class Telemetry:
    """Passes the numbers of a run on to its exporter and its sinks."""

    def __init__(self, exporter: Exporter, sinks: Sinks, target: str | None) -> None:
        """``target`` is the ``host:port`` at which the metrics can be scraped, if they can."""
        self.exporter, self._sinks, self._target = exporter, sinks, target

    def announce(self, say: Callable[[str], None]) -> None:
        """Say where the metrics are, if anywhere."""
        if self._target is not None:
            say(f"metrics for Prometheus at http://{self._target}/metrics")

    def watch(self, ledger: Ledger, stores: ObjectStores) -> None:
        """Have each scrape look whether the ledger waits for Redis, and how full the stores are."""
        self.exporter.watch(f"{PREFIX}redis_away_seconds", lambda: ledger.away_s)
        self.exporter.watch(f"{PREFIX}object_store_used_bytes", lambda: stores.used)
        self.exporter.watch(f"{PREFIX}object_store_capacity_bytes", lambda: stores.capacity)

    def step(self, row: JsonDict) -> None:
        """Take the row of a step as it is in metrics.jsonl."""
        self.exporter.step(row)
        self._sinks.step(row)


@contextmanager
def open_telemetry(
    config: RunConfig,
    folder: RunFolder,
    attempt: int,
    run_id: str | None,
    steps: int,
) -> Iterator[Telemetry]:
    """Serve the run's metrics and begin its sinks, as long as the context lasts.

    ``attempt`` is the label of the metrics, ``run_id`` is the same in every attempt, and ``steps``
    is the last step. Raises ``UserError`` when the address cannot be listened at, or a sink cannot
    begin.
    """
    settings, rewards = config.metrics, [reward.name for reward in config.rewards]
    exporter = Exporter(config.name, attempt, steps, config.rollout.group_size, rewards)
    target = None
    with ExitStack() as stack:
        if settings.port is not None:
            port = stack.enter_context(served(exporter, settings.host, settings.port))
            target = target_of(settings.host, port)
            stack.enter_context(announced(folder.path, target))
        sinks = stack.enter_context(Sinks())
        run = RunOfSinks(
            config.name,
            settings.project,
            folder.path,
            run_id,
            masked_tree(config.model_dump(mode="json")),
        )
        if settings.tensorboard:
            sinks.begin("tensorboard", lambda: TensorBoard(run))
        if (mode := settings.wandb) is not None:
            sinks.begin("wandb", lambda: WandB(run, mode))
        if settings.trackio:
            sinks.begin("trackio", lambda: Trackio(run))
        yield Telemetry(exporter, sinks, target)
