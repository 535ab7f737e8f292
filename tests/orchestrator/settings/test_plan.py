"""`eg-grpo doctor --plan`: placing, refusing, and the shipped configurations at real size."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from original_janus import JANUS_PRO_1B, JANUS_PRO_7B

from orchestrator.cli import main
from orchestrator.settings.machine import logical_gpus
from orchestrator.settings.memory import Lengths, Memory, rollout_memory
from orchestrator.settings.model_size import ModelSize
from orchestrator.settings.object_store import object_store_bytes
from orchestrator.settings.plan import Gpu, Machine, Process, batch_text, make_plan, this_machine
from orchestrator.settings.plan_inputs import planned_lengths
from orchestrator.settings.run_config import load_config
from policy.checkpoint.loading import janus_config
from policy.checkpoint.public_models import public_config
from policy.errors import UserError
from rollout.config import RolloutConfig, VllmSettings

ROOT = Path(__file__).parents[3]
CONFIGS = ROOT / "configs"
PARTS = {*CONFIGS.glob("presets/*"), *CONFIGS.glob("methods/*")}  # of a configuration
SHIPPED = sorted(set(CONFIGS.rglob("*.yaml")) - PARTS)


@pytest.fixture(autouse=True)
def _in_the_repository_and_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders with a config.json and nothing else."""
    folders = {}
    for name, config in (("7b", JANUS_PRO_7B), ("1b", JANUS_PRO_1B)):
        folders[name] = tmp_path_factory.mktemp(name)
        (folders[name] / "config.json").write_text(json.dumps(config))
    return folders


def test_rollout_alone_needs_nothing_for_a_learner(folders: dict[str, Path]) -> None:
    """Neither memory nor CPUs and GPUs, and no room for weights that travel."""
    path = CONFIGS / "janus-pro-1b.yaml"
    both = load_config(path, ["learner.ranks=8"])
    alone = load_config(path, ["learner.ranks=8", "stages=rollout", "trajectories.keep_steps=1"])
    rollout = alone.rollout.workers * alone.rollout.gpus_per_worker
    rewards = sum(reward.workers * reward.gpus_per_worker for reward in alone.rewards)
    assert logical_gpus(alone) == rollout + rewards
    assert logical_gpus(both) == rollout + rewards + 8 * both.learner.gpus_per_rank
    size = ModelSize.of(janus_config(folders["1b"]))
    travelling = object_store_bytes(size, both) - object_store_bytes(size, alone)
    assert travelling == 3 * 2 * size.trained
    plan = make_plan(alone, size, Lengths(1, 1, 1), Machine(8, 80 * 2**30, None))
    assert {process.role for process in plan.processes} == {"rollout", "reward"}
    assert batch_text(alone).endswith(" trajectories a step")


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_configuration_loads(path: Path) -> None:
    """All keys known, all sizes possible; names differ, so that runs do not collide."""
    config = load_config(path, [])
    assert config.name == path.stem or path.parent.name == "ablations"
    other = {"janus-pro-7b-64gpus": 8 * 128, "dress-rehearsal-1b": 8}
    batch = other.get(path.stem, 128)  # the paper's is 128
    assert config.trajectories_per_step == batch
    if path.name.startswith("janus"):
        algorithm, learner = config.algorithm, config.learner
        assert (config.rollout.guidance_scale, algorithm.kl_beta, learner.schedule) == (
            1.0 if path.stem.endswith("-unguided") else 5.0,
            0.01,
            "linear",
        )
        assert [reward.weight for reward in config.rewards] == [1.0] * 4
        # Whoever starts reads gigabytes from the same disk.
        assert learner.start_timeout_s == config.cluster.start_timeout_s == 1800


