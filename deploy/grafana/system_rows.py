"""The rows about the machinery: a glance, pipeline, weights, workers and healing, hosts."""

from __future__ import annotations

from deploy.grafana.panels import (
    WINDOW,
    Query,
    Row,
    bands,
    lines,
    mean_of,
    number,
    of_run,
    rise,
    value,
)

STAGES, STEPS = "eg_grpo_stage_seconds", "eg_grpo_step_duration_seconds"
NO_WINDOW = "fewer than two scrapes in this time range"
NO_HOSTS = "needs Ray's metrics or node_exporter, see docs/dashboard.md"


def quantile(share: float, histogram: str, legend: str, *by: str) -> Query:
    """What a share of the durations counted within the window stayed below."""
    labels = ", ".join(["le", *by])
    buckets = f"sum by ({labels}) (rate({of_run(f'{histogram}_bucket')}[{WINDOW}]))"
    return Query(f"histogram_quantile({share}, {buckets})", legend)


GLANCE = Row(
    "At a glance",
    [
        number("Steps done", "Optimizer steps done.", "none", value("eg_grpo_step", "done")),
        number(
            "Steps planned",
            "Optimizer steps of the whole run.",
            "none",
            value("eg_grpo_planned_steps", "planned"),
            no_value="no run in this time range",
        ),
        number(
            "Since the last step",
            "Time since the last step, or since the driver began if it has done none yet. If it"
            " grows without end, the run stands still.",
            "s",
            value("run:eg_grpo_step_age:seconds", "age"),
            no_value="no run in this time range, or Prometheus lacks the rules",
            red_from=1800,
        ),
        number(
            "Reward now",
            "Weighted total of the rewards, mean of the last step.",
            "none",
            value("eg_grpo_reward_mean", "reward"),
        ),
        number(
            "Alarms",
            "How many sentences the run itself printed about what looks wrong in the last step."
            " They are in run.log.",
            "none",
            value("eg_grpo_alarms", "alarms"),
            red_from=1,
        ),
        number(
            "This attempt",
            "Time since the driver of the newest attempt began.",
            "s",
            Query(f"time() - max({of_run('eg_grpo_start_timestamp_seconds')})", "age"),
            no_value="no run in this time range",
        ),
        bands(
            "Alerts that fire",
            "One band for each alert, while it fires. docs/runbook.md says what to do.",
            "none",
            Query('max by (alertname) (ALERTS{run="$run",alertstate="firing"})', "{{alertname}}"),
            no_value="no alert fires, or Prometheus lacks the rules",
        ),
    ],
)

PIPELINE = Row(
    "Pipeline",
    [
        lines(
            "Time of a step by stage",
            "Seconds that the driver waited for each stage, mean over the steps of 30 minutes.",
            "s",
            mean_of(STAGES, "{{stage}}"),
            lowest=0,
            stacked=True,
        ),
        lines(
            "Long stages",
            "What 95 % of the steps of 30 minutes stayed below, by stage.",
            "s",
            quantile(0.95, STAGES, "{{stage}}", "stage"),
            lowest=0,
        ),
        lines(
            "Duration of a step",
            "Mean, median and 95th percentile of the steps of 30 minutes, and the mean of the whole"
            " attempt.",
            "s",
            mean_of(STEPS, "mean"),
            quantile(0.5, STEPS, "median"),
            quantile(0.95, STEPS, "95 %"),
            value("run:eg_grpo_step_duration:mean_seconds", "mean of the attempt"),
            lowest=0,
        ),
        lines(
            "Overlap: share of a step spent waiting",
            "Share of the step in which the driver waits for rollouts and rewards. With"
            " max_staleness above 0 they go on while the learner works, so the share falls.",
            "percentunit",
            Query(
                f"sum by (stage) (rate({of_run(f'{STAGES}_sum')}[{WINDOW}]))"
                f" / on () group_left () (sum(rate({of_run(f'{STEPS}_sum')}[{WINDOW}])) > 0)",
                "{{stage}}",
            ),
            lowest=0,
        ),
        lines(
            "Staleness",
            "Weight versions from rollout to training: mean over trajectories, and the oldest.",
            "suffix: steps",
            value("eg_grpo_staleness_mean_steps", "mean"),
            value("eg_grpo_staleness_max_steps", "oldest"),
            lowest=0,
        ),
        lines(
            "Time in the present stage",
            "How long the driver has waited for the stage that it waits for now, and how long this"
            " stage usually takes.",
            "s",
            value("run_stage:eg_grpo_stage_age:seconds", "{{stage}}"),
            value("run_stage:eg_grpo_stage:mean_seconds", "{{stage}}, usual"),
            no_value="no run in this time range, or Prometheus lacks the rules",
            lowest=0,
        ),
        lines(
            "Images per second",
            "Images of the trained groups over the duration of the step.",
            "suffix: images/s",
            value("eg_grpo_images_per_second", "images"),
            lowest=0,
        ),
        lines(
            "Tokens per second",
            "Tokens trained on over the duration of the step, and their mean over 30 minutes.",
            "suffix: tokens/s",
            value("eg_grpo_tokens_per_second", "of the last step"),
            Query(f"sum(rate({of_run('eg_grpo_tokens_trained_total')}[{WINDOW}]))", "mean"),
            lowest=0,
        ),
        lines(
            "Groups in flight",
            "Groups of the steps in flight, by where the ledger has them.",
            "none",
            value("eg_grpo_groups", "{{state}}"),
            no_value="no run in this time range",
            lowest=0,
            stacked=True,
        ),
        lines(
            "Batches that wait for a worker",
            "A queue that never empties belongs to the role that holds up the others.",
            "none",
            value("eg_grpo_queued_batches", "{{role}} {{reward}}"),
            no_value="no run in this time range",
            lowest=0,
        ),
    ],
)

