"""Serves the newest numbers of one run to Prometheus, as ``orchestrator.record.exported`` lists.

The run hands numbers over and goes on. A scrape is answered by a thread of its own, from the
numbers that are there at that moment: it asks no worker, no Ray and no Redis, and the run never
waits for it. Failure policy: an address that cannot be listened at raises ``UserError`` at the
start. After that nothing that a client sends can stop the run.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from orchestrator.record.exported import (
    BUCKETS_S,
    BY_KEY,
    COMMON_LABELS,
    COUNTS,
    EXPORTED,
    FAILURE_REASONS,
    FAULT_KINDS,
    PREFIX,
    STARTING,
    WORKER_STATES,
    Exported,
    failure_kind,
)
from orchestrator.record.metrics import placed
from orchestrator.record.snapshot import Snapshot
from policy.errors import UserError
from policy.types import JsonDict

MAX_PARTS = 20  # of each reward that are exported
_EVALUATION = f"{PREFIX}evaluation_reward_mean"
# Values of one metric, by the values of its labels without the common ones.
Series = dict[tuple[str, ...], float]
_FAMILIES = {"gauge": GaugeMetricFamily, "counter": CounterMetricFamily}


@dataclass(frozen=True)
class _Histogram:
    """How many values are in each bucket, the last one without an upper bound, and their sum."""

    counts: tuple[int, ...] = (0,) * (len(BUCKETS_S) + 1)
    total: float = 0.0

    def with_value(self, value: float) -> _Histogram:
        place = bisect_left(BUCKETS_S, value)
        counts = (count + (index == place) for index, count in enumerate(self.counts))
        return _Histogram(tuple(counts), self.total + value)

    def buckets(self) -> list[tuple[str, float]]:
        """The pairs of upper bound and number of values up to it."""
        bounds = [*(str(bound) for bound in BUCKETS_S), "+Inf"]
        return [(bound, sum(self.counts[: place + 1])) for place, bound in enumerate(bounds)]


class Exporter:
    """The numbers of one run as they are now.

    Each mapping below is replaced as a whole and never changed, so that a scrape in another thread
    sees the numbers of one moment without a lock.
    """

    def __init__(
        self,
        run: str,
        attempt: int,
        steps: int,
        images_per_group: int,
        rewards: Sequence[str] = (),
    ) -> None:
        """``steps`` is the length of the run; a group has ``images_per_group`` images."""
        self._rewards = tuple(rewards)
        self._parts: dict[str, set[str]] = {}
        self._common, self._images_per_group = (run, str(attempt)), images_per_group
        self._fixed: dict[str, Series] = {
            f"{PREFIX}start_timestamp_seconds": {(): time.time()},
            f"{PREFIX}planned_steps": {(): float(steps)},
        }
        self._of_step: dict[str, Series] = {}
        self._sums: dict[str, Series] = {}
        self._histograms: dict[str, dict[tuple[str, ...], _Histogram]] = {}
        self._snapshot: dict[str, Series] = {}
        self._stage = (STARTING, time.time())  # the stage, and since when
        self._watched: dict[str, Callable[[], float | None]] = {}
        self.registry = CollectorRegistry()
        self.registry.register(self)

    # What the run tells

    def begin(self, earlier: Iterable[JsonDict]) -> None:
        """Let the counters begin at the sums over the rows of earlier attempts, which may be none.

        A counter without labels is 0 if there was nothing to count, and so are the failed scores of
        each reward: Prometheus sees no increase of a series that begins with its first failures.
        Others need a first row.
        """
        sums: dict[str, Series] = defaultdict(lambda: defaultdict(float))
        for metric in EXPORTED:
            if metric.kind == "counter" and metric.key and not metric.labels:
                sums[metric.name][()] = 0.0
        for reward in self._rewards:
            sums[f"{PREFIX}scores_failed_total"][reward,] = 0.0
            for reason in FAILURE_REASONS:
                sums[f"{PREFIX}scores_failed_by_reason_total"][reward, reason] = 0.0
        for row in earlier:
            _add(sums, row)
        self._sums = _frozen(sums)

    def step(self, row: JsonDict) -> None:
        """Take the row of a step as it is in metrics.jsonl."""
        gauges: dict[str, Series] = defaultdict(dict)
        histograms = {name: dict(of_labels) for name, of_labels in self._histograms.items()}
        for metric, labels, value in _numbers(row):
            if metric.kind == "gauge" and self._is_exported(metric, labels):
                gauges[metric.name][labels] = value
            elif metric.kind == "histogram":
                of_labels = histograms.setdefault(metric.name, {})
                of_labels[labels] = of_labels.get(labels, _Histogram()).with_value(value)
        if seconds := row["seconds/step"]:
            images = row["groups/trained"] * self._images_per_group
            gauges[f"{PREFIX}images_per_second"][()] = images / seconds
            if "tokens/trained" in row:
                gauges[f"{PREFIX}tokens_per_second"][()] = row["tokens/trained"] / seconds
        sums: dict[str, Series] = defaultdict(lambda: defaultdict(float))
        for name, series in self._sums.items():
            sums[name].update(series)
        _add(sums, row)
        # Few rows have an evaluation. Its value stays until the next one, so that a scrape sees it.
        evaluated = self._of_step.get(_EVALUATION, {}) | gauges.get(_EVALUATION, {})
        kept = {_EVALUATION: evaluated} if evaluated else {}
        self._of_step, self._histograms, self._sums = gauges | kept, histograms, _frozen(sums)
        # A replay waits for one stage alone, but for each step anew.
        self._stage = (self._stage[0], time.time())

    def _is_exported(self, metric: Exported, labels: tuple[str, ...]) -> bool:
        """Whether a gauge with these labels is exported. A reward may name any number of parts, of
        which the first ones are."""
        if metric.key != "detail/{reward}/{part}":
            return True
        reward, part = labels
        parts = self._parts.setdefault(reward, set())
        if part not in parts and len(parts) == MAX_PARTS:
            return False
        parts.add(part)
        return True

    def snapshot(self, seen: Snapshot) -> None:
        """Take what the driver sees at the moment."""
        workers: Series = {
            (role, reward, state): 0.0
            for role, reward, _ in seen.workers
            for state in WORKER_STATES[role]
        }
        found: dict[str, Series] = {
            f"{PREFIX}workers": workers | {key: float(n) for key, n in seen.workers.items()},
            f"{PREFIX}queued_batches": {key: float(n) for key, n in seen.queued.items()},
            f"{PREFIX}groups": {(state,): float(n) for state, n in seen.groups.items()},
        }
        if seen.published is not None:
            found[f"{PREFIX}published_weight_version"] = {(): float(seen.published)}
            lags = [seen.published - version for version in seen.serving if version is not None]
            if lags:
                found[f"{PREFIX}weight_version_lag"] = {(): float(max(lags))}
            behind = sum(version != seen.published for version in seen.serving)
            found[f"{PREFIX}workers_behind"] = {(): float(behind)}
        self._snapshot = found | _of_counts(seen.counts)

    def stage(self, name: str) -> None:
        """The driver begins to wait for this stage, or goes on with it."""
        if name != self._stage[0]:
            self._stage = (name, time.time())

    def watch(self, name: str, read: Callable[[], float | None]) -> None:
        """Have each scrape call ``read`` for the gauge ``name``. It must return at once."""
        self._watched = {**self._watched, name: read}

    # What a scrape gets

    def collect(self) -> Iterator[Metric]:
        """The metrics that have a value, as the registry asks for them."""
        name, since = self._stage
        stage: Series = {(name,): since}
        watched = {metric: read() for metric, read in self._watched.items()}
        values: dict[str, Series] = {
            **self._fixed,
            **self._of_step,
            **self._sums,
            **self._snapshot,
            f"{PREFIX}stage_start_timestamp_seconds": stage,
            **{metric: {(): value} for metric, value in watched.items() if value is not None},
        }
        histograms = self._histograms
        for metric in EXPORTED:
            labels = (*COMMON_LABELS, *metric.labels)
            if metric.kind == "histogram":
                histogram = HistogramMetricFamily(metric.name, metric.help, labels=labels)
                for key, found in histograms.get(metric.name, {}).items():
                    histogram.add_metric((*self._common, *key), found.buckets(), found.total)
                yield histogram
            elif series := values.get(metric.name):
                family = _FAMILIES[metric.kind](metric.name, metric.help, labels=labels)
                for key, value in series.items():
                    family.add_metric((*self._common, *key), value)
                yield family


@contextmanager
def served(exporter: Exporter, host: str, port: int) -> Iterator[int]:
    """Serve the exporter at ``host:port`` as long as the context lasts; gives the port.

    Port 0 takes a free one. Raises ``UserError`` when the address cannot be listened at.
    """
    try:
        server, thread = start_http_server(port, host, exporter.registry)
    except OSError as error:
        key = "host" if port == 0 else "port"
        text = error.strerror or str(error)
        raise UserError(f"metrics.{key}: cannot listen at {host}:{port}: {text}") from None
    try:
        yield server.server_port
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _numbers(row: JsonDict) -> Iterator[tuple[Exported, tuple[str, ...], float]]:
    """Each number of a row that is exported: its metric, the values of its labels, and itself."""
    for key, value in row.items():
        metric, labels = placed(key)
        exported = BY_KEY.get(metric.key) if metric else None
        if exported is None or value is None:
            continue
        if key == "rewards/failure_reasons":
            for text, count in value.items():
                reward, _, reason = text.partition(": ")
                yield exported, (reward, failure_kind(reason)), float(count)
        else:
            yield exported, labels, float(len(value) if key == "alarms" else value)


def _add(sums: dict[str, Series], row: JsonDict) -> None:
    """Add what a row counts to the counters."""
    for metric, labels, value in _numbers(row):
        if metric.kind == "counter":
            sums[metric.name][labels] += value


def _frozen(sums: dict[str, Series]) -> dict[str, Series]:
    return {name: dict(series) for name, series in sums.items()}


def _of_counts(counts: Mapping[str, int]) -> dict[str, Series]:
    """The counters of the ledger. What it has not counted yet is 0."""
    found: dict[str, Series] = {}
    for pattern, name in COUNTS.items():
        before, _, label = pattern.rstrip("}").partition("{")
        values = {"role": tuple(WORKER_STATES), "reason": FAULT_KINDS, "": ("",)}[label]
        found[PREFIX + name] = {
            (value,) if label else (): float(counts.get(before + value, 0)) for value in values
        }
    return found
