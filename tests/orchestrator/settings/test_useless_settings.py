"""Numbers that cannot be and settings that nothing reads are refused by their keys; what a lower
layer gave is dropped instead, so that a file can still say only what differs."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray

from orchestrator.cli import main
from orchestrator.settings.run_config import RunConfig, dump_config, load_config
from policy.errors import UserError

CONFIGS = Path(__file__).parents[3] / "configs"
SHAPES = CONFIGS / "shapes.yaml"
AS_PAPER = f"base={CONFIGS / 'presets' / 'as-paper.yaml'}"


def problem(*overrides: str, path: Path = SHAPES) -> str:
    with pytest.raises(UserError) as caught:
        load_config(path, list(overrides))
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix(f"{path}: ")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["learner.betas=[0.9, 1]"], "learner.betas.1: Input should be less than 1"),
        (["learner.betas=[-0.1, 0.9]"], "learner.betas.0: Input should be greater than or equal"),
        (["learner.learning_rate=.inf"], "learner.learning_rate: must be a finite number, not inf"),
        (["learner.learning_rate=nan"], "learner.learning_rate: Input should be a finite number"),
        (["algorithm.clip_high=.inf"], "algorithm.clip_high: must be a finite number"),
        (["algorithm.kl_beta=.nan"], "algorithm.kl_beta: must be a finite number, not nan"),
        (["rollout.temperature=.inf"], "rollout.temperature: must be a finite number"),
        (["rewards.1.weight=.nan"], "rewards.1.weight: must be a finite number"),
        (["rewards.1.options={x: [.inf]}"], "rewards.1.options.x.0: must be a finite number"),
        (["rewards.1.cpus_per_worker=.inf"], "rewards.1.cpus_per_worker: must be a finite number"),
        (["rollout.cpus_per_worker=1e300"], "rollout.cpus_per_worker: Input should be less than"),
        (["learner.timeout_s=1e300"], "learner.timeout_s: Input should be less than or equal to"),
        (  # a model is not split over GPUs
            ["rollout.device=cuda", "rollout.gpus_per_worker=2"],
            "rollout.gpus_per_worker: Input should be less than or equal to 1",
        ),
        (
            ["learner.device=cuda", "learner.gpus_per_rank=2"],
            "learner.gpus_per_rank: Input should be less than or equal to 1",
        ),
        (["cluster.start_timeout_s=.inf"], "cluster.start_timeout_s: must be a finite number"),
        (["probe_tolerance=.inf"], "probe_tolerance: must be a finite number, not inf"),
        (["steps=true"], "steps: must be a number, not true"),
        (["seed=1" + 30 * "0"], "seed: is an integer of more than 64 bits"),
        (
            ["evaluation.guidance_scales=[1, -1]"],
            "evaluation.guidance_scales.1: Input should be gr",
        ),
        (["evaluation.guidance_scales=[]"], "evaluation.guidance_scales: Tuple should have at lea"),
        (
            ["evaluation.guidance_scales=[2, 2.0]"],
            "evaluation.guidance_scales: names a scale twice",
        ),
        (["learner.lora={target_modules: [q_proj, q_proj]}"], "learner.lora.target_modules: names"),
        (["algorithm.minimum_survivors=9"], "algorithm.minimum_survivors: 9 of a group of 8"),
        (["algorithm.low_quantile=0.6"], "algorithm.low_quantile: must not exceed high_quantile"),
    ],
)
def test_numbers_that_cannot_be_are_refused_by_their_own_key(
    overrides: list[str], expected: str
) -> None:
    assert problem(*overrides).startswith(expected)


def test_an_infinite_share_of_cpus_is_not_blamed_on_the_cluster(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line that names the key, before Ray is started."""
    monkeypatch.chdir(CONFIGS.parent)
    started = ray.is_initialized()
    command = ["train", str(SHAPES), f"root={tmp_path}", "learner.cpus_per_rank=.inf"]
    assert main(command) == 2
    expected = f"eg-grpo: {SHAPES}: learner.cpus_per_rank: must be a finite number, not inf\n"
    assert capsys.readouterr().err == expected
    assert ray.is_initialized() == started
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("constant", [[], ["algorithm.aggregation_constant=1"]])
def test_constant_aggregation_wants_its_divisor(constant: list[str]) -> None:
    """Divided by 1 a trajectory counts as often as it has tokens: 88 times in this world."""
    overrides = ["algorithm.aggregation=constant", *constant]
    assert problem(*overrides).startswith("algorithm.aggregation_constant: aggregation constant ")
    config = load_config(SHAPES, [*overrides, "algorithm.aggregation_constant=88"])
    assert config.algorithm.objective().aggregation_constant == 88


