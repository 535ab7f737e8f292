"""The table of metrics: every key of metrics.jsonl and evaluations.jsonl, with unit, kind and help.

A key that is added to a row needs a line here: the tests fail on a key that the table does not
list. A run does not check the keys that it writes, so an unlisted key cannot stop it.
``python -m orchestrator.record.metrics`` prints docs/metrics.md.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

# What a value counts or is measured in. "1" is a number without a unit, "share" is a number from 0
# to 1, and "none" goes with the kind "other".
Unit = Literal[
    "1", "batches", "groups", "nats", "none", "prompts", "scores", "seconds", "share", "steps",
    "tokens", "trajectories", "updates", "workers",
]  # fmt: skip
Kind = Literal["gauge", "count", "time", "other"]

KINDS: dict[Kind, str] = {
    "gauge": "a value as it stands at the step, such as a mean or a share",
    "count": "how many of something the step had; the sum over steps is the run's number",
    "time": "a duration or a moment, which differs between two runs of one seed",
    "other": "a text, a list or a mapping",
}
STAGES = ("rollout", "reward", "save", "learn", "sync", "evaluate")
# Placeholder -> (regular expression of what may stand in its place, what it is).
PLACEHOLDERS = {
    "modality": ("cot|image", "cot or image: the kind of token"),
    "part": (".+", "a part that the reward names in the detail of its scores"),
    "reward": ("[^/]+", "the name of a reward"),
    "role": ("[^/]+", "rollout, or the name of a reward"),
    "set": ("[^/]+", "the name of a fixed evaluation set"),
    "stage": ("|".join(STAGES), f"a stage of a step: {', '.join(STAGES)}"),
}


@dataclass(frozen=True)
class Metric:
    """One metric, or a family of metrics whose keys differ in ``{placeholders}``.

    Example: ``Metric("entropy/{modality}/std", "1", "gauge", "standard deviation over tokens")``.
    """

    key: str
    unit: Unit
    kind: Kind
    help: str  # one line for a reader who does not know the project


STEP_METRICS = (
    Metric("step", "steps", "gauge", "optimizer steps done, this one included"),
    Metric("time", "seconds", "time",
           "when the rollout workers had the new weights, in seconds since 1970"),
    Metric("weight_version", "1", "gauge", "version of the weights that the step made"),
    # Rewards
    Metric("reward/mean", "1", "gauge", "weighted total of the rewards, mean of a step"),
    Metric("reward/std", "1", "gauge", "standard deviation of the total over a step"),
    Metric("reward/group_std", "1", "gauge",
           "standard deviation of the total inside a group, mean over groups"),
    Metric("reward/{reward}", "1", "gauge",
           "one reward, unweighted, mean over the trajectories that it judged"),
    Metric("reward_std/{reward}", "1", "gauge",
           "standard deviation of one reward over the trajectories that it judged"),
    Metric("detail/{reward}/{part}", "1", "gauge",
           "one named part of a reward, mean over the trajectories that have it"),
    Metric("rewards/failed", "scores", "count", "scores that could not be given, of all rewards"),
    Metric("rewards/failure_reasons", "none", "other",
           "how often each reward failed for each reason, as {\"reward: reason\": number}"),
    Metric("groups/trained", "groups", "count", "groups that the step trained on"),
    Metric("groups/failed", "groups", "count",
           "groups dropped because too few of their trajectories were scored"),
    Metric("groups/zero_variance", "groups", "count",
           "trained groups whose rewards are all equal, which teach nothing"),
    # The work of the reward pools
    Metric("scoring/{reward}/failed", "trajectories", "count",
           "trajectories that one reward failed to score"),
    Metric("scoring/{reward}/batch_size", "trajectories", "gauge",
           "trajectories in one score() call, mean over calls"),
    Metric("scoring/{reward}/cache_hit_rate", "share", "gauge",
           "share of the scores that the cache held; null when none was looked up"),
    Metric("scoring/{reward}/retries", "batches", "count",
           "batches of which trajectories were scored again"),
    Metric("scoring/{reward}/restarts", "workers", "count", "reward workers that were replaced"),
    Metric("seconds/scoring/{reward}/mean", "seconds", "time", "one score() call, mean over calls"),
    Metric("seconds/scoring/{reward}/max", "seconds", "time", "the longest score() call"),
    # The update
    Metric("loss", "1", "gauge", "loss of the whole batch"),
    Metric("grad_norm", "1", "gauge", "norm of the whole gradient before clipping"),
    Metric("learning_rate", "1", "gauge", "learning rate of the update"),
    Metric("updates/skipped", "updates", "count",
           "1 when loss or gradient was not finite, so that the weights stayed as they were"),
    Metric("tokens/trained", "tokens", "count", "tokens of the batch, CoT and image together"),
    Metric("advantage/abs_mean", "1", "gauge",
           "absolute value of the advantage, mean over trajectories"),
    Metric("kl/mean", "nats", "gauge",
           "mean of k3 over tokens, an estimate of the distance from the reference"),
    Metric("ratio/mean", "1", "gauge",
           "probability of a token in the learner over that recorded at rollout, mean over tokens"),
    Metric("ratio/outside", "share", "gauge",
           "share of tokens whose ratio is below 0.9 or above 1.1, which may cancel in the mean"),
    Metric("ratio/clipped", "share", "gauge", "share of tokens whose ratio was clipped"),
    Metric("ratio/capped", "share", "gauge",
           "share of tokens whose importance weight was above algorithm.importance_cap"),
    Metric("tokens/low_fraction", "share", "gauge", "share of tokens of low entropy"),
    Metric("tokens/high_fraction", "share", "gauge", "share of tokens of high entropy"),
    Metric("bonus/mean", "1", "gauge", "entropy bonus, mean over the high-entropy tokens"),
    Metric("bonus/flip_share", "share", "gauge",
           "share of the high-entropy tokens of negative advantage that the bonus reverses"),
    Metric("lambda_b", "1", "gauge",
           "factor of the bonus, which makes the whole batch keep its budget"),
    Metric("entropy/{modality}/mean", "1", "gauge",
           "entropy over log of the vocabulary size, mean over tokens"),
    Metric("entropy/{modality}/std", "1", "gauge",
           "entropy over log of the vocabulary size, standard deviation over tokens"),
    Metric("entropy_control/{modality}", "1", "gauge",
           "coefficient that pulls the entropy down, or up where it is negative"),
    # The trajectories
    Metric("guidance/logprob_gap", "nats", "gauge",
           "guided minus conditional log-prob, mean over image tokens"),
    Metric("guidance/entropy_gap", "nats", "gauge",
           "guided minus conditional entropy, mean over image tokens"),
    Metric("cot_length/mean", "tokens", "gauge", "length of a CoT, mean over trajectories"),
    Metric("cot_length/capped", "share", "gauge",
           "share of CoTs that rollout.max_cot_tokens cut before their end"),
    Metric("staleness/mean", "steps", "gauge",
           "weight versions from rollout to training, mean over trajectories"),
    Metric("staleness/max", "steps", "gauge",
           "weight versions from rollout to training, of the oldest trajectory"),
    # The system
    Metric("workers/{role}", "workers", "gauge",
           "workers of a role, without those that join or leave at the moment"),
    Metric("probe/gap", "nats", "gauge",
           "difference of the mean probe log-probs of a worker and of the learner, the largest"),
    Metric("alarms", "none", "other", "sentences about what looks wrong in the step"),
    Metric("evaluation/{set}", "1", "gauge",
           "mean weighted total on a fixed set, as its row in evaluations.jsonl says"),
    Metric("seconds/{stage}", "seconds", "time", "one stage of the step"),
    Metric("seconds/step", "seconds", "time", "the whole step with its evaluation"),
)  # fmt: skip

EVALUATION_METRICS = (
    Metric("step", "steps", "gauge", "optimizer steps done before the evaluation"),
    Metric("set", "none", "other", "name of the fixed set"),
    Metric("guidance_scale", "1", "gauge", "guidance scale that the images were drawn with"),
    Metric("reward/mean", "1", "gauge", "weighted total of the rewards, mean of the prompt means"),
    Metric("reward/standard_error", "1", "gauge", "standard error of that mean, over prompts"),
    Metric("reward/{reward}", "1", "gauge",
           "one reward, unweighted, mean over the samples that it judged"),
    Metric("detail/{reward}/{part}", "1", "gauge",
           "one named part of a reward, mean over the samples that have it"),
    Metric("by_task", "none", "other", "mean of the prompt means of each task type, as a mapping"),
    Metric("num_prompts", "prompts", "count", "prompts of the set"),
    Metric("num_samples", "trajectories", "count", "samples of all prompts, failed ones too"),
    Metric("num_failed", "trajectories", "count", "samples that a reward failed to score"),
    Metric("failure_reasons", "none", "other",
           "how often each reward failed for each reason, as {\"reward: reason\": number}"),
    Metric("prompt_means", "none", "other",
           "mean total of each prompt's samples, in the order of the set's file"),
)  # fmt: skip

TABLES = {"metrics.jsonl": STEP_METRICS, "evaluations.jsonl": EVALUATION_METRICS}


def find(key: str, metrics: Sequence[Metric] = STEP_METRICS) -> Metric | None:
    """The metric to which a row's key belongs, or None when ``metrics`` does not list the key.

    A key of its own goes before a family: ``reward/mean`` is no reward of the name "mean".
    """
    matching = [metric for metric in metrics if _pattern(metric.key).fullmatch(key)]
    return min(matching, key=lambda metric: "{" in metric.key, default=None)


@cache
def placed(key: str) -> tuple[Metric | None, tuple[str, ...]]:
    """The metric of a key of metrics.jsonl, and what stands in its placeholders, in order."""
    metric = find(key)
    if metric is None:
        return None, ()
    matched = _pattern(metric.key).fullmatch(key)
    assert matched is not None
    return metric, matched.groups()


@cache
def _pattern(key: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", key)  # literal text and names of placeholders by turns
    parts[::2] = map(re.escape, parts[::2])
    parts[1::2] = [f"({PLACEHOLDERS[name][0]})" for name in parts[1::2]]
    return re.compile("".join(parts), re.DOTALL)


def markdown() -> str:
    """The text of docs/metrics.md."""
    return "\n\n".join(
        [
            "# Metrics",
            "This page is the table in `orchestrator/record/metrics.py`, as printed by\n"
            "`python -m orchestrator.record.metrics`. A test holds the two equal. Other tests\n"
            "refuse a row with a key that the table does not list.",
            "A value is `null` when there was nothing to take it from, or when it is not finite.\n"
            "Some keys are not in every row: `kl/mean` is absent with `kl_beta: 0`,\n"
            "`ratio/capped` with `importance_cap: null`, `lambda_b` is there with a budget rule,\n"
            "and `evaluation/{set}` is there after an evaluation.\n"
            "`entropy_control/{modality}` is there with `algorithm.entropy_control`,\n"
            "`tokens/low_fraction`, `bonus/mean` and `bonus/flip_share` are there with\n"
            "`algorithm.method: eg-grpo`, `tokens/high_fraction` with `top-entropy` too.\n"
            "A run with `stages: rollout` has no keys of the update, and its `weight_version`\n"
            "and `probe/gap` stay 0. A replay has nothing that only workers can tell:\n"
            "`probe/gap`, numbers of workers, evaluations, the seconds of `rollout`, `reward` and\n"
            "`sync`, and of the work of the reward pools only the failed scores.",
            "Unit `1` is a number without a unit, `share` a number from 0 to 1. The kinds are:",
            _list(KINDS),
            "A name in braces stands for a part of the key that differs:",
            _list({f"{{{name}}}": meaning for name, (_, meaning) in PLACEHOLDERS.items()}),
            "## metrics.jsonl: one row for each optimizer step",
            _table(STEP_METRICS),
            "## evaluations.jsonl: one row for each fixed set and guidance scale at an evaluation",
            _table(EVALUATION_METRICS) + "\n",
        ]
    )


def _list(meanings: Mapping[Any, str]) -> str:
    return "\n".join(f"- `{name}`: {meaning}" for name, meaning in meanings.items())


def _table(metrics: Sequence[Metric]) -> str:
    rows = [f"| `{m.key}` | {m.unit} | {m.kind} | {m.help} |" for m in metrics]
    return "\n".join(["| key | unit | kind | what it says |", "|---|---|---|---|", *rows])


if __name__ == "__main__":
    print(markdown(), end="")
