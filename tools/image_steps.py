"""Run the build steps of the image for CPUs in an empty folder, without Docker.

python tools/image_steps.py

The Dockerfile's lines are carried out in their order: COPY copies what git knows and
Dockerfile.dockerignore does not leave out, RUN runs in the folder with the variables of ENV. Lines
that install Debian packages or make the user would change this machine; they are shown and left
out. At the end ``eg-grpo`` is called as in the image. It takes minutes, and loads gigabytes from
the package index. The exit code is that of the first step that fails.
"""

from __future__ import annotations

import fnmatch
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCKER = ROOT / "deploy" / "docker"
STAGES = ("base", "cpu")
CALLS = (("eg-grpo", "--version"), ("eg-grpo", "doctor"))
# As root in a machine that is used for other things, these are no trial.
_OF_THE_SYSTEM = ("apt-get ", "useradd ")


def main() -> int:
    with tempfile.TemporaryDirectory(prefix="image-") as name:
        folder = Path(name)
        outside = ("VIRTUAL_ENV", "PYTHONPATH")
        variables = {key: value for key, value in os.environ.items() if key not in outside}
        for word, text in instructions():
            began = time.monotonic()
            left_out = ""
            if word == "COPY":
                *sources, target = text.split()
                print(f"COPY {text}: {copied(sources, folder / target)} files", flush=True)
                continue
            if word == "ENV":
                for pair in shlex.split(text):
                    key, _, value = pair.partition("=")
                    value = value.replace(workdir(), name)
                    variables[key] = value.replace("$PATH", variables["PATH"])
            elif word == "RUN" and text.startswith(_OF_THE_SYSTEM):
                left_out = ": left out"
            elif word == "RUN":
                code = subprocess.run(["sh", "-c", text], cwd=folder, env=variables).returncode
                if code:
                    print(f"RUN {text}: exit code {code}", file=sys.stderr)
                    return code
                left_out = f": {time.monotonic() - began:.0f} s"
            print(f"{word} {text}{left_out}", flush=True)
        for call in CALLS:
            print(shlex.join(call), flush=True)
            program = shutil.which(call[0], path=variables["PATH"])
            if program is None or not Path(program).is_relative_to(folder):
                print(f"{call[0]} was not installed: {program}", file=sys.stderr)
                return 1
            code = subprocess.run([program, *call[1:]], cwd=folder, env=variables).returncode
            if code:
                return code
    return 0


def instructions() -> Iterator[tuple[str, str]]:
    """The Dockerfile's instructions of the stages, in their order: the word, and the rest."""
    text = (DOCKER / "Dockerfile").read_text().replace("\\\n", " ")
    stage = ""
    for line in text.splitlines():
        word, _, rest = " ".join(line.split()).partition(" ")
        if word == "FROM":
            stage = rest.split()[-1]
        if word not in ("", "#") and stage in STAGES:
            yield word, rest


def workdir() -> str:
    """Where the checkout lies in the image."""
    return next(rest for word, rest in instructions() if word == "WORKDIR")


def copied(sources: Sequence[str], target: Path) -> int:
    """Copy files of the repository, or all of it; returns how many."""
    known = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split("\0")
    whole = list(sources) == ["."]
    files = [file for file in known if file and not ignored(file)] if whole else list(sources)
    for file in files:
        place = target / (file if whole else Path(file).name)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / file, place)
    return len(files)


def ignored(file: str) -> bool:
    """Whether Dockerfile.dockerignore leaves the file out, or a folder that it lies in."""
    lines = (DOCKER / "Dockerfile.dockerignore").read_text().splitlines()
    patterns = [line for line in lines if line and not line.startswith("#")]
    paths = [Path(file), *Path(file).parents]
    return any(
        fnmatch.fnmatchcase(path.name if pattern.startswith("**/") else str(path), one)
        for pattern in patterns
        for one in [pattern.removeprefix("**/")]
        for path in paths
    )


if __name__ == "__main__":
    sys.exit(main())
