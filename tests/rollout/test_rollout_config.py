"""Settings of rollout: what is refused, and why."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from policy.sampling import Sampling
from rollout.config import RolloutConfig


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("group_size", 1, "an advantage compares a trajectory with the others"),
        ("temperature", 0, "greater than 0"),
        ("max_cot_tokens", 0, "greater than or equal to 1"),
        ("batch_size", 0, "greater than or equal to 1"),
        ("engine", "magic", "transformers"),
        ("top_k", 50, "Extra inputs are not permitted"),
    ],
)
def test_impossible_settings_are_refused(key: str, value: object, reason: str) -> None:
    """Each with the key and the reason."""
    with pytest.raises(ValidationError, match=reason) as caught:
        RolloutConfig.model_validate({"guidance_scale": 1, "max_cot_tokens": 8, key: value})
    assert caught.value.errors()[0]["loc"] == (key,)


def test_vllm_workers_do_not_share_a_gpu() -> None:
    """Each sizes its KV cache by what the GPU has lost since it started; one alone may."""
    settings = dict(
        engine="vllm", device="cuda", guidance_scale=1, max_cot_tokens=8, gpus_per_worker=0.5
    )
    with pytest.raises(ValidationError, match=r"share a GPU.* above 0\.5, not 0\.5"):
        RolloutConfig.model_validate(settings | {"workers": 2})
    for allowed in ({"workers": 1}, {"workers": 2, "gpus_per_worker": 1.0}):
        RolloutConfig.model_validate(settings | allowed)


def test_sampling_is_what_the_settings_say() -> None:
    """Training samples with the three settings of the file."""
    config = RolloutConfig(max_cot_tokens=9, guidance_scale=2.5, temperature=0.5)
    assert config.sampling == Sampling(guidance_scale=2.5, temperature=0.5, max_cot_tokens=9)


@pytest.mark.parametrize("wrong", [(-1, 1, 1), (1, 0, 1), (1, 1, -1)])
def test_an_override_is_checked_as_well(wrong: tuple[float, float, int]) -> None:
    """Sampling made by hand, as evaluation makes it, cannot be impossible either."""
    with pytest.raises(ValueError, match="impossible sampling"):
        Sampling(*wrong)
