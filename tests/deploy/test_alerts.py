"""``deploy/prometheus/rules.yml``: each alert as promtool evaluates it, just before and just after
it has held for its time, and the page that it leads to."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from monitoring_tools import checked

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yml"
GROUPS = yaml.safe_load(RULES.read_text())["groups"]
ALERTS = {r["alert"]: r for group in GROUPS for r in group["rules"] if "alert" in r}
RUNBOOK = ROOT / "docs" / "runbook.md"


@dataclass(frozen=True)
class Case:
    """Series with a sample a minute, in promtool's notation, that make one alert fire.

    The alert's expression holds from minute ``since`` on, and not in the minute before. ``labels``
    are those of the alert but for its name and severity.
    """

    alert: str
    series: dict[str, str]
    since: int
    labels: dict[str, str]
    summary: str


A, CALM = 'run="a", attempt="1"', 'run="calm", attempt="1"'
OF_A = {"run": "a", "attempt": "1"}
# In each case the run "a" is ill. The run "calm" is well, though not by far, and never named.
CASES = [
    Case("EgGrpoNothingScraped", {'up{job="eg-grpo", run="a"}': "0x99", 'up{job="ray"}': "1x99"},
         0, {}, "Prometheus scrapes no run of EG-GRPO"),
    Case("EgGrpoRunDown",
         {'up{job="eg-grpo", run="a"}': "1x9 0x90", 'up{job="eg-grpo", run="calm"}': "1x99"},
         10, {"job": "eg-grpo", "run": "a"},
         "Run a no longer answers, and did not end in order"),
    Case("EgGrpoRunDown",  # on Kubernetes a target has no run
         {'up{job="eg-grpo", pod="head"}': "1x9 0x90"},
         10, {"job": "eg-grpo", "pod": "head"},
         "Run head no longer answers, and did not end in order"),
    Case("EgGrpoNoStep",  # a step of "calm" takes 15 minutes
         {f"eg_grpo_step_timestamp_seconds{{{A}}}": "0x99",
          f"eg_grpo_step_duration_seconds_sum{{{A}}}": "50x99",
          f"eg_grpo_step_duration_seconds_count{{{A}}}": "10x99",
          f"eg_grpo_step_timestamp_seconds{{{CALM}}}": "0x99",
          f"eg_grpo_step_duration_seconds_sum{{{CALM}}}": "9000x99",
          f"eg_grpo_step_duration_seconds_count{{{CALM}}}": "10x99"},
         31, OF_A, "Run a has done no step for 36m 0s"),
    Case("EgGrpoNoStep",  # it never did one; "calm" still waits for machines
         {f"eg_grpo_start_timestamp_seconds{{{A}}}": "0x99",
          f"eg_grpo_start_timestamp_seconds{{{CALM}}}": "0x99",
          f'eg_grpo_stage_start_timestamp_seconds{{{CALM}, stage="start"}}': "0x99"},
         31, OF_A, "Run a has done no step for 36m 0s"),
    Case("EgGrpoStageStuck",  # learning takes "calm" 200 s
         {f'eg_grpo_stage_start_timestamp_seconds{{{A}, stage="learn"}}': "0x99",
          f'eg_grpo_stage_start_timestamp_seconds{{{CALM}, stage="learn"}}': "0x99",
          f'eg_grpo_stage_seconds_sum{{{CALM}, stage="learn"}}': "2000x99",
          f'eg_grpo_stage_seconds_count{{{CALM}, stage="learn"}}': "10x99"},
         11, OF_A | {"stage": "learn"}, "Run a has waited for learn for 21m 0s"),
    Case("EgGrpoStageStuck",  # "calm" waits for machines as long as its settings allow
         {f'eg_grpo_stage_start_timestamp_seconds{{{A}, stage="save"}}': "0x99",
          f'eg_grpo_stage_start_timestamp_seconds{{{CALM}, stage="start"}}': "0x60 stale",
          f'eg_grpo_stage_seconds_sum{{{A}, stage="save"}}': "1x99",
          f'eg_grpo_stage_seconds_count{{{A}, stage="save"}}': "10x99"},
         61, OF_A | {"stage": "save"}, "Run a has waited for save for 1h 11m 0s"),
    Case("EgGrpoWeightsNotArrived",
         {f"eg_grpo_weight_version_lag{{{A}}}": "1x99",
          f"eg_grpo_staleness_max_steps{{{A}}}": "0x99",
          f"eg_grpo_weight_version_lag{{{CALM}}}": "2x99",
          f"eg_grpo_staleness_max_steps{{{CALM}}}": "2x99"},
         0, OF_A, "Rollout workers of run a have not taken the newest weights"),
    Case("EgGrpoWeightsNotArrived",  # the first push; "calm" is at its second, which is under way
         {f"eg_grpo_workers_behind{{{A}}}": "2x99",
          f"eg_grpo_workers_behind{{{CALM}}}": "2x99",
          f"eg_grpo_weight_version_lag{{{CALM}}}": "1x99",
          f"eg_grpo_staleness_max_steps{{{CALM}}}": "1x99"},
         0, OF_A, "Rollout workers of run a have not taken the newest weights"),
    Case("EgGrpoEngineGap",
         {f"eg_grpo_probe_gap_nats{{{A}}}": "0.07x99",
          f"eg_grpo_probe_gap_nats{{{CALM}}}": "0.06x99"},
         0, OF_A, "In run a rollout engine and learner differ by 0.07 nats"),
    Case("EgGrpoZeroGradient",
         {f"eg_grpo_grad_norm{{{A}}}": "0.1x9 0x90", f"eg_grpo_grad_norm{{{CALM}}}": "1e-12x99"},
         10, OF_A, "The gradient of run a is exactly zero"),
    Case("EgGrpoUpdatesSkipped",
         {f"eg_grpo_updates_skipped_total{{{A}}}": "0x9 1x90",
          f"eg_grpo_updates_skipped_total{{{CALM}}}": "7x99"},
         10, OF_A, "Loss or gradient of run a was not finite, and the update was skipped"),
    Case("EgGrpoGroupsWithoutVariance",
         {f"eg_grpo_groups_zero_variance_total{{{A}}}": "0+6x99",
          f"eg_grpo_groups_trained_total{{{A}}}": "0+8x99",
          f"eg_grpo_groups_zero_variance_total{{{CALM}}}": "0+4x99",
          f"eg_grpo_groups_trained_total{{{CALM}}}": "0+8x99"},
         1, OF_A, "75% of the groups of run a have equal rewards and teach nothing"),
    Case("EgGrpoEntropyCollapse",
         {f'eg_grpo_entropy_mean{{{A}, modality="image"}}': "0.4x60 0.1x60",
          f'eg_grpo_entropy_mean{{{CALM}, modality="image"}}': "0.4x60 0.3x60"},
         61, OF_A | {"modality": "image"},
         "The image entropy of run a fell to 0.1"),
    Case("EgGrpoEntropyCollapse",  # so slowly that the mean falls with it
         {f'eg_grpo_entropy_mean{{{A}, modality="cot"}}': "0.0050505-0.000001x160",
          f'eg_grpo_entropy_mean{{{CALM}, modality="cot"}}': "0.005x160"},
         51, OF_A | {"modality": "cot"}, "The cot entropy of run a fell to 0.00499"),
    Case("EgGrpoEntropyExplosion",
         {f'eg_grpo_entropy_mean{{{A}, modality="cot"}}': "0.2x60 0.5x60",
          f'eg_grpo_entropy_mean{{{CALM}, modality="cot"}}': "0.2x60 0.3x60"},
         61, OF_A | {"modality": "cot"}, "The cot entropy of run a rose far"),
    Case("EgGrpoEntropyExplosion",  # an entropy near 1 cannot double
         {f'eg_grpo_entropy_mean{{{A}, modality="image"}}': "0.7x60 0.9x60",
          f'eg_grpo_entropy_mean{{{CALM}, modality="image"}}': "0.7x60 0.8x60"},
         61, OF_A | {"modality": "image"},
         "The image entropy of run a rose far"),
    Case("EgGrpoKlRunaway",
         {f"eg_grpo_kl_mean_nats{{{A}}}": "0.7x99", f"eg_grpo_kl_mean_nats{{{CALM}}}": "0.5x99"},
         0, OF_A, "The policy of run a is 0.7 nats a token away from its reference"),
    Case("EgGrpoCotsClipped",
         {f"eg_grpo_cot_length_capped_share{{{A}}}": "0.75x99",
          f"eg_grpo_cot_length_capped_share{{{CALM}}}": "0.5x99"},
         0, OF_A, "rollout.max_cot_tokens cuts 75% of the CoTs of run a"),
    Case("EgGrpoConstantScorer",
         {f'eg_grpo_score_std{{{A}, reward="hps"}}': "0x99",
          f'eg_grpo_score_std{{{A}, reward="git"}}': "0.1x99",
          f'eg_grpo_score_std{{{CALM}, reward="hps"}}': "1e-5x99"},
         0, OF_A | {"reward": "hps"}, "Reward hps of run a gives every image the same score"),
    Case("EgGrpoRewardFailures",  # 30 of 60 images a minute; "calm" loses 2
         {f'eg_grpo_scores_failed_total{{{A}, reward="hps"}}': "0+30x99",
          f"eg_grpo_images_per_second{{{A}}}": "1x99",
          f'eg_grpo_scores_failed_total{{{CALM}, reward="hps"}}': "0+2x99",
          f"eg_grpo_images_per_second{{{CALM}}}": "1x99"},
         4, OF_A | {"reward": "hps"}, "Reward hps of run a fails for 23.33% of the images"),
    Case("EgGrpoRedisAway",
         {f"eg_grpo_redis_away_seconds{{{A}}}": "0+15x99",
          f"eg_grpo_redis_away_seconds{{{CALM}}}": "30x99"},
         3, OF_A, "Run a has waited for its Redis for 1m 0s"),
    Case("EgGrpoHealingLoop",
         {f'eg_grpo_workers_lost_total{{{A}, role="rollout"}}': "0+1x99",
          f'eg_grpo_workers_lost_total{{{A}, role="reward"}}': "5x99",
          f'eg_grpo_workers_lost_total{{{CALM}, role="rollout"}}': "3x9 8x90"},
         6, OF_A | {"role": "rollout"},
         "Run a lost and replaced 11 rollout workers in half an hour"),
    Case("EgGrpoDriverRestarts",  # four drivers of "a", ten minutes each, and three of "calm"
         {f'eg_grpo_start_timestamp_seconds{{run="{run}", attempt="{attempt}"}}':
          f"{'_ ' * 10 * (attempt - 1)}{'0 ' * 9}stale"
          for run, last in (("a", 4), ("calm", 3)) for attempt in range(1, last + 1)},
         30, {"run": "a"}, "The driver of run a was started 4 times within an hour"),
]  # fmt: skip


def minutes(duration: str) -> int:
    found = re.fullmatch(r"(\d+)m", duration)
    assert found, duration
    return int(found[1])


def promtool_test(case: Case) -> dict[str, Any]:
    """The case as promtool reads it: nothing fires one minute before, and exactly one alert when
    the expression has held for as long as the rule's ``for`` says."""
    rule = ALERTS[case.alert]
    fires = case.since + minutes(rule["for"])
    annotations = {
        "summary": case.summary,
        "runbook_url": f"docs/runbook.md#{case.alert.lower()}",
    }
    alert = {"exp_labels": rule["labels"] | case.labels, "exp_annotations": annotations}
    return {
        "interval": "1m",
        "name": f"{case.alert} {case.labels}",
        "input_series": [{"series": s, "values": v} for s, v in case.series.items()],
        "alert_rule_test": [
            {"eval_time": f"{fires - 1}m", "alertname": case.alert, "exp_alerts": []},
            {"eval_time": f"{fires}m", "alertname": case.alert, "exp_alerts": [alert]},
        ],
    }


