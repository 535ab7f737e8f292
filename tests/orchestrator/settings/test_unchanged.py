"""What may change between a run and its resumption: all that cannot change its numbers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin

import pytest
import yaml
from pydantic import BaseModel

from orchestrator.settings.run_config import RunConfig, dump_config, load_config
from orchestrator.settings.unchanged import FREE, check_unchanged, save_settings
from policy.errors import UserError

SHAPES = Path(__file__).parents[3] / "configs" / "shapes.yaml"

# What decides what is computed: the number of a group, a weight or a rounding. Whoever adds a
# setting decides for one of the two lists.
BOUND = {
    *("seed", "steps", "prompts_per_step", "deterministic", "max_staleness", "stages"),
    *("model.path", "model.template", "model.instruction"),
    *("data.train", "data.evaluation", "data.validation", "data.leaks"),
    *(
        "rollout.engine",
        "rollout.workers",
        "rollout.group_size",
        "rollout.guidance_scale",
        "rollout.final_guidance_scale",
    ),
    *("rollout.temperature", "rollout.max_cot_tokens"),
    *("rollout.threads", "rollout.device"),
    # how requests meet in vLLM's batches
    *("rollout.vllm.memory_share", "rollout.vllm.cpu_kv_cache_gib", "rollout.vllm.prefill_tokens"),
    *("rewards.*.name", "rewards.*.factory", "rewards.*.weight", "rewards.*.normalise"),
    *("rewards.*.options", "rewards.*.workers"),
    # how a step is cut into batches, whatever the number of workers is at the moment
    *("rollout.max_workers", "rewards.*.max_workers"),
    # Ray gives a reward's process as many threads; a share of a GPU is what puts it on one
    *("rewards.*.cpus_per_worker", "rewards.*.gpus_per_worker"),
    *("rewards.*.runtime_env.pip", "rewards.*.runtime_env.env_vars"),
    *("learner.learning_rate", "learner.betas"),
    *("learner.weight_decay", "learner.warmup_steps", "learner.schedule", "learner.max_grad_norm"),
    *("learner.zero_stage", "model.dtype"),
    *("learner.offload_optimizer", "learner.offload_parameters"),
    "learner.device",
    *("learner.lora.rank", "learner.lora.alpha", "learner.lora.target_modules"),
    *("algorithm.method", "algorithm.top_entropy.fraction", "algorithm.top_entropy.mean_over"),
    *("algorithm.critical.leak", "algorithm.entropy_control.learning_rate"),
    *("algorithm.entropy_control.cot_target", "algorithm.entropy_control.image_target"),
    *("algorithm.entropy_control.limit", "algorithm.distillation_weight"),
    *("algorithm.modalities", "algorithm.bonus", "algorithm.cap_factor"),
    *("algorithm.kappa", "algorithm.low_quantile", "algorithm.high_quantile"),
    *("algorithm.kl_beta", "algorithm.kl_estimator"),
    *("algorithm.aggregation", "algorithm.aggregation_constant"),
    *("algorithm.clip_low", "algorithm.clip_high", "algorithm.dual_clip"),
    *("algorithm.importance_cap", "algorithm.behaviour_logprob"),
    *("algorithm.trained_distribution", "algorithm.minimum_survivors"),
    *("evaluation.prompts", "evaluation.samples_per_prompt", "evaluation.guidance_scales"),
}


def fields(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every setting by its dotted key, ``*`` for an index."""
    for name, field in model.model_fields.items():
        inner = _settings_in(field.annotation)
        if inner is None:
            yield prefix + name
        else:
            index = ".*" if get_origin(field.annotation) is tuple else ""
            yield from fields(inner, f"{prefix}{name}{index}.")


def _settings_in(annotation: Any) -> type[BaseModel] | None:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    if get_origin(annotation) in (tuple, Union, UnionType):
        return next(filter(None, map(_settings_in, get_args(annotation))), None)
    return None


def test_every_setting_is_decided_upon() -> None:
    """A new one is either in ``orchestrator.settings.unchanged.FREE`` or in ``BOUND`` above, and
    none in both; neither holds one that there is not."""
    every = set(fields(RunConfig))
    free = {key for key in every if any(key == f or key.startswith(f + ".") for f in FREE)}
    assert every - free == BOUND
    assert not [f for f in FREE if not any(k == f or k.startswith(f + ".") for k in every)]


def saved(tmp_path: Path, *overrides: str) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    save_settings(load_config(SHAPES, list(overrides)), folder)
    return folder


@pytest.fixture(autouse=True)
def _in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(SHAPES.parent.parent)


