"""What a user pastes into a bug report, and what the shell is told."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator.cli import main
from orchestrator.commands.parser import COMMANDS
from tests.command_line import ROOT


def test_the_facts_hold_no_secret(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Versions, cores, memory and the Redis server. Of a variable only the name is printed."""
    monkeypatch.setenv("REDIS_URL", "redis://me:hunter2@somewhere/0")
    assert main(["env"]) == 0
    printed = capsys.readouterr().out
    facts = dict(line.split(": ", 1) for line in printed.splitlines())
    assert {"eg-grpo", "python", "system", "torch", "ray", "vllm", "cores", "GPUs"} < facts.keys()
    assert facts["Redis server"] in ("redis-server", "valkey-server")
    assert "REDIS_URL" in facts["variables set"]
    assert "hunter2" not in printed


def test_a_library_that_is_broken_is_a_line(tmp_path: Path) -> None:
    """torch whose shared library cannot be loaded: its facts say so, and the others follow."""
    (tmp_path / "torch").mkdir()
    broken = 'raise OSError("libcudart.so.13: cannot open shared object file")'
    (tmp_path / "torch" / "__init__.py").write_text(broken, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "orchestrator", "env"],
        cwd=tmp_path, env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    facts = dict(line.split(": ", 1) for line in done.stdout.splitlines())
    assert facts["GPUs"] == "OSError: libcudart.so.13: cannot open shared object file"
    assert "MiB free" in facts["shared memory"]


def test_help_and_version_load_no_library_of_a_command() -> None:
    """Neither torch nor Ray, pydantic or NumPy is loaded to parse the command line."""
    code = (
        "import sys\nfrom orchestrator.cli import main\n"
        "try:\n    main(['--help'])\nfinally:\n"
        "    print('LOADED', *{'torch', 'ray', 'pydantic', 'numpy', 'rich'} & sys.modules.keys())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines()[-1].split() == ["LOADED"]


def test_bash_completes_commands_flags_and_choices() -> None:
    """As bash itself computes it from the printed script."""
    script = subprocess.run(
        [sys.executable, "-m", "orchestrator", "completion", "bash"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    names = [name for name, _, _ in COMMANDS]
    assert completed(script, "") == names
    assert completed(script, "si") == ["simulate"]
    assert completed(script, "train", "--") == ["--help", "--resume", "--new", "--dry-run"]
    assert completed(script, "completion", "z") == ["zsh"]


def completed(script: str, *words: str) -> list[str]:
    """What bash offers for the last of the words after ``eg-grpo``."""
    line = " ".join(f"'{word}'" for word in ("eg-grpo", *words))
    asked = f"COMP_WORDS=({line}); COMP_CWORD={len(words)}; _shtab_eg_grpo; echo ${{COMPREPLY[@]}}"
    done = subprocess.run(
        ["bash", "-c", f"{script}\n{asked}"], capture_output=True, text=True, check=True
    )
    return done.stdout.split()