def test_promtool_accepts_the_rules() -> None:
    """promtool finds no mistake in the file."""
    assert "SUCCESS: 26 rules found" in checked("promtool", "check", "rules", RULES)


def test_each_alert_on_both_sides_of_its_time(tmp_path: Path) -> None:
    """promtool evaluates each case: silent one minute before the alert has held for its time, and
    then firing, with exactly these labels and this text, for the run that is ill alone."""
    assert {case.alert for case in CASES} == set(ALERTS)
    tests = {
        "rule_files": [str(RULES)],
        "evaluation_interval": "1m",
        "group_eval_order": [group["name"] for group in GROUPS],
        "tests": [promtool_test(case) for case in CASES],
    }
    file = tmp_path / "alerts.yml"
    file.write_text(yaml.safe_dump(tests))
    assert "SUCCESS" in checked("promtool", "test", "rules", file)


@pytest.mark.parametrize("name", ALERTS)
def test_each_alert_says_what_to_do(name: str) -> None:
    """An alert has a time, a severity, a summary, and a section of the runbook of its own."""
    rule = ALERTS[name]
    assert minutes(rule["for"]) >= 1
    assert rule["labels"]["severity"] in {"info", "warning", "critical"}
    assert set(rule["annotations"]) == {"summary", "runbook_url"}
    page, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert ROOT / page == RUNBOOK
    assert anchor == name.lower()


def test_the_runbook_has_a_section_for_each_alert() -> None:
    """The headings of the runbook are the alerts, in the order of the rules, and each section says
    what it means, what to look at and what to do."""
    _, *sections = RUNBOOK.read_text(encoding="utf-8").split("\n## ")
    assert [section.splitlines()[0] for section in sections] == list(ALERTS)
    for section in sections:
        for heading in ("**What it means.**", "**Look at first.**", "**Do.**"):
            assert section.count(heading) == 1, section.splitlines()[0]
