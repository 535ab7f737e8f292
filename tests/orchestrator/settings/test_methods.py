"""The token methods as settings: presets, and needs that a configuration does not meet."""

from __future__ import annotations

from pathlib import Path

import pytest

from learner.algorithm.choices import WITH_REFERENCE, WITH_UNCONDITIONAL
from learner.algorithm.methods.contrast import Contrast
from learner.algorithm.methods.critical import Critical
from learner.algorithm.methods.eg_grpo import EgGrpo
from learner.algorithm.methods.similarity import Similarity
from learner.algorithm.methods.top_entropy import TopEntropy
from learner.config import AlgorithmConfig
from orchestrator.settings.run_config import load_config
from policy.errors import UserError

CONFIGS = Path(__file__).parents[3] / "configs"
SHAPES = CONFIGS / "shapes.yaml"
GUIDED = "rollout.guidance_scale=2"
METHODS = {
    "top-entropy": TopEntropy,
    "similarity": Similarity,
    "contrast": Contrast,
    "critical": Critical,
}


@pytest.mark.parametrize("name", METHODS)
def test_a_preset_over_any_configuration_chooses_its_method(name: str) -> None:
    """Over the shapes world, plain GRPO, and the paper's rules, which it makes useless."""
    preset, paper = f"base=methods/{name}", "base=presets/as-paper"
    for base, overrides in (
        ("shapes", [preset]), ("ablations/grpo", [preset]), ("shapes", [paper, preset]),
    ):  # fmt: skip
        algorithm = load_config(Path(base), [*overrides, GUIDED]).algorithm
        assert type(algorithm.objective().method) is METHODS[name]
        assert (algorithm.method, algorithm.modalities, algorithm.bonus) == (name, "both", "capped")
    files = {path.stem for path in (CONFIGS / "methods").iterdir()}
    assert files == {*METHODS, "entropy-control"}


def test_entropy_control_is_added_to_any_method() -> None:
    """Its preset leaves the method as it is."""
    control, similarity = "base=methods/entropy-control", "base=methods/similarity"
    for overrides, kind in (([control], EgGrpo), ([control, similarity], Similarity)):
        algorithm = load_config(Path("shapes"), overrides).algorithm
        assert algorithm.entropy_control is not None
        assert algorithm.entropy_control.image_target == 7.0
        assert type(algorithm.objective().method) is kind


def test_settings_reach_their_method() -> None:
    """Also those of EG-GRPO, which is the default."""
    entropy = ["algorithm.method=top-entropy", "algorithm.top_entropy={fraction: 0.3}"]
    assert load_config(SHAPES, entropy).algorithm.objective().method == TopEntropy(0.3)
    leak = ["algorithm.method=critical", "algorithm.critical.leak=true"]
    assert load_config(SHAPES, leak).algorithm.objective().method == Critical(leak=True)
    budget = ["algorithm.bonus=budget", "algorithm.kappa=1.1"]
    found = load_config(SHAPES, budget).algorithm.objective().method
    assert found == EgGrpo(bonus="budget", kappa=1.1)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ["method=contrast"],
            "rollout.guidance_scale: algorithm.method contrast compares log-prob",
        ),
        (["method=critical", "kl_beta=0"], "algorithm.kl_beta: method critical compares with the "),
        (
            ["entropy_control={cot_target: 2, image_target: 7}", "aggregation=sequence-mean"],
            "algorithm.entropy_control: is a mean over tokens: aggregation must be token-mean",
        ),
        (
            ["distillation_weight=0.1"],
            "algorithm.distillation_weight: there is no guidance to distil: rollout.guidance_scale",
        ),
        (
            ["distillation_weight=0.1", "trained_distribution=guided"],
            "algorithm.distillation_weight: pulls towards the distribution that is sampled, and wi",
        ),
        (["method=gcpo"], "algorithm.method: Input should be 'eg-grpo', 'top-entropy', "),
        (["method=top-entropy", "top_entropy.fraction=0"], "algorithm.top_entropy.fraction: Input"),
    ],
)
def test_a_missing_need_is_one_line(overrides: list[str], expected: str) -> None:
    """With the key that has to change."""
    with pytest.raises(UserError) as caught:
        load_config(SHAPES, [f"algorithm.{override}" for override in overrides])
    line = str(caught.value).removeprefix(f"{SHAPES}: ")
    assert line.startswith(expected)
    assert "\n" not in line


def test_guidance_that_falls_through_1_is_named_by_its_end() -> None:
    """The scale at the start is fine; the line says which step has none."""
    falls = ["rollout.guidance_scale=5", "rollout.final_guidance_scale=1"]
    with pytest.raises(UserError) as caught:
        load_config(SHAPES, ["algorithm.method=contrast", *falls])
    line = str(caught.value).removeprefix(f"{SHAPES}: ")
    assert line.startswith("rollout.final_guidance_scale: algorithm.method contrast compares log")
    assert line.endswith("a scale other than 1, not a way through 1 (step 80 has it)")


@pytest.mark.parametrize("name", ["eg-grpo", *METHODS])
def test_the_settings_know_what_a_method_needs_without_its_code(name: str) -> None:
    """The names that are checked before torch is imported are those of the methods themselves."""
    needs = AlgorithmConfig(method=name).objective().method.needs
    assert ("reference" in needs) == (name in WITH_REFERENCE)
    assert ("unconditional" in needs) == (name in WITH_UNCONDITIONAL)
