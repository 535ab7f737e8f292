"""Bad input: one clear line on stderr and exit code 2, before any actor starts."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
import ray
from original_janus import name_tiny_parts, save_original

from orchestrator.cli import main
from orchestrator.record.run_folder import RunFolder
from tests.printed_line import PRINTS_A_LINE

ROOT = Path(__file__).parents[2]
SHAPES = str(ROOT / "configs" / "shapes.yaml")


@pytest.fixture(autouse=True)
def _in_the_repository_and_offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)


def refused(capsys: pytest.CaptureFixture[str], tmp_path: Path, *overrides: str) -> str:
    """The one line that a refused `train --dry-run` prints: the same checks, in this process."""
    clusters_before = ray.is_initialized()
    code = main(["train", SHAPES, f"root={tmp_path}", "--dry-run", *overrides])
    error = capsys.readouterr().err
    assert code == 2, error
    assert error.count("\n") == 1, error
    assert error.startswith("eg-grpo: ")
    assert "Traceback" not in error
    assert ray.is_initialized() == clusters_before
    return error


def test_no_command_brings_the_list_of_commands(capsys: pytest.CaptureFixture[str]) -> None:
    """It is the help, but on standard error and with exit code 2: nothing was done."""
    assert main([]) == 2
    shown = capsys.readouterr()
    assert "train a model as a configuration file describes" in shown.err
    assert shown.out == ""


def test_a_mistyped_flag_shows_no_value(capsys: pytest.CaptureFixture[str]) -> None:
    """An override beside it may hold a secret; a name too long for --new is refused by its key."""
    with pytest.raises(SystemExit):
        main(["train", SHAPES, "--resme", "rewards.0.options.api_key=hush-hush"])
    error = capsys.readouterr().err
    assert "unrecognized arguments: --resme" in error
    assert "hush" not in error
    assert main(["train", SHAPES, "--new", f"name={'a' * 99}"]) == 2
    assert "name: --new may add a number to it" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("learner.learning_rte=1", "did you mean learning_rate?"),
        ("rollout.group_size=1", "rollout.group_size"),
        ("model.path=no/such/folder", "no/such/folder does not exist"),
        ("model.path=no/such@v1", "checkpoint no/such@v1 does not exist: no such folder, nothing"),
        ("model.template=shape", "unknown template 'shape'"),
        ("data.train=no/such/file.jsonl", "no/such/file.jsonl does not exist"),
        ("rewards.0.factory=shapes.rewards:Atributes", "did you mean 'Attributes'?"),
        ("rewards.0.factory=shapes.reward:Attributes", "did you mean 'shapes.rewards'?"),
        ("cluster.object_store_mb=80", "cluster.object_store_mb"),
        ("cluster.object_store_mb=99000000", "cluster.object_store_mb"),
    ],
)
def test_each_mistake_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, override: str, expected: str
) -> None:
    """The line names the key or file at fault."""
    extra = ["prompts_per_step=4096"] if override == "cluster.object_store_mb=80" else []
    assert expected in refused(capsys, tmp_path, override, *extra)


def test_a_broken_prompt_row_is_named_by_file_and_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The second line of the file is no JSON: file:2."""
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text('{"prompt": "a photo of a red circle", "task_type": "color"}\n{"prompt": \n')
    assert f"{prompts}:2: " in refused(capsys, tmp_path, f"data.train={prompts}")


@pytest.mark.parametrize(
    "arguments",
    [
        [b"generate", b"--model", b"shapes/checkpoint", b"--prompt", b"a red \xff"],
        [b"generate", b"--prompt=a", b"--model=\xff"],
        [b"train", b"\xe4.yaml"],
        [b"train", SHAPES.encode(), b"name=\xe4"],
        [b"export", b"runs/\xe4", b"out"],
        [b"data", b"fetch", b"--output", b"\xe4"],
        [b"\xff"],
    ],
)
def test_bytes_that_are_no_text_are_one_line(arguments: list[bytes]) -> None:
    """In any argument: what is read of them could not be written again, in no row and no report."""
    done = subprocess.run(
        [sys.executable.encode(), b"-m", b"orchestrator", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr.startswith("eg-grpo: argument '")
    assert done.stderr.endswith("is no text that can be written: not UTF-8\n")
    assert done.stderr.count("\n") == 1
    assert "\\udcff" in done.stderr or "\\udce4" in done.stderr


@pytest.mark.parametrize("prompt", ["", " \t", "\u200b", "\ufeff"])
def test_a_prompt_that_shows_nothing_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, prompt: str
) -> None:
    """The same on the command line as in a prompt file."""
    output = tmp_path / "out"
    arguments = ["--model", "shapes/checkpoint", "--prompt", prompt, "--output", str(output)]
    assert main(["generate", *arguments]) == 2
    assert capsys.readouterr().err == ("eg-grpo: --prompt is empty, or nothing of it can be seen\n")
    assert not output.exists()


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ('name="\\ud83d"', "name holds half a surrogate pair"),
        ('data.evaluation.seen="\\ud83d"', "data.evaluation.seen holds half a surrogate pair"),
        ('rewards.0.options={"\\ud83d": 1}', r"key 'rewards[0].options.\ud83d' holds half"),
        ('model.template={a: ["", "\\ud83d"]}', "model.template.a[1] holds half a surrogate pair"),
    ],
)
def test_half_a_surrogate_pair_in_a_setting_is_one_line(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, setting: str, expected: str
) -> None:
    """YAML has escapes for it, in a file as in an override; the resolved file could not hold it."""
    assert expected in refused(capsys, tmp_path, setting)