@pytest.mark.parametrize(
    ("overrides", "key"),
    [
        (["algorithm.kappa=2"], "algorithm.kappa"),
        (["algorithm.bonus=budget", "algorithm.cap_factor=0.5"], "algorithm.cap_factor"),
        (["algorithm.bonus=none", "algorithm.cap_factor=0.5"], "algorithm.cap_factor"),
        ([AS_PAPER, "algorithm.cap_factor=0.5"], "algorithm.cap_factor"),
        (["algorithm.modalities=none", "algorithm.low_quantile=0.1"], "algorithm.low_quantile"),
        (["algorithm.modalities=none", "algorithm.high_quantile=0.9"], "algorithm.high_quantile"),
        (["algorithm.modalities=none", "algorithm.bonus=budget"], "algorithm.bonus"),
        (["algorithm.aggregation_constant=88"], "algorithm.aggregation_constant"),
        (["algorithm.kl_beta=0", "algorithm.kl_estimator=k2"], "algorithm.kl_estimator"),
        *(([f"algorithm.{key}=0.3"], f"algorithm.{key}") for key in ("clip_low", "clip_high")),
        (["algorithm.dual_clip=3"], "algorithm.dual_clip"),
        (
            ["algorithm.importance_cap=2", "algorithm.behaviour_logprob=learner"],
            "algorithm.behaviour_logprob",
        ),
        *(
            (
                ["algorithm.method=similarity", f"algorithm.{rule}"],
                f"algorithm.{rule.split('=')[0]}",
            )
            for rule in ("modalities=cot", "bonus=budget", "cap_factor=0.5", "low_quantile=0.1")
        ),
        (["algorithm.method=critical", "algorithm.kappa=2"], "algorithm.kappa"),
        (["algorithm.method=similarity", "algorithm.high_quantile=1"], "algorithm.high_quantile"),
        (["algorithm.top_entropy.fraction=0.1"], "algorithm.top_entropy.fraction"),
        (
            ["algorithm.method=critical", "algorithm.top_entropy.mean_over=all"],
            "algorithm.top_entropy.mean_over",
        ),
        (
            ["algorithm.method=similarity", "algorithm.critical.leak=true"],
            "algorithm.critical.leak",
        ),
        (["rollout.vllm.memory_share=0.5"], "rollout.vllm"),
        (["rollout.engine=vllm", "rollout.vllm.memory_share=0.5"], "rollout.vllm.memory_share"),
        (["cache.kind=none", "cache.entries=5"], "cache.entries"),
        (["cache.kind=none", "cache.training=true"], "cache.training"),
        (["cache.kind=memory", "cache.redis_url=redis://h"], "cache.redis_url"),
        (["data.leaks=drop"], "data.leaks"),
        (["cluster.address=auto", "cluster.object_store_mb=600"], "cluster.object_store_mb"),
        (["cluster.address=local", "cluster.wait_for_room_s=9"], "cluster.wait_for_room_s"),
        (["learner.placement=spread"], "learner.placement"),
    ],
)
def test_a_setting_that_another_rule_ignores_is_refused(overrides: list[str], key: str) -> None:
    """By its own key; with its default it is as good as not there, as in every resolved file."""
    line = problem(*overrides)
    assert line.startswith(f"{key}: has ")
    default = load_config(SHAPES, overrides[:-1])
    text = yaml_of(default, key)
    assert load_config(SHAPES, [*overrides[:-1], f"{key}={text}"]) == default


def yaml_of(config: RunConfig, key: str) -> str:
    value: object = config.model_dump(mode="json")
    for part in key.split("."):
        value = value[part]  # type: ignore[index]
    return "null" if value is None else str(value)


