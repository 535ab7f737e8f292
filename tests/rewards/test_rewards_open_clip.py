"""open_clip's parameter names to those of transformers, at full size and by value."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from benchmarks.small_models.original_clip import OpenClip
from benchmarks.small_models.tiny_rewards import clip_config, open_clip, save_hps
from policy.errors import UserError
from rewards.models.hps import HpsReward
from rewards.models.open_clip_weights import clip_tensors


def test_every_weight_of_hps_has_its_place_at_full_size() -> None:
    """ViT-H/14 on the meta device: names and shapes, nothing missing and nothing left over."""
    tower = dict(num_hidden_layers=24, hidden_size=1024, num_attention_heads=16,
                 intermediate_size=4096)  # fmt: skip
    config = CLIPConfig(
        text_config=tower | dict(vocab_size=49408),
        vision_config=tower | dict(num_hidden_layers=32, hidden_size=1280,
                                   intermediate_size=5120, image_size=224, patch_size=14),
        projection_dim=1024,
    )  # fmt: skip
    with torch.device("meta"):
        original, ours = OpenClip(config).state_dict(), CLIPModel(config).state_dict()
    translated = clip_tensors(original)
    assert {k: v.shape for k, v in translated.items()} == {k: v.shape for k, v in ours.items()}
    assert sum(tensor.numel() for tensor in translated.values()) == 986_109_441


def test_the_two_models_agree() -> None:
    """The original forward pass and transformers' with the translated weights, to 1e-5."""
    config = clip_config()
    original = open_clip(config, seed=1)
    ours = CLIPModel(config).eval()
    ours.load_state_dict(clip_tensors(original.state_dict()))
    pixels = torch.randn(3, 3, 32, 32)
    ids = torch.tensor([[512, 5, 9, 513], [512, 7, 7, 513], [512, 1, 0, 513]])
    with torch.no_grad():
        output = ours(input_ids=ids, pixel_values=pixels)
    cosine = (output.image_embeds * output.text_embeds).sum(-1)
    assert torch.allclose(cosine, original.cosine(pixels, ids), atol=1e-5)


@pytest.mark.parametrize(
    "key", ["visual.head.weight", "transformer.resblocks.0.attn.bias_k", "transformer.resblocks.x"]
)
def test_an_unknown_key_is_an_error(key: str) -> None:
    """With its name; only buffers are passed over."""
    with pytest.raises(ValueError, match=key):
        clip_tensors({key: torch.zeros(1)})
    assert clip_tensors({"attn_mask": torch.zeros(1)}) == {}


def test_a_file_with_anything_but_tensors_is_refused(tmp_path: Path) -> None:
    """Nothing is unpickled: an object, a key too few and a key too many are each one line."""
    folder = save_hps(tmp_path)
    file = folder / "HPS_v2.1_compressed.pt"
    state = torch.load(file, weights_only=True)["state_dict"]
    for content, message in (
        ({"state_dict": state | {"hook": print}}, "is corrupt"),
        ({"state_dict": {k: v for k, v in state.items() if k != "ln_final.bias"}}, "missing keys"),
        ({"state_dict": state | {"other": torch.zeros(1)}}, "other is not a weight of open_clip"),
        ({"state_dict": state | {"ln_final.bias": torch.zeros(3)}}, "mismatched keys"),
    ):
        torch.save(content, file)
        with pytest.raises(UserError, match=message) as caught:
            HpsReward(str(file), str(folder))
        assert "\n" not in str(caught.value)