def test_an_output_that_is_not_utf8_gets_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that the terminal cannot show is no reason to fail when the work is done."""
    monkeypatch.setattr(
        "orchestrator.commands.generate.generate", lambda parsed: Path("käse/sheet.png")
    )
    terminal = io.TextIOWrapper(io.BytesIO(), "ascii")
    monkeypatch.setattr("sys.stdout", terminal)
    assert main(["generate", "--model", "shapes/checkpoint", "--prompt", "a red circle"]) == 0
    assert terminal.buffer.getvalue() == b"k\\xe4se/sheet.png\n"  # type: ignore[attr-defined]


def test_a_corrupt_checkpoint_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """A weight file cut in half is not loaded."""
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for file in (ROOT / "shapes" / "checkpoint").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    assert f"{weights} is corrupt" in refused(capsys, tmp_path, f"model.path={folder}")


@pytest.mark.slow
@pytest.mark.cluster
@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("model.path=no/such/folder", "no/such/folder does not exist"),
        ("root={tmp_path}/file", "cannot be written"),
    ],
)
def test_a_mistake_leaves_no_folder_and_no_process(
    tmp_path: Path, override: str, expected: str
) -> None:
    """Ray is started while another process checks the files. A mistake there, and a root that lies
    below a file, are one line all the same."""
    (tmp_path / "file").write_text("")
    with subprocess.Popen(
        [sys.executable, "-m", "orchestrator", "train", SHAPES, f"root={tmp_path}/runs",
         override.format(tmp_path=tmp_path)],
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
    ) as run:  # fmt: skip
        assert run.stderr is not None
        started: set[psutil.Process] = set()
        while run.poll() is None:
            with suppress(psutil.NoSuchProcess):
                started |= set(psutil.Process(run.pid).children(recursive=True))
            time.sleep(0.05)
        # Before the line there may be others that say what is awaited.
        said = run.stderr.read()
    assert run.returncode == 2, said
    line = said.splitlines()[-1]
    assert line.startswith("eg-grpo: ")
    assert expected in line
    assert "Traceback" not in said
    assert not (tmp_path / "runs").exists()
    assert started
    assert psutil.wait_procs(started, timeout=60)[1] == []


def test_a_run_folder_in_use_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Another driver goes on with the run: it holds the lock."""
    folder = RunFolder(tmp_path / "shapes")
    (folder.path / "config.yaml").touch()  # as a run has that has begun
    assert main(["train", SHAPES, f"root={tmp_path}", "--resume"]) == 2
    error = capsys.readouterr().err
    assert f"is in use by process {os.getpid()} on host " in error
    assert error.count("\n") == 1
    folder.close()


def test_a_taken_port_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Somebody listens on the port that the learner is told to meet at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        port = listener.getsockname()[1]
        line = refused(capsys, tmp_path, f"learner.rendezvous_port={port}")
    assert f"learner.rendezvous_port: port {port} is taken" in line


