"""The house as its imports draw it: a picture of the rooms, and the longest way to the loss.

    python tools/house_map.py docs/house.png

Solid arrows are imports that Python runs; what stands under ``TYPE_CHECKING`` is left out. The
command line finds a command's file by its name, so that arrow is added by hand.
"""

from __future__ import annotations

import ast
import sys
import textwrap
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.commands.parser import COMMANDS

if TYPE_CHECKING:
    from matplotlib.axes import Axes

ROOT = Path(__file__).parents[1]
PACKAGES = ("policy", "shapes", "rollout", "rewards", "learner", "evaluation", "orchestrator")
FIRST, LAST = "orchestrator.cli", "learner.algorithm.objective"

# Room -> left, bottom, width, what is in it. The height is the same for all.
HEIGHT = 0.85
ROOMS = {
    "orchestrator": (0.2, 7.1, 11.6, "cli.py: exit codes"),
    "commands": (
        0.5,
        5.75,
        11.0,
        textwrap.fill(", ".join(name for name, *_ in COMMANDS), 90),
    ),
    "pipeline": (0.5, 4.5, 5.4, "the training page, schedule, ledger"),
    "report": (8.6, 4.5, 2.9, "reads a run folder"),
    "workers": (0.5, 3.25, 3.4, "Ray: pools, learner group, publisher"),
    "record": (6.1, 3.25, 5.4, "run folder, metrics table, progress"),
    "settings": (0.5, 2.0, 11.0, "RunConfig, YAML, inputs, machine, memory plan"),
    "evaluation": (0.2, 0.55, 11.6, "suites, statistics of fixed prompts, public prompt files"),
    "learner": (0.2, -0.75, 2.75, "objective, DeepSpeed ranks"),
    "rollout": (3.15, -0.75, 2.75, "transformers, vLLM"),
    "rewards": (6.1, -0.75, 2.75, "models, scores, cache"),
    "shapes": (9.05, -0.75, 2.75, "the embedded world"),
    "policy": (0.2, -2.05, 11.6, "Janus, prompts, trajectories, weights, checkpoints"),
}
COLOURS = {"workers": "#ffe8cc", "learner": "#d3f9d8", "rollout": "#d3f9d8", "rewards": "#d3f9d8",
           "shapes": "#d3f9d8", "policy": "#e9ecef", "evaluation": "#e5dbff"}  # fmt: skip


def module_files() -> dict[str, Path]:
    """Every module of the house by its dotted name."""
    files = {}
    for package in PACKAGES:
        for file in (ROOT / package).rglob("*.py"):
            parts = file.relative_to(ROOT).with_suffix("").parts
            files[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return files


def imports(file: Path, known: dict[str, Path]) -> Iterator[str]:
    """Modules of the house that a file imports when it runs, at its top or inside a function."""
    for node in _running(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if inner in known else node.module


def _running(tree: ast.AST) -> Iterator[ast.AST]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        yield node
        yield from _running(node)


def import_graph() -> dict[str, set[str]]:
    """Each module and what it imports of the house."""
    files = module_files()
    graph = {
        name: {other for other in imports(file, files) if other in files} - {name}
        for name, file in files.items()
    }
    graph[FIRST] |= {name for name in files if name.startswith("orchestrator.commands.")}
    return graph


def longest_path(graph: dict[str, set[str]], first: str, last: str) -> list[str]:
    """The longest chain of imports between two modules; raises ``ValueError`` for a circle."""
    walking: set[str] = set()

    @cache
    def below(module: str) -> tuple[str, ...]:
        if module == last:
            return (last,)
        if module in walking:
            raise ValueError(f"{module} imports itself by way of others")
        walking.add(module)
        ways = [way for other in sorted(graph[module]) if (way := below(other))]
        walking.discard(module)
        return (module, *max(ways, key=len)) if ways else ()

    return list(below(first))


def draw(graph: dict[str, set[str]], file: Path) -> None:
    """The rooms, and an arrow for each pair of which one imports the other."""
    import matplotlib.pyplot as plt  # here: who asks for the imports alone does without
    from matplotlib.patches import FancyBboxPatch

    plt.switch_backend("Agg")
    figure, axes = plt.subplots(figsize=(11, 8.4))
    for room, (left, bottom, width, text) in ROOMS.items():
        colour = COLOURS.get(room, "#dbe4ff")
        axes.add_patch(
            FancyBboxPatch(
                (left, bottom),
                width,
                HEIGHT,
                boxstyle="round,pad=0.03",
                facecolor=colour,
                edgecolor="#495057",
                linewidth=1.2,
                zorder=2,
            )
        )
        name = f"{room}/" if room in PACKAGES else f"orchestrator/{room}/"
        middle = left + width / 2
        axes.text(
            middle, bottom + 0.58, name, ha="center", va="center", weight="bold", size=10, zorder=3
        )
        axes.text(middle, bottom + 0.24, text, ha="center", va="center", size=8.5, zorder=3)
    for upper, lower in sorted(_drawn_arrows(graph)):
        _arrow(axes, upper, lower)
    axes.set_xlim(0, 12)
    axes.set_ylim(-2.2, 8.1)
    axes.axis("off")
    figure.savefig(file, dpi=130, bbox_inches="tight")


def _room(module: str) -> str:
    parts = module.split(".")
    inner = parts[0] == "orchestrator" and len(parts) > 2
    return parts[1] if inner else parts[0]


def _drawn_arrows(graph: dict[str, set[str]]) -> set[tuple[str, str]]:
    """Pairs of rooms with an import.

    Left out are pairs that a way over another room shows already, and arrows that would pass
    behind a room.
    """
    pairs = {
        (_room(one), _room(other))
        for one, others in graph.items()
        for other in others
        if _room(one) != _room(other) and _room(one) in ROOMS and _room(other) in ROOMS
    }
    direct = {
        (a, c) for a, c in pairs if not any((a, b) in pairs and (b, c) in pairs for b in ROOMS)
    }
    return {(upper, lower) for upper, lower in direct if not _passes_a_room(upper, lower)}


def _passes_a_room(upper: str, lower: str) -> bool:
    top, bottom = ROOMS[upper][1], ROOMS[lower][1]
    middle, _ = _ends(upper, lower)
    return any(
        bottom < room[1] < top and room[0] <= middle <= room[0] + room[2] for room in ROOMS.values()
    )


def _ends(upper: str, lower: str) -> tuple[float, float]:
    """Where the arrow leaves the upper room, and where it meets the lower one, from the left."""
    (left, _, width, _), (other_left, _, other_width, _) = ROOMS[upper], ROOMS[lower]
    start, end = max(left, other_left), min(left + width, other_left + other_width)
    if end <= start:  # beside each other
        return left + width / 2, other_left + other_width / 2
    return (start + end) / 2, (start + end) / 2


def _arrow(axes: Axes, upper: str, lower: str) -> None:
    x_from, x_to = _ends(upper, lower)
    axes.annotate(
        "", (x_to, ROOMS[lower][1] + HEIGHT + 0.04), (x_from, ROOMS[upper][1] - 0.04),
        arrowprops={"arrowstyle": "-|>", "color": "#495057", "linewidth": 1.3},
    )  # fmt: skip


def main() -> None:
    graph = import_graph()
    draw(graph, Path(sys.argv[1]))
    print("\n".join(longest_path(graph, FIRST, LAST)))


if __name__ == "__main__":
    main()