REMOTE = (
    "rewards=[{name: far, factory: 'rewards.remote:RemoteReward',"
    " options: {url: 'http://u:hush@h/', timeout_s: %d}}]"
)


def test_patience_may_grow(tmp_path: Path) -> None:
    """All deadlines, ports, shares of a machine, where and how often things are looked at, the
    number of learner ranks and of their threads, and what memory needs."""
    folder = saved(tmp_path, REMOTE % 60)
    free = [
        *("learner.timeout_s=9999", "learner.start_timeout_s=9999", "rollout.timeout_s=9999"),
        *("rollout.load_timeout_s=9999", "cluster.start_timeout_s=9999", "cluster.address=auto"),
        *("rewards.0.timeout_s=9999", "rewards.0.retries=9", "rewards.0.retry_delay_s=2"),
        *("rewards.0.restarts=9", "learner.rendezvous_port=12345", "learner.cpus_per_rank=2"),
        *("learner.ranks=2", "learner.min_ranks=1", "learner.threads=2"),
        *("rollout.cpus_per_worker=2", "probe_tolerance=1e-3", "replacements=9", "name=other"),
        *("learner.micro_batch_size=8", "learner.gradient_checkpointing=true"),
        *("rollout.batch_size=16", "rewards.0.batch_size=16"),
        *("root=/elsewhere", "checkpoint.every=7", "evaluation.every=7", "cache.kind=none"),
    ]
    check_unchanged(load_config(SHAPES, [REMOTE % 120, *free]), folder)


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("rollout.threads=2", "rollout.threads: the run was started with 1, now it is 2"),
        ("rewards.0.cpus_per_worker=2", "rewards.0.cpus_per_worker: the run was started with 0.5"),
        ("rewards.0.options={retries: 3}", "rewards.0.options"),
        ("learner.lora.rank=4", "learner.lora"),
        ("evaluation.prompts=8", "evaluation.prompts: the run was started with 96, now it is 8"),
        ("steps=40", "steps: the run was started with 80, now it is 40"),
    ],
)
def test_what_changes_the_numbers_is_named(tmp_path: Path, override: str, expected: str) -> None:
    """Another thread count changes a loss in its last digits; an option is its class's affair."""
    folder = saved(tmp_path)
    with pytest.raises(UserError) as caught:
        check_unchanged(load_config(SHAPES, [override]), folder)
    assert str(caught.value).startswith(expected)


def test_a_run_may_go_on_with_the_machines_that_are_left(tmp_path: Path) -> None:
    """Other numbers of workers are fine as long as the most workers, for which the batches of a
    step are cut, stay as they were. The line says how."""
    before = ("rollout.workers=16", "rewards.1.workers=4", "rewards.2.max_workers=3")
    folder = saved(tmp_path, *before)
    fewer = ("rollout.workers=14", "rewards.1.workers=1", "rewards.2.workers=2")
    kept = ("rollout.max_workers=16", "rewards.1.max_workers=4", "rewards.2.max_workers=3")
    check_unchanged(load_config(SHAPES, [*fewer, *kept]), folder)
    check_unchanged(load_config(SHAPES, [*before, "rewards.2.workers=3"]), folder)
    for settings, expected in (
        ([*fewer, *kept[1:]], "rollout.workers: .* 16, now it is 14; rollout.max_workers=16 keeps"),
        ([*fewer, kept[0], kept[2]], "rewards.1.workers: .*; rewards.1.max_workers=4 keeps its"),
        ([*before[:2], "rewards.2.max_workers=2"], "rewards.2.max_workers: the run was started"),
        (["rollout.workers=17", *before[1:]], "rollout.workers: .*, now it is 17; resume it as it"),
    ):
        with pytest.raises(UserError, match=f"^{expected}"):
            check_unchanged(load_config(SHAPES, settings), folder)


def test_an_option_of_a_reward_that_is_called_workers_is_the_rewards(tmp_path: Path) -> None:
    """It is no number of workers of a pool."""
    folder = saved(tmp_path, "rewards.0.options={workers: 1}")
    with pytest.raises(
        UserError, match=r"^rewards\.0\.options\.workers: the run .* 1, now it is 2"
    ):
        check_unchanged(load_config(SHAPES, ["rewards.0.options={workers: 2}"]), folder)


@pytest.mark.parametrize("falls", ["learner.schedule=linear", "rollout.final_guidance_scale=2"])
def test_a_run_may_go_on_for_longer_if_nothing_falls_until_its_end(
    tmp_path: Path, falls: str
) -> None:
    """A constant rate after the warm-up: yes. A rate or a guidance that ends with the last step
    would have been another one in the steps that are done."""
    folder = saved(tmp_path)
    check_unchanged(load_config(SHAPES, ["steps=160"]), folder)
    save_settings(load_config(SHAPES, [falls]), folder)
    with pytest.raises(UserError, match=r"^steps: the run was started with 80, now it is 160"):
        check_unchanged(load_config(SHAPES, [falls, "steps=160"]), folder)


