"""The settings of ``eg-grpo evaluate``: how images are drawn and which rewards score them.

They have the keys of a training configuration, without those of training. Each suite has a file of
defaults in ``suites/``, which names its scorers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError, field_validator

from orchestrator.settings.config_errors import first_problem
from orchestrator.settings.config_files import merged, read_layers
from orchestrator.settings.overrides import apply_override, split_bases
from orchestrator.settings.run_config import ClusterConfig, check_distinct
from policy import secrets
from policy.base_settings import Dtype, Settings
from policy.errors import UserError
from rewards.config import CacheConfig, RewardConfig
from rollout.config import RolloutConfig

_DEFAULTS = Path(__file__).parent / "suites"
_DATA = "{data}"  # begins a path in a suite's file: the folder of the setting ``data``


class EvaluatedModel(Settings):
    """How the checkpoint of ``--model`` is used."""

    template: str = Field(description="prompt template by name (policy/templates.py)")
    instruction: Path | None = Field(
        default=None, description="file with the CoT instruction; default: the checkpoint's"
    )
    dtype: Dtype = Field(default="float32", description="type of the policy's weights in rollout")
    cot: bool = Field(
        default=True, description="whether a CoT comes before the image; false draws without one"
    )


class SuiteConfig(Settings):
    """All settings of one evaluation."""

    seed: int = Field(default=0, ge=0, description="another seed draws other images")
    deterministic: bool = Field(
        default=False, description="use torch's deterministic algorithms in every worker"
    )
    data: Path = Field(default=Path("data"), description="folder of `eg-grpo data fetch`")
    strata: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="parts of the suite that are measured, such as color, shape; default: all",
    )
    prompts: int | None = Field(
        default=None, ge=1, description="prompts taken from the head of each stratum; default: all"
    )
    images_per_prompt: int | None = Field(
        default=None, ge=1, description="images of each prompt; default: the suite's"
    )
    model: EvaluatedModel
    rollout: RolloutConfig
    rewards: tuple[RewardConfig, ...] = Field(min_length=1, description="the scorers of the suite")
    cache: CacheConfig = CacheConfig(kind="none")
    cluster: ClusterConfig = ClusterConfig()

    @field_validator("rewards")
    @classmethod
    def _check_names(cls, rewards: tuple[RewardConfig, ...]) -> tuple[RewardConfig, ...]:
        check_distinct([reward.name for reward in rewards])
        return rewards


def load_suite_config(
    suite: str, overrides: Sequence[str], sampling: dict[str, Any], template: str
) -> SuiteConfig:
    """The suite's defaults, the files of ``base=`` overrides, then all other overrides.

    ``sampling`` and ``template`` are those of the checkpoint; any layer may replace them. Raises
    ``UserError`` with one line that names the key at fault.
    """
    files, settings = split_bases(overrides)
    checkpoint = {"model": {"template": template}, "rollout": sampling}
    path = _DEFAULTS / f"{suite}.yaml"
    layers = [*read_layers(path), *(layer for file in files for layer in read_layers(file))]
    tree = merged([checkpoint, *layers])
    for override in settings:
        apply_override(tree, override)
    try:
        config = SuiteConfig.model_validate(_below(tree, str(tree.get("data", "data"))))
    except ValidationError as error:
        raise UserError(f"evaluate {suite}: {first_problem(SuiteConfig, error)}") from None
    secrets.hide(secrets.secrets_in(config.model_dump(mode="json")))
    return config


def _below(value: Any, data: str) -> Any:
    """A copy of settings in which ``data`` stands for ``{data}``."""
    if isinstance(value, dict):
        return {key: _below(part, data) for key, part in value.items()}
    if isinstance(value, list):
        return [_below(part, data) for part in value]
    if isinstance(value, str) and value.startswith(_DATA):
        return data + value.removeprefix(_DATA)
    return value