@pytest.mark.parametrize(
    ("name", "model", "gpus", "gib"),
    [
        ("janus-pro-7b", "7b", "8", "80"),
        ("janus-pro-1b", "1b", "8", "40"),
        ("janus-pro-1b-lora-1gpu", "1b", "1", "80"),
    ],
)
def test_the_real_configurations_fit_what_they_say(
    folders: dict[str, Path],
    capsys: pytest.CaptureFixture[str],
    name: str,
    model: str,
    gpus: str,
    gib: str,
) -> None:
    """They fit the GPUs of their first lines; not half the memory, nor half the GPUs."""
    command = ["doctor", "--plan", f"configs/{name}.yaml", f"model.path={folders[model]}"]
    command.append("model.instruction=null")
    assert main([*command, "--gpus", gpus, "--gpu-memory", gib]) == 0
    printed = capsys.readouterr().out
    assert "16 prompts x 8 = 128 trajectories a step" in printed
    assert printed.count("  GPU ") == int(gpus)

    assert main([*command, "--gpus", gpus, "--gpu-memory", str(float(gib) / 2)]) == 2
    error = capsys.readouterr().err
    assert re.match(r"eg-grpo: GPU \d would need", error)
    assert error.count("\n") == 1
    assert main([*command, "--gpus", str(int(gpus) // 2), "--gpu-memory", gib]) == 2
    assert f"the plan has {int(gpus) // 2}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "gpus", "gib"),
    [
        ("janus-pro-7b", "8", "80"),
        ("janus-pro-1b", "8", "40"),
        ("janus-pro-1b-lora-1gpu", "1", "80"),
    ],
)
def test_the_shipped_configurations_are_planned_before_anything_is_downloaded(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    gpus: str,
    gib: str,
) -> None:
    """As they are, with an empty Hub cache, no Hub and no prompt files: the same plan as from the
    models' own config.json, and a line for each thing that is not there."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    command = ["doctor", "--plan", str(CONFIGS / f"{name}.yaml"), "--gpus", gpus]
    assert main([*command, "--gpu-memory", gib]) == 0
    notes, printed = capsys.readouterr().out.split("batch  ", 1)
    model = load_config(CONFIGS / f"{name}.yaml", []).model.path
    assert notes.splitlines() == [
        f"{model} is not here: planned with its published sizes",
        "data.train: data/geneval_and_t2i_data_final.json is not here: planned with prompts of 200"
        " bytes",
        "model.instruction: data/prompt/reasoning_prompt.txt is not here: planned with 700 bytes",
    ]
    own = JANUS_PRO_7B if "7b" in name else JANUS_PRO_1B
    folder = tmp_path / model
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(own))
    assert main([*command, "--gpu-memory", gib]) == 0
    notes, again = capsys.readouterr().out.split("batch  ", 1)
    assert again == printed
    assert "is not here: planned with its published sizes" not in notes


@pytest.mark.parametrize("owner", ["deepseek-community", "deepseek-ai"])
def test_the_shipped_sizes_are_those_of_the_config_json(
    folders: dict[str, Path], owner: str
) -> None:
    """Of the 7B's published file; a revision, or another name, is not what they are of."""
    for name, folder in folders.items():
        config = public_config(f"{owner}/Janus-Pro-{name.upper()}")
        assert config is not None
        assert ModelSize.of(config) == ModelSize.of(janus_config(folder))
    assert public_config(f"{owner}/Janus-Pro-7B@main") is None
    assert public_config("somebody/Janus-Pro-7B") is None


def test_a_checkpoint_that_is_here_counts_and_a_difference_is_told(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    folders: dict[str, Path],
) -> None:
    """A folder of the public model's name with the other model in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "deepseek-ai").mkdir()
    (tmp_path / "deepseek-ai" / "Janus-Pro-1B").symlink_to(folders["7b"])
    command = ["doctor", "--plan", str(CONFIGS / "janus-pro-1b.yaml"), "--gpus", "8"]
    assert main([*command, "--gpu-memory", "80", "model.path=deepseek-ai/Janus-Pro-1B"]) == 0
    printed = capsys.readouterr().out
    assert "deepseek-ai/Janus-Pro-1B: the config.json that is here has other sizes" in printed
    assert "weights                     13.8 GiB" in printed


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            [],
            "16 prompts x 8 = 128 trajectories a step, over 1 rank in up to 4 micro-batches of 32",
        ),
        # 40 over 3 ranks: 13, 13 and 14, the last of which is cut into 8 and 6
        (
            ["prompts_per_step=5", "learner.ranks=3", "learner.micro_batch_size=8"],
            "5 prompts x 8 = 40 trajectories a step, over 3 ranks in up to 2 micro-batches of 8",
        ),
        (
            ["prompts_per_step=1"],
            "1 prompt x 8 = 8 trajectories a step, over 1 rank in up to 1 micro-batch of 8",
        ),
    ],
)
def test_the_batch_need_not_divide(overrides: list[str], expected: str) -> None:
    """The plan says the most that a rank does."""
    assert batch_text(load_config(CONFIGS / "shapes.yaml", overrides)) == expected


def test_a_micro_batch_that_is_never_full_is_planned_as_it_is(folders: dict[str, Path]) -> None:
    """32 trajectories over 4 ranks: with micro-batches of up to 64 a rank's pass has 8. If one rank
    may have to do, its pass has 32."""
    size, machine = ModelSize.of(janus_config(folders["7b"])), this_machine(8, 80, None)
    working = []
    for rows in (8, 64):
        settings = [f"model.path={folders['7b']}", "model.instruction=null", "prompts_per_step=4"]
        settings.append(f"learner.micro_batch_size={rows}")
        config = load_config(CONFIGS / "janus-pro-7b.yaml", settings)
        plan = make_plan(config, size, planned_lengths(config), machine)
        working.append(plan.processes[-1].memory.working)
    assert working[0] == working[1]
    assert config.largest_micro_batch == 8
    config = load_config(CONFIGS / "janus-pro-7b.yaml", [*settings, "learner.min_ranks=1"])
    assert config.largest_micro_batch == 32


def test_literal_figures_of_the_7b(folders: dict[str, Path]) -> None:
    """ZeRO-2 over 4 ranks in bfloat16: 2 (P + F), 2 P, and 16 P / 4 bytes."""
    size = ModelSize.of(janus_config(folders["7b"]))
    assert size.trained == 6_910_365_696
    settings = [f"model.path={folders['7b']}", "model.instruction=null"]
    machine = this_machine(8, 80, None)
    config = load_config(CONFIGS / "janus-pro-7b.yaml", [*settings, "rollout.engine=transformers"])
    plan = make_plan(config, size, planned_lengths(config), machine)
    held = plan.processes[-1].memory.held
    assert held["weights"] == 2 * (size.trained + size.frozen)
    assert held["reference"] == 2 * size.trained
    assert held["master weights"] + held["AdamW"] == 12 * size.trained // 4
    # Each rank and worker reads the model into host memory before it is on its GPU.
    model = 2 * (size.trained + size.frozen)
    assert plan.host["learner rank 1"] == plan.host["rollout worker 0"] == 2**30 + model
    worker = plan.processes[0].memory
    rows = 2 * config.rollout.batch_size
    positions = plan.lengths.image_prompt + 576 - 1
    assert worker.working["KV cache"] == rows * positions * 30 * 2 * 4096 * 2

    config = load_config(CONFIGS / "janus-pro-7b.yaml", settings)
    worker = make_plan(config, size, planned_lengths(config), machine).processes[0].memory
    taken = round(0.75 * 80 * 2**30)
    assert worker.held["weights"] + worker.working["KV cache"] == taken


def test_a_head_that_the_published_config_does_not_call_untied_is_counted(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """transformers' format of the 7B, as its converter leaves it: no tie_word_embeddings."""
    config = janus_config(folders["7b"]).to_dict()
    del config["tie_word_embeddings"], config["text_config"]["tie_word_embeddings"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert ModelSize.of(janus_config(tmp_path)) == ModelSize.of(janus_config(folders["7b"]))


def test_vllm_needs_room_for_one_trajectory(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """A share of the GPU that the weights alone overflow is one line with both figures."""
    command = ["doctor", "--plan", "configs/janus-pro-7b.yaml", f"model.path={folders['7b']}"]
    command += ["model.instruction=null", "--gpus", "8", "--gpu-memory", "80"]
    assert main([*command, "rollout.vllm.memory_share=0.15"]) == 2
    error = capsys.readouterr().err
    assert "rollout.vllm.memory_share: 0.15 of a GPU is 12.0 GiB; weights and" in error


def test_vllm_without_gpus_is_told_which_flags_name_them(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a machine without GPUs no share of one is large enough: that is not what is wrong."""
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    command = ["doctor", "--plan", "configs/janus-pro-7b.yaml", f"model.path={folders['7b']}"]
    assert main([*command, "model.instruction=null"]) == 2
    error = capsys.readouterr().err
    assert "the plan has 0 (--gpus and --gpu-memory name others)" in error
    assert "memory_share" not in error


def test_vllm_on_a_cpu_says_how_many_trajectories_have_room(
    folders: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """The others wait, which nothing else would say; without room for one the plan is refused."""
    size = ModelSize.of(janus_config(folders["7b"]))
    settings = VllmSettings(cpu_kv_cache_gib=16)
    config = RolloutConfig(
        engine="vllm", guidance_scale=1.0, max_cot_tokens=4, batch_size=32, vllm=settings
    )
    lengths = Lengths(cot_prompt=10, cot=4, image_prompt=25)
    one = 2 * 5 * 128 * 30 * 2 * 4096 * 4  # two streams of 600 positions in 5 blocks: 1.2 GiB
    working = rollout_memory(size, config, lengths, "float32", True, gpu_bytes=0).working
    assert working["KV cache (13 of 32 fit)"] == 16 * 2**30
    assert 13 * one <= 16 * 2**30 < 14 * one
    small = config.model_copy(update={"vllm": VllmSettings(cpu_kv_cache_gib=1)})
    with pytest.raises(UserError, match=r"cpu_kv_cache_gib: 1 GiB; one trajectory needs 1\.2$"):
        rollout_memory(size, small, lengths, "float32", True, gpu_bytes=0)
    roomy = config.model_copy(update={"vllm": VllmSettings(cpu_kv_cache_gib=38)})
    working = rollout_memory(size, roomy, lengths, "float32", True, gpu_bytes=0).working
    assert working["KV cache"] == 38 * 2**30


def test_roles_that_take_turns_share_a_gpu() -> None:
    """Learner: 10 held, 5 at work; rollout: 20 and 1 of CUDA context; a reward: 3.

    Together 39; by turns the worse of learning (10 + 5 + 1 + 3) and of sampling (10 + 21 + 3).
    """
    gpu = Gpu(
        [
            Process("r", "rollout", "cuda", 0.3, Memory({"w": 12, "CUDA context": 1}, {"kv": 8})),
            Process("s", "reward", "cuda", 0.3, Memory({"w": 3})),
            Process("l", "learner", "cuda", 0.4, Memory({"w": 10}, {"activations": 5})),
        ]
    )
    assert gpu.needed(takes_turns=False) == 39
    assert gpu.needed(takes_turns=True) == max(10 + 5 + 1 + 3, 10 + 21 + 3)


def test_the_shapes_run_fits_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    """Without flags the plan is for this machine; everything is in host memory."""
    assert main(["doctor", "--plan", "configs/shapes.yaml"]) == 0
    printed = capsys.readouterr().out
    assert "rollout worker, 2 of them, each in host memory" in printed
    assert "GPU" not in printed
    assert main(["doctor", "--plan", "configs/shapes.yaml", "--host-memory", "1"]) == 2
    assert "the host would need" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--plan"], "doctor --plan needs a configuration file"),
        (["--plan", "configs/shapes.yaml", "--gpus", "2"], "--gpus and --gpu-memory go together"),
        (
            ["--plan", "configs/shapes.yaml", "--gpus", "2", "--gpu-memory", "-1"],
            "must be positive",
        ),
        (
            ["--plan", "configs/shapes.yaml", "--gpus", "2", "--gpu-memory", "nan"],
            "must be positive",
        ),
        (["--plan", "configs/shapes.yaml", "--host-memory", "inf"], "must be positive"),
        (
            ["--plan", "configs/shapes.yaml", "model.path=no/such"],
            "no/such does not exist: no such folder",
        ),
        (["--plan", "configs/shapes.yaml", "model.path=./none"], "none has no config.json"),
        (
            ["--plan", "configs/shapes.yaml", "rollout.gpus_per_worker=1"],
            "device cuda and gpus_per_worker > 0 go together",
        ),
    ],
)
def test_a_plan_that_cannot_be_made_is_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    """Exit code 2; the line names the flag, the key or the folder."""
    assert main(["doctor", *arguments]) == 2
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1


@pytest.mark.parametrize("content", ["{", "[]", '{"architectures": ["GPT2LMHeadModel"]}'])
def test_a_broken_model_config_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    """No JSON, no object, another architecture."""
    (tmp_path / "config.json").write_text(content)
    assert main(["doctor", "--plan", "configs/shapes.yaml", f"model.path={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert str(tmp_path) in error
    assert error.count("\n") == 1


def test_cuda_on_a_machine_without_it_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Training names the key, generate the flag, before anything is loaded or started."""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    train = ["train", "configs/shapes.yaml", "--dry-run", f"root={tmp_path}"]
    for room, gpus in (("rollout", "gpus_per_worker"), ("learner", "gpus_per_rank")):
        assert main([*train, f"{room}.device=cuda", f"{room}.{gpus}=1"]) == 2
        assert f"{room}.device: cuda cannot be used on this machine" in capsys.readouterr().err
    generate = ["generate", "--model", "shapes/checkpoint", "--prompt", "a red circle"]
    assert main([*generate, "--device", "cuda"]) == 2
    assert "--device: cuda cannot be used on this machine" in capsys.readouterr().err


def test_generate_in_bfloat16(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The flag reaches the weights: the images are there, and one line says where."""
    command = ["generate", "--model", "shapes/checkpoint", "--prompt", "a photo of a red circle"]
    assert main([*command, "--n", "2", "--dtype", "bfloat16", "--output", str(tmp_path)]) == 0
    assert capsys.readouterr().out.strip() == str(tmp_path / "sheet.png")
    assert (tmp_path / "1.png").is_file()


def test_a_model_that_cannot_be_built_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each number is well formed, but 33 channels cannot be normalised in 32 groups."""
    config = json.loads(Path("shapes/checkpoint/config.json").read_text())
    config["vq_config"]["base_channels"] = 33
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert main(["doctor", "--plan", "configs/shapes.yaml", f"model.path={tmp_path}"]) == 2
    error = capsys.readouterr().err
    assert "model.path: config.json: no model can be built: ValueError: " in error
    assert error.count("\n") == 1
