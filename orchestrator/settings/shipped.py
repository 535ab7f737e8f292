"""The configurations that ship with the package, and the files of the embedded world they name.

``configs/`` and ``shapes/`` lie beside ``orchestrator/``, in a checkout and in an installation. So
a shipped configuration is found by its name from any working folder.
"""

from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path
from typing import Any

from policy.errors import UserError
from policy.text_files import read_text

_BESIDE = Path(__file__).parents[2]
_CONFIGS = _BESIDE / "configs"


def shipped_names() -> list[str]:
    """The names of all shipped configurations, such as ``shapes`` and ``ablations/grpo``."""
    return sorted(str(path.relative_to(_CONFIGS).with_suffix("")) for path in _files())


def config_file(named: Path, folder: Path = Path()) -> Path:
    """The configuration file that a user names, relative to ``folder``.

    A file that exists comes first. Otherwise a shipped configuration is found by its name or by its
    path in the repository: ``shapes`` or ``configs/shapes.yaml``. Any other path is returned as it
    is, and whoever reads it says that it does not exist. Raises ``UserError`` for a path that is
    almost the name of a shipped configuration.
    """
    path = folder / named
    if path.is_file():
        return path
    for shipped in _files():
        repository = shipped.relative_to(_BESIDE)
        if named in (repository, repository.relative_to("configs").with_suffix("")):
            return shipped
    if not path.exists() and (near := get_close_matches(str(named), shipped_names(), n=1)):
        raise UserError(f"configuration file {named} does not exist; did you mean {near[0]}?")
    return path


def first_line(name: str) -> str:
    """What a shipped configuration is, in the first sentence of its first comment."""
    comment = []
    for line in read_text(_shipped(name)).splitlines():
        if not line.startswith("#"):
            break
        comment.append(line.removeprefix("#").strip())
    return " ".join(comment).partition(". ")[0].rstrip(".")


def copied_text(name: str) -> str:
    """The text of a shipped configuration, for a file in any folder: its base is given by name.

    Raises ``UserError`` when no configuration has the name.
    """
    path = _shipped(name)
    lines = read_text(path).splitlines()
    for index, line in enumerate(lines):
        key, _, base = line.partition(": ")
        if key == "base":
            found = (path.parent / base).resolve().relative_to(_CONFIGS.resolve())
            lines[index] = f"base: {found.with_suffix('')}"
    return "\n".join(lines) + "\n"


def find_embedded_files(tree: Any) -> Any:
    """A tree of settings in which files of the embedded world have absolute paths.

    A value that names a file or folder below ``shapes/`` is replaced if the working folder has no
    such file and the package has. Other values stay as they are.
    """
    if isinstance(tree, dict):
        return {key: find_embedded_files(value) for key, value in tree.items()}
    if isinstance(tree, list):
        return [find_embedded_files(value) for value in tree]
    if isinstance(tree, str) and tree.startswith("shapes/") and not Path(tree).exists():
        beside = _BESIDE / tree
        return str(beside) if beside.exists() else tree
    return tree


def _shipped(name: str) -> Path:
    path = _CONFIGS / f"{name}.yaml"
    if path not in _files():
        raise UserError(f"no configuration is called {name}; `eg-grpo configs` lists them")
    return path


def _files() -> list[Path]:
    return sorted(_CONFIGS.rglob("*.yaml"))