def test_what_a_base_says_is_dropped_where_it_has_no_more_effect(tmp_path: Path) -> None:
    """An ablation says `modalities: none` over a base that sets quantiles and a rule; over it an
    override is a layer of its own, and what the same layer says is refused."""
    base = tmp_path / "base.yaml"
    base.write_text(f"base: {SHAPES}\nalgorithm: {{low_quantile: 0.1, bonus: budget, kappa: 2}}\n")
    assert load_config(base, []).algorithm.kappa == 2
    plain = tmp_path / "plain.yaml"
    plain.write_text(f"base: {base}\nalgorithm: {{modalities: none}}\n")
    for config in (load_config(plain, []), load_config(base, ["algorithm.modalities=none"])):
        algorithm = config.algorithm
        assert (algorithm.low_quantile, algorithm.bonus, algorithm.kappa) == (0.2, "capped", 1)
        (tmp_path / "resolved.yaml").write_text(dump_config(config))
        assert load_config(tmp_path / "resolved.yaml", []) == config
    plain.write_text(f"base: {base}\nalgorithm: {{modalities: none, kappa: 2}}\n")
    assert problem(path=plain).startswith("algorithm.kappa: has an effect with bonus budget")
    capped = load_config(base, [f"base={CONFIGS / 'presets' / 'as-code.yaml'}"]).algorithm
    assert (capped.bonus, capped.kappa, capped.low_quantile) == ("capped", 1, 0.1)


def test_a_base_on_the_command_line_is_a_layer_over_the_file(tmp_path: Path) -> None:
    """What it makes useless in the file is dropped, and what an override or the file makes useless
    in it: the paper's preset lies over plain GRPO too, which has no bonus."""
    file = tmp_path / "file.yaml"
    file.write_text(f"base: {SHAPES}\nalgorithm: {{cap_factor: 0.5}}\n")
    paper = load_config(file, [AS_PAPER]).algorithm
    assert (paper.bonus, paper.cap_factor) == ("budget", 0.3)
    plain = load_config(file, [AS_PAPER, "algorithm.modalities=none"]).algorithm
    assert (plain.bonus, plain.aggregation) == ("capped", "sequence-mean")
    grpo = CONFIGS / "ablations" / "grpo.yaml"
    both = tmp_path / "both.yaml"
    both.write_text(f"base: [{grpo}, {CONFIGS / 'presets' / 'as-paper.yaml'}]\nname: both\n")
    for config in (load_config(grpo, [AS_PAPER]), load_config(both, [])):
        assert (config.algorithm.bonus, config.algorithm.aggregation) == ("capped", "sequence-mean")
    line = problem(AS_PAPER, "algorithm.bonus=budget", path=grpo)
    assert line.startswith("algorithm.bonus: has no effect with modalities none")


def test_a_shipped_configuration_can_do_without_vllm() -> None:
    """Its settings of vLLM are of a lower layer than the override that leaves it out."""
    config = load_config(CONFIGS / "janus-pro-7b.yaml", ["rollout.engine=transformers"])
    assert config.rollout.vllm.memory_share == 0.85
    config = load_config(CONFIGS / "janus-pro-7b.yaml", ["cluster.address=auto"])
    assert config.cluster.object_store_mb == 512


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("data.evaluation={a/b: x}", "data.evaluation.a/b: String should match pattern"),
        ("data.evaluation={../a: x}", "data.evaluation.../a: String should match pattern"),
        ("data.evaluation={held_out: x, Held_Out: y}", "data.evaluation: names must differ, not "),
        ("rewards.0.name=a/b", "rewards.0.name: String should match pattern"),
        ("rewards.0.name=..", "rewards.0.name: String should match pattern"),
        ("rewards.0.name='a b'", "rewards.0.name: String should match pattern"),
        ("rewards.0.name=Structure", "rewards: names must differ, not by case alone"),
        ("rewards.0.name=standard_error", "rewards: standard_error is the name of a metric"),
        (f"name={'a' * 101}", "name: String should have at most 100 characters"),
    ],
)
def test_names_are_names_of_files_and_metrics(override: str, expected: str) -> None:
    """A slash would lead elsewhere, and two that differ by case alone are one file to some."""
    assert problem(override).startswith(expected)


def test_a_private_cluster_by_name_has_an_object_store() -> None:
    """``local`` is Ray's word for one, and no address."""
    config = load_config(SHAPES, ["cluster.address=local", "cluster.object_store_mb=600"])
    assert config.cluster.object_store_mb == 600
