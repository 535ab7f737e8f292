"""Sampling is given once and travels whole: nobody fills in a guidance or a temperature."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from house import ROOMS

from policy.checkpoint.generation_defaults import GenerationDefaults, load_defaults, save_defaults
from policy.errors import UserError
from policy.sampling import PAPER_SAMPLING, Sampling

ROOT = Path(__file__).parents[2]
NAMES = {"temperature", "guidance_scale", "guidance", "w"}
ALLOWED = {("rollout/config.py", "temperature")}  # the default of rollout.temperature


def defaults(tree: ast.AST) -> Iterator[str]:
    """Parameters and class fields that have a default; Field(ge=0) is none."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            given = [*node.args.posonlyargs, *node.args.args]
            yield from (a.arg for a in given[len(given) - len(node.args.defaults) :])
            pairs = zip(node.args.kwonlyargs, node.args.kw_defaults, strict=True)
            yield from (a.arg for a, default in pairs if default is not None)
        elif isinstance(node, ast.ClassDef):
            for field in node.body:
                if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name):
                    yield from [field.target.id] if _is_default(field.value) else []
                elif isinstance(field, ast.Assign):
                    yield from (t.id for t in field.targets if isinstance(t, ast.Name))


def _is_default(value: ast.expr | None) -> bool:
    if not (isinstance(value, ast.Call) and getattr(value.func, "id", None) in ("Field", "field")):
        return value is not None
    named = {keyword.arg for keyword in value.keywords}
    return bool(value.args) or bool(named & {"default", "default_factory"})


def test_one_place_gives_a_default() -> None:
    """No function and no class of the project or its benchmarks has a default for guidance or
    temperature, but ``rollout.temperature``."""
    found = {
        (str(file.relative_to(ROOT)), name)
        for folder in (*ROOMS, "benchmarks", "examples")
        for file in (ROOT / folder).rglob("*.py")
        for name in NAMES.intersection(defaults(ast.parse(file.read_text(encoding="utf-8"))))
    }
    assert found == ALLOWED


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        ("def f(guidance_scale: float = 1.0): ...", ["guidance_scale"]),
        ("def f(a, *, temperature=1.0, b): ...", ["temperature"]),
        ("class C:\n  temperature: float = Field(1.0, gt=0)", ["temperature"]),
        ("class C:\n  temperature: float = field(default=1.0)", ["temperature"]),
        ("class C:\n  guidance: float = 1.0", ["guidance"]),
        ("class C:\n  temperature: float = Field(gt=0)\n  guidance: float", []),
        ("def f(temperature, *, guidance_scale): ...", []),
    ],
)
def test_a_default_would_be_found(code: str, expected: list[str]) -> None:
    """The ways in which a function, a dataclass or settings can have one, and what is none."""
    assert list(defaults(ast.parse(code))) == expected


def test_a_checkpoint_that_says_nothing_is_sampled_as_in_the_paper(tmp_path: Path) -> None:
    """Guidance 5, temperature 1, CoTs of 1,024 tokens."""
    assert Sampling(guidance_scale=5.0, temperature=1.0, max_cot_tokens=1024) == PAPER_SAMPLING
    assert load_defaults(tmp_path).sampling == PAPER_SAMPLING
    assert load_defaults(tmp_path).template == "janus-plain"


def test_the_file_of_a_checkpoint_has_the_keys_it_always_had(tmp_path: Path) -> None:
    """``eg_grpo.json`` is flat: written to the byte as before, and read as it was written."""
    defaults = GenerationDefaults.of("shapes", None, Sampling(2.0, 0.5, 24))
    save_defaults(tmp_path, defaults)
    text = (tmp_path / "eg_grpo.json").read_text()
    assert text == (
        '{\n  "template": "shapes",\n  "instruction": null,\n  "guidance_scale": 2.0,\n'
        '  "temperature": 0.5,\n  "max_cot_tokens": 24\n}\n'
    )
    assert load_defaults(tmp_path) == defaults


@pytest.mark.parametrize("broken", [[3], {"guidance_scale": -1}, {"top_k": 5}])
def test_a_broken_file_is_named(tmp_path: Path, broken: object) -> None:
    """No object, an impossible number, an unknown key."""
    (tmp_path / "eg_grpo.json").write_text(json.dumps(broken))
    with pytest.raises(UserError, match=r"eg_grpo\.json: "):
        load_defaults(tmp_path)