def test_dry_run_prints_the_resolved_file_and_makes_nothing(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Overrides show in it, defaults are spelt out, and no run folder appears."""
    assert main(["train", SHAPES, f"root={tmp_path}", "steps=3", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert "steps: 3\n" in printed
    assert "max_grad_norm: 1.0\n" in printed
    assert not list(tmp_path.iterdir())


def test_a_model_in_the_original_format_is_checked_like_any_other(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its files, shapes and sizes are read before any actor starts."""
    name_tiny_parts(monkeypatch)
    folder = save_original(tmp_path / "janus", "bin")
    arguments = ["train", SHAPES, "--dry-run", f"root={tmp_path}", f"model.path={folder}"]
    assert main(arguments) == 0
    capsys.readouterr()
    (folder / "pytorch_model.bin").write_bytes(b"x" * 64)
    assert main(arguments) == 2
    assert "pytorch_model.bin is corrupt" in capsys.readouterr().err


def test_flags_and_overrides_come_in_any_order(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """As people type them: an override behind a flag is an override, an unknown flag is not."""
    assert (
        main(["train", SHAPES, "--dry-run", f"root={tmp_path}", "learner.learning_rate=2e-4"]) == 0
    )
    assert "learning_rate: 0.0002\n" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        main(["train", SHAPES, "--dryrun"])
    assert "unrecognized arguments: --dryrun" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("unbuffered", "command"),
    [
        pytest.param(
            "", ["-m", "orchestrator", "train", SHAPES, "--dry-run"], marks=pytest.mark.slow
        ),
        ("1", ["-c", PRINTS_A_LINE, "doctor"]),
    ],
    ids=["buffered", "unbuffered"],
)
def test_nobody_reads_the_output(unbuffered: str, command: list[str]) -> None:
    """As behind `| head`: no traceback, neither at once nor when Python ends, and not exit code 0.

    The reading end is closed before the process starts, so that its first byte meets nobody. One
    command is a real one, with all the libraries that it has loaded when Python ends.
    """
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_another_broken_pipe_is_not_taken_for_the_output(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A socket of Ray or Redis raises the same; with standard output in order it is a failure."""

    def broken(parsed: object) -> None:
        raise BrokenPipeError("of a socket")

    monkeypatch.setattr("orchestrator.commands.doctor.run", broken)
    with pytest.raises(BrokenPipeError, match="of a socket"):
        main(["doctor"])


def test_a_folder_of_another_kind_is_named(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The folder of a run in place of a checkpoint, and a run that does not exist."""
    run = tmp_path / "shapes"
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").touch()
    for arguments in (
        ["generate", "--model", str(run), "--prompt", "a red circle"],
        ["export", str(run), str(tmp_path / "model")],
        ["train", SHAPES, "--dry-run", f"root={tmp_path}", f"model.path={run}"],
    ):
        assert main(arguments) == 2
        assert f"{run} is a run folder, not a checkpoint: give" in capsys.readouterr().err
    for command in ("status", "report", "serve"):
        assert main([command, str(tmp_path / "shape")]) == 2
        assert capsys.readouterr().err == f"eg-grpo: run folder {tmp_path}/shape does not exist\n"


def test_generate_and_doctor_refuse_bad_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2 and one line."""
    assert main(["generate", "--model", "no/such", "--prompt", "a red circle"]) == 2
    assert "no/such" in capsys.readouterr().err
    assert main(["generate", "--model", "shapes/checkpoint", "--prompt", "x", "--n", "0"]) == 2
    assert "--n must be 1 or more" in capsys.readouterr().err
    model = ["generate", "--model", "shapes/checkpoint", "--prompt", "x"]
    assert main([*model, "--max-cot-tokens", "250"]) == 2
    assert "--max-cot-tokens: with a CoT of 250 tokens a traj" in capsys.readouterr().err
    assert main([*model, "--guidance", "-1"]) == 2
    assert "--guidance: " in capsys.readouterr().err
    assert main(["doctor", "no/such.yaml"]) == 2
    assert "FAIL  configuration: " in capsys.readouterr().out


def test_doctor_passes_on_this_machine(capsys: pytest.CaptureFixture[str]) -> None:
    """The shipped configuration fits, and the batch arithmetic is said."""
    assert main(["doctor", SHAPES]) == 0
    printed = capsys.readouterr().out
    assert "FAIL" not in printed
    assert "16 prompts x 8 = 128 trajectories a step" in printed


LOADS_NOTHING_LARGE = """
import sys
from orchestrator.cli import main
code = main(sys.argv[1:])
assert not {"torch", "transformers", "ray"} & sys.modules.keys()
sys.exit(code)
"""


@pytest.mark.parametrize("more", [["--dry-run"], []])
def test_a_mistake_in_a_text_file_is_told_before_anything_large_is_loaded(
    more: list[str], tmp_path: Path
) -> None:
    """Both without starting a run and with it; no folder is made."""
    broken = tmp_path / "broken.jsonl"
    broken.write_text('{"prompt": "a red circle"}\n')
    done = subprocess.run(
        [sys.executable, "-c", LOADS_NOTHING_LARGE, "train", SHAPES, *more,
         f"root={tmp_path / 'runs'}", f"data.train={broken}"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.stderr == f"eg-grpo: {broken}:1: key 'task_type' is missing\n"
    assert done.returncode == 2
    assert not (tmp_path / "runs").exists()
