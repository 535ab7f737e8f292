"""The table of exported metrics: every ``eg_grpo_*`` that Prometheus can scrape from a run.

Most of them are metrics of metrics.jsonl under a Prometheus name: ``ROWS`` has the two names. Their
meaning is written once, in ``orchestrator.record.metrics``. ``LIVE`` has what changes within a
step. ``python -m orchestrator.record.exported`` prints docs/exported.md.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from orchestrator.record.metrics import PLACEHOLDERS, STEP_METRICS, Metric, Unit

ExportedKind = Literal["gauge", "counter", "histogram"]
ExportedUnit = Unit | Literal["bytes", "tokens per second", "images per second"]

PREFIX = "eg_grpo_"
# Every series has these two labels, before the labels of its metric.
COMMON_LABELS = ("run", "attempt")
# The stage in which the workers of a run, or a learner group that replaces a lost one, start.
STARTING = "start"
FAILURE_REASONS = ("worker", "timeout", "error", "reward")
_OF_WORKERS = (
    "its worker died",
    "its worker failed",
    "its worker is stopped",
    "its answer was lost",
)
_TIMEOUT = re.compile(r"no answer within|[\w.]*Timeout(Error|Exception)?:")
_EXCEPTION = re.compile(r"[A-Za-z_.]*(Error|Exception|Interrupt|Exit):")
WORKER_STATES = {
    "rollout": ("starting", "loading", "sampling", "idle", "lost"),
    "reward": ("starting", "scoring", "idle"),
    "learner": ("starting", "learning", "publishing", "saving", "keep trajectories", "idle"),
}
GROUP_STATES = ("waiting", "generating", "scoring", "ready")
FAULT_KINDS = ("data", "infrastructure")
# Upper bounds of the buckets of all histograms, in seconds.
BUCKETS_S = (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0)

# Label -> what its values are.
LABELS = {
    "run": "the name of the run",
    "attempt": "the epoch of the driver: 1 at first, one more after each `--resume`; 1 in a replay",
    "modality": PLACEHOLDERS["modality"][1],
    "part": f"{PLACEHOLDERS['part'][1]}; the first 20 of each reward",
    "reason": f"of a failed score: {', '.join(FAILURE_REASONS)}; of a group: data, infrastructure",
    "reward": "the name of a reward; empty for workers that are no reward workers",
    "role": ", ".join(WORKER_STATES),
    "set": PLACEHOLDERS["set"][1],
    "stage": f"{PLACEHOLDERS['stage'][1]}; and {STARTING}, while workers start",
    "state": "what a worker does, or where a group is",
}


@dataclass(frozen=True)
class Exported:
    """One metric of the exporter.

    Example: ``Exported("eg_grpo_loss", "gauge", "1", (), "loss of the whole batch", "loss")``.
    """

    name: str
    kind: ExportedKind
    unit: ExportedUnit
    labels: tuple[str, ...]  # without the common ones
    help: str
    key: str | None = None  # of the metric in metrics.jsonl that it is; None if it is live


# Key in metrics.jsonl -> name without the prefix. A name that ends with _total is a counter: the
# sum over steps. All others are gauges of the last step, but for the histograms below.
ROWS = {
    "step": "step",
    "time": "step_timestamp_seconds",
    "weight_version": "weight_version",
    "reward/mean": "reward_mean",
    "reward/std": "reward_std",
    "reward/group_std": "reward_group_std",
    "reward/{reward}": "score_mean",
    "reward_std/{reward}": "score_std",
    "detail/{reward}/{part}": "score_detail_mean",
    "groups/trained": "groups_trained_total",
    "groups/failed": "groups_failed_total",
    "groups/zero_variance": "groups_zero_variance_total",
    "scoring/{reward}/failed": "scores_failed_total",
    "rewards/failure_reasons": "scores_failed_by_reason_total",
    "scoring/{reward}/batch_size": "scoring_batch_size",
    "scoring/{reward}/cache_hit_rate": "score_cache_hit_ratio",
    "scoring/{reward}/retries": "scoring_retries_total",
    "scoring/{reward}/restarts": "reward_worker_restarts_total",
    "seconds/scoring/{reward}/mean": "scoring_call_mean_seconds",
    "seconds/scoring/{reward}/max": "scoring_call_max_seconds",
    "loss": "loss",
    "grad_norm": "grad_norm",
    "learning_rate": "learning_rate",
    "updates/skipped": "updates_skipped_total",
    "tokens/trained": "tokens_trained_total",
    "advantage/abs_mean": "advantage_abs_mean",
    "kl/mean": "kl_mean_nats",
    "ratio/mean": "ratio_mean",
    "ratio/outside": "ratio_outside_share",
    "ratio/clipped": "ratio_clipped_share",
    "ratio/capped": "ratio_capped_share",
    "tokens/low_fraction": "tokens_low_entropy_share",
    "tokens/high_fraction": "tokens_high_entropy_share",
    "bonus/mean": "bonus_mean",
    "bonus/flip_share": "bonus_flip_share",
    "lambda_b": "lambda_b",
    "entropy/{modality}/mean": "entropy_mean",
    "entropy/{modality}/std": "entropy_std",
    "guidance/logprob_gap": "guidance_logprob_gap_nats",
    "guidance/entropy_gap": "guidance_entropy_gap_nats",
    "cot_length/mean": "cot_length_mean_tokens",
    "cot_length/capped": "cot_length_capped_share",
    "staleness/mean": "staleness_mean_steps",
    "staleness/max": "staleness_max_steps",
    "probe/gap": "probe_gap_nats",
    "alarms": "alarms",
    "evaluation/{set}": "evaluation_reward_mean",
    "seconds/{stage}": "stage_seconds",
    "seconds/step": "step_duration_seconds",
}
HISTOGRAMS = ("seconds/{stage}", "seconds/step")
# Keys that are not exported, and why.
NOT_EXPORTED = {
    "entropy_control/{modality}": "eg_grpo_entropy_mean shows what it does",
    "rewards/failed": "it is the sum of eg_grpo_scores_failed_total over rewards",
    "workers/{role}": "eg_grpo_workers has the workers of a role by state, as they are now",
}
# Metrics of metrics.jsonl whose value there is no number: what is exported instead.
_NUMBER_OF: dict[str, tuple[ExportedUnit, str]] = {
    "rewards/failure_reasons": ("scores", "scores that could not be given, by kind of reason"),
    "alarms": ("1", "how many alarms the last step had"),
}

# Name in the ledger's counts -> name of the counter without the prefix. Braces stand for a label.
COUNTS = {
    "lost/{role}": "workers_lost_total",
    "released_{reason}": "groups_released_total",
    "dropped_{reason}": "groups_dropped_total",
    "late_refused": "ledger_late_refused_total",
    "steps_repeated": "steps_repeated_total",
    "rebuilt": "ledger_rebuilt_total",
}
LIVE = (
    Exported(f"{PREFIX}start_timestamp_seconds", "gauge", "seconds", (),
             "when the driver of this attempt began, in seconds since 1970"),
    Exported(f"{PREFIX}planned_steps", "gauge", "steps", (), "optimizer steps of the whole run"),
    Exported(f"{PREFIX}stage_start_timestamp_seconds", "gauge", "seconds", ("stage",),
             "when the driver began to wait for the stage it waits for, in seconds since 1970"),
    Exported(f"{PREFIX}published_weight_version", "gauge", "1", (),
             "version of the weights that rollout workers are to load"),
    Exported(f"{PREFIX}weight_version_lag", "gauge", "1", (),
             "versions by which the weights of a rollout worker are older than the published ones,"
             " the largest"),
    Exported(f"{PREFIX}workers_behind", "gauge", "workers", (),
             "rollout workers that serve an older version than the published one, or none yet"),
    Exported(f"{PREFIX}workers", "gauge", "workers", ("role", "reward", "state"),
             "workers of a role that are in a state now"),
    Exported(f"{PREFIX}queued_batches", "gauge", "batches", ("role", "reward"),
             "batches that wait for a worker of a role"),
    Exported(f"{PREFIX}groups", "gauge", "groups", ("state",),
             "groups of the steps in flight that the ledger has in a state"),
    Exported(f"{PREFIX}redis_away_seconds", "gauge", "seconds", (),
             "how long the driver has waited for the ledger's Redis by now; 0 while it answers"),
    Exported(f"{PREFIX}object_store_used_bytes", "gauge", "bytes", (),
             "memory of Ray's object stores that is in use, on all hosts"),
    Exported(f"{PREFIX}object_store_capacity_bytes", "gauge", "bytes", (),
             "memory of Ray's object stores, on all hosts"),
    Exported(f"{PREFIX}tokens_per_second", "gauge", "tokens per second", (),
             "tokens trained on over the duration of the step, of the last step"),
    Exported(f"{PREFIX}images_per_second", "gauge", "images per second", (),
             "images of the trained groups over the duration of the step, of the last step"),
    Exported(f"{PREFIX}workers_lost_total", "counter", "workers", ("role",),
             "workers, or learner groups, that were lost and replaced"),
    Exported(f"{PREFIX}groups_released_total", "counter", "groups", ("reason",),
             "groups that were sampled again"),
    Exported(f"{PREFIX}groups_dropped_total", "counter", "groups", ("reason",),
             "groups that a step trained without"),
    Exported(f"{PREFIX}ledger_late_refused_total", "counter", "groups", (),
             "results of groups that came too late, which the ledger refused"),
    Exported(f"{PREFIX}steps_repeated_total", "counter", "steps", (),
             "steps that were trained again after a fall back to a checkpoint"),
    Exported(f"{PREFIX}ledger_rebuilt_total", "counter", "1", (),
             "how often the ledger was begun anew because Redis had lost it"),
)  # fmt: skip


def _of_row(metric: Metric) -> Exported:
    key, name = metric.key, PREFIX + ROWS[metric.key]
    own: tuple[ExportedUnit, str] = (metric.unit, metric.help)
    unit, text = _NUMBER_OF.get(key, own)
    labels = tuple(re.findall(r"\{(\w+)\}", key))
    if key == "rewards/failure_reasons":
        labels = ("reward", "reason")
    if key in HISTOGRAMS:
        return Exported(name, "histogram", unit, labels, text, key)
    if name.endswith("_total"):
        return Exported(name, "counter", unit, labels, f"sum over steps: {text}", key)
    return Exported(name, "gauge", unit, labels, text, key)


EXPORTED = (*(_of_row(metric) for metric in STEP_METRICS if metric.key in ROWS), *LIVE)
BY_KEY = {metric.key: metric for metric in EXPORTED if metric.key is not None}
BY_NAME = {metric.name: metric for metric in EXPORTED}


def failure_kind(reason: str) -> str:
    """The kind of a reason for which a score failed: one of ``FAILURE_REASONS``.

    Reasons are sentences of any text, so a label of Prometheus cannot have them.
    """
    if reason.startswith(_OF_WORKERS):
        return "worker"
    if _TIMEOUT.match(reason):
        return "timeout"
    return "error" if _EXCEPTION.match(reason) else "reward"


def markdown() -> str:
    """The text of docs/exported.md."""
    return "\n\n".join(
        [
            "# Metrics for Prometheus",
            "This page is the table in `orchestrator/record/exported.py`, as printed by\n"
            "`python -m orchestrator.record.exported`. A test holds the two equal. A metric with\n"
            "a key in the last column is the one of that key in [metrics.jsonl](metrics.md).\n"
            "[Monitoring](monitoring.md) says how a run is scraped.",
            "A gauge that has no value is not exported, and is never 0 instead. Gauges with a key\n"
            "have the value of the last step; that of an evaluation stays until the next one.\n"
            "Counters count the whole run, earlier attempts included; what is trained again after\n"
            "a fall back to a checkpoint counts again. Those without a key are the counts of the\n"
            "ledger. Histograms have the steps of this attempt, in buckets up to\n"
            f"{', '.join(f'{b:g}' for b in BUCKETS_S)} s.",
            "Every series has the labels `run` and `attempt`. No label names a worker, a prompt or"
            "\na group. The labels are:",
            "\n".join(f"- `{name}`: {meaning}" for name, meaning in LABELS.items()),
            "\n".join(
                [
                    "| metric | kind | unit | labels | what it says | key |",
                    "|---|---|---|---|---|---|",
                    *(
                        f"| `{m.name}` | {m.kind} | {m.unit} |"
                        f" {', '.join(m.labels)} | {m.help} | {f'`{m.key}`' if m.key else ''} |"
                        for m in EXPORTED
                    ),
                ]
            ),
            "These keys of metrics.jsonl are not exported:",
            "\n".join(f"- `{key}`: {reason}" for key, reason in NOT_EXPORTED.items()) + "\n",
        ]
    )


if __name__ == "__main__":
    print(markdown(), end="")