def test_a_setting_of_a_later_version_has_its_default_in_an_older_run(tmp_path: Path) -> None:
    """A saved file without it goes on, and does not with another value."""
    folder = saved(tmp_path)
    tree = yaml.safe_load((folder / "config.yaml").read_text())
    del tree["algorithm"]["importance_cap"], tree["learner"]["offload_optimizer"], tree["cache"]
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    check_unchanged(load_config(SHAPES, []), folder)
    with pytest.raises(UserError, match=r"^algorithm\.importance_cap: .* with None, now it is 2"):
        check_unchanged(load_config(SHAPES, ["algorithm.importance_cap=2"]), folder)


def test_a_setting_that_is_no_more_is_one_line(tmp_path: Path) -> None:
    folder = saved(tmp_path)
    with (folder / "config.yaml").open("a") as file:
        file.write("gone: 1\n")
    with pytest.raises(UserError, match=r"config\.yaml: unknown key gone$"):
        check_unchanged(load_config(SHAPES, []), folder)


def test_what_an_older_run_named_and_nothing_read_is_no_difference(tmp_path: Path) -> None:
    """Older versions spelt out what plain GRPO inherited and did not use."""
    grpo = SHAPES.parent / "ablations" / "grpo.yaml"
    folder = tmp_path / "run"
    folder.mkdir()
    save_settings(load_config(grpo, []), folder)
    tree = yaml.safe_load((folder / "config.yaml").read_text())
    tree["algorithm"] |= {"low_quantile": 0.3, "kappa": 2.0}
    (folder / "config.yaml").write_text(yaml.safe_dump(tree))
    check_unchanged(load_config(grpo, []), folder)


def test_an_input_file_may_move_but_not_change(tmp_path: Path) -> None:
    """Known by its SHA-256; only a run that saved none knows its files by their paths."""
    folder = saved(tmp_path)
    moved = tmp_path / "moved.jsonl"
    moved.write_bytes((SHAPES.parent.parent / "shapes/data/train.jsonl").read_bytes())
    config = load_config(SHAPES, [f"data.train={moved}"])
    check_unchanged(config, folder)
    moved.write_bytes(moved.read_bytes() + b"\n")
    with pytest.raises(UserError, match=rf"^data\.train: {moved} was changed since"):
        check_unchanged(config, folder)
    fewer = load_config(SHAPES, ["data.evaluation={held_out: shapes/data/held_out.jsonl}"])
    with pytest.raises(UserError, match=r"^data\.evaluation\.seen: the run was started with it"):
        check_unchanged(fewer, folder)
    digests = json.loads((folder / "inputs.json").read_text())
    assert digests.keys() == {"data.train", "data.evaluation.seen", "data.evaluation.held_out"}
    (folder / "inputs.json").unlink()
    with pytest.raises(UserError, match=r"^data\.train: the run was started with"):
        check_unchanged(config, folder)


def test_validation_files_count_only_where_they_take_prompts_away(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("a prompt\n")
    folder = saved(tmp_path)
    check_unchanged(load_config(SHAPES, [f"data.validation=[{tmp_path / 'a.txt'}]"]), folder)


def test_secrets_are_compared_by_name(tmp_path: Path) -> None:
    """Their values are not in the saved file; a variable more or less is a difference."""
    variables = "rewards.0.runtime_env.env_vars={%s}"
    folder = saved(tmp_path, variables % "A: hush", "rewards.0.options={url: 'http://u:p@h/a'}")
    text = (folder / "config.yaml").read_text()
    assert "hush" not in text
    same = [variables % "A: other", "rewards.0.options={url: 'http://u:q@h/a'}"]
    check_unchanged(load_config(SHAPES, same), folder)
    with pytest.raises(UserError, match=r"^rewards\.0\.runtime_env\.env_vars\.B: .* with None"):
        check_unchanged(load_config(SHAPES, [variables % "A: x, B: hush", same[1]]), folder)
    other = load_config(SHAPES, [same[0], "rewards.0.options={url: 'http://u:p@h/b'}"])
    with pytest.raises(UserError) as caught:
        check_unchanged(other, folder)
    assert str(caught.value).startswith(
        "rewards.0.options.url: the run was started with 'http://***@h/a', now it is"
        " 'http://***@h/b'"
    )
    assert dump_config(load_config(folder / "config.yaml", [])) == text.replace("\r", "")