WEIGHTS = Row(
    "Weights",
    [
        lines(
            "Weight versions",
            "The version that the last step made, and the one that rollout workers are to load.",
            "none",
            value("eg_grpo_weight_version", "of the last step"),
            value("eg_grpo_published_weight_version", "published"),
        ),
        lines(
            "Workers with older weights",
            "Rollout workers that serve an older version than the published one, and by how many"
            " versions at most.",
            "none",
            value("eg_grpo_workers_behind", "workers behind"),
            value("eg_grpo_weight_version_lag", "versions behind"),
            no_value="no weights were published in this time range",
            lowest=0,
        ),
        lines(
            "Gap between engine and learner",
            "Difference of the mean log-probs of the probe between a rollout worker and the"
            " learner, the largest.",
            "suffix: nats",
            value("eg_grpo_probe_gap_nats", "gap"),
            lowest=0,
        ),
    ],
)

WORKERS = Row(
    "Workers and healing",
    [
        lines(
            "Workers by state",
            "What the workers do now, by role. The reward is named for reward workers.",
            "none",
            value("eg_grpo_workers", "{{role}} {{reward}} {{state}}"),
            no_value="no run in this time range",
            lowest=0,
            stacked=True,
        ),
        lines(
            "Lost workers",
            "Workers, or learner groups, of the last 30 minutes that were lost and replaced.",
            "none",
            value("run_role:eg_grpo_workers_lost:increase30m", "{{role}}"),
            no_value="no worker was lost",
            lowest=0,
        ),
        lines(
            "Groups sampled again, and dropped",
            "Groups of the last 30 minutes, by whose fault it was: the data's or the"
            " infrastructure's.",
            "none",
            rise("eg_grpo_groups_released_total", "sampled again: {{reason}}"),
            rise("eg_grpo_groups_dropped_total", "dropped: {{reason}}"),
            no_value="no group was sampled again or dropped",
            lowest=0,
        ),
        lines(
            "Work done twice or refused",
            "Within 30 minutes: steps repeated after a fall back, results that came too late,"
            " ledgers begun anew.",
            "none",
            rise("eg_grpo_steps_repeated_total", "steps repeated"),
            rise("eg_grpo_ledger_late_refused_total", "results too late"),
            rise("eg_grpo_ledger_rebuilt_total", "ledger begun anew"),
            no_value="nothing was repeated or refused",
            lowest=0,
        ),
        lines(
            "Redis away",
            "How long the driver has waited for the ledger's Redis. 0 while Redis answers.",
            "s",
            value("eg_grpo_redis_away_seconds", "waiting"),
            no_value="no run in this time range",
            lowest=0,
        ),
    ],
)

HOSTS = Row(
    "Hosts",
    [
        lines(
            "Object store",
            "Memory of Ray's object stores on all hosts of the run.",
            "bytes",
            value("eg_grpo_object_store_used_bytes", "in use"),
            value("eg_grpo_object_store_capacity_bytes", "capacity"),
            no_value="no run in this time range",
            lowest=0,
        ),
        lines(
            "CPUs in use",
            "Share of each host's CPUs, from Ray or from node_exporter. All hosts of the data"
            " source are shown, not those of the run alone.",
            "percentunit",
            Query("max by (instance) (ray_node_cpu_utilization) / 100", "{{instance}} (Ray)"),
            Query(
                f'1 - avg by (instance) (rate(node_cpu_seconds_total{{mode="idle"}}[{WINDOW}]))',
                "{{instance}}",
            ),
            no_value=NO_HOSTS,
            lowest=0,
            highest=1,
        ),
        lines(
            "Memory in use",
            "Share of each host's memory, from Ray or from node_exporter.",
            "percentunit",
            Query(
                "max by (instance) (ray_node_mem_used) / max by (instance) (ray_node_mem_total)",
                "{{instance}} (Ray)",
            ),
            Query(
                "1 - max by (instance)"
                " (node_memory_MemAvailable_bytes / node_memory_MemTotal_bytes)",
                "{{instance}}",
            ),
            no_value=NO_HOSTS,
            lowest=0,
            highest=1,
        ),
        lines(
            "GPUs in use",
            "How busy each GPU is, from Ray.",
            "percent",
            Query(
                "max by (instance, GpuIndex) (ray_node_gpus_utilization)",
                "{{instance}} GPU {{GpuIndex}}",
            ),
            no_value="needs Ray's metrics and a GPU, see docs/dashboard.md",
            lowest=0,
            highest=100,
        ),
        lines(
            "GPU memory in use",
            "Memory of each GPU, from Ray.",
            "mbytes",
            Query(
                "max by (instance, GpuIndex) (ray_node_gram_used)",
                "{{instance}} GPU {{GpuIndex}}",
            ),
            no_value="needs Ray's metrics and a GPU, see docs/dashboard.md",
            lowest=0,
        ),
        lines(
            "Disk in use",
            "Share of each host's disk, from Ray.",
            "percent",
            Query("max by (instance) (ray_node_disk_utilization_percentage)", "{{instance}}"),
            no_value="needs Ray's metrics, see docs/dashboard.md",
            lowest=0,
            highest=100,
        ),
    ],
)
