"""CLIPScore, aesthetics and image features on a tiny CLIP: formulas in plain torch, and the traps.

The cosines are those of OpenAI's equations (convolution, norms, attention, x sigmoid(1.702 x)) in
plain torch on the checkpoint's own tensors, without transformers.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn.functional import normalize
from transformers import BitImageProcessorPil, Dinov2Model
from written_weights import rewrite_weights

from benchmarks.small_models.tiny_rewards import PROMPTS, images
from benchmarks.small_models.tiny_scorers import save_dinov2, save_openai_clip
from evaluation.diversity import vendi
from policy.checkpoint.weight_files import read_tensors
from policy.errors import UserError
from policy.types import Prompt, RewardFailure, Score
from rewards.scorers.aesthetic import AestheticReward, linear_maps, rating
from rewards.scorers.compbench_clip import CompBenchClipReward
from rewards.scorers.image_features import ImageFeaturesReward
from rewards.scorers.openai_clip import load_clip, pixels
from rewards.scoring import RewardScorer

COSINES = {
    "t:1": 0.196896, "t:2": 0.200907, "t:3": 0.220901, "t:4": 0.151454, "t:5": 0.148528,
    "t:6": 0.233265,
}  # fmt: skip
LAION = Path(__file__).parents[3] / "shared" / "data" / "laion"
V2 = {"layers.0": 1024, "layers.2": 128, "layers.4": 64, "layers.6": 16, "layers.7": 1}


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(rewrite_weights(save_openai_clip(tmp_path_factory.mktemp("clip"))))


def values(results: list[object]) -> list[float]:
    assert all(isinstance(result, Score) for result in results)
    return [result.value for result in results]  # type: ignore[attr-defined]


def test_the_cosines_are_openais(clip: str) -> None:
    """Of six images and prompts in one padded batch, to 2e-6."""
    results = CompBenchClipReward(clip).score(images(len(PROMPTS)), PROMPTS)
    found = dict(zip((prompt.id for prompt in PROMPTS), values(list(results)), strict=True))
    assert found == pytest.approx(COSINES, abs=2e-6)


def test_a_complex_prompt_is_compared_without_its_adjectives(clip: str) -> None:
    """``clip_text`` takes the place of the prompt."""
    reward = CompBenchClipReward(clip)
    asked = Prompt("t", "a red book", "complex", evaluation={"clip_text": "a book"})
    assert reward.score(images(1), [asked]) == reward.score(
        images(1), [Prompt("t", "a book", "complex")]
    )
    assert reward.score(images(1), [asked]) != reward.score(
        images(1), [Prompt("t", "a red book", "complex")]
    )


def test_a_text_of_78_tokens_fails_and_is_not_cut(clip: str) -> None:
    """The tiny vocabulary has a token a letter, and two are added: 75 letters are read."""
    scorer = RewardScorer(CompBenchClipReward(clip), batch_size=8)
    results = scorer.score(images(2), [Prompt("a", "a" * 75, ""), Prompt("b", "a" * 76, "")])
    assert isinstance(results[0], Score)
    assert results[1] == RewardFailure("ValueError: a text of 78 tokens: CLIP reads 77")


def test_another_activation_is_refused(tmp_path: Path) -> None:
    """The weights would load, and every score would be wrong."""
    folder = str(save_openai_clip(tmp_path, "gelu"))
    with pytest.raises(UserError, match=r"text_config\.hidden_act is 'gelu', and OpenAI's models"):
        CompBenchClipReward.check(folder)


@pytest.mark.parametrize(("width", "first"), [(4, 0), (5, 0), (6, 1), (7, 2), (8, 2), (11, 4)])
def test_the_middle_begins_at_the_half_that_is_even(width: int, first: int) -> None:
    """round(0.5) is 0, round(1.5) is 2 and round(3.5) is 4; // 2 would give 0, 1 and 3."""
    columns = np.arange(4 * width * 3, dtype=np.uint8).reshape(4, width, 3)
    kept = torch.tensor(columns[:, first : first + 4]).permute(2, 0, 1) / 255
    mean = torch.tensor([0.48145466, 0.4578275, 0.40821073])[:, None, None]
    deviation = torch.tensor([0.26862954, 0.26130258, 0.27577711])[:, None, None]
    assert torch.allclose(pixels(columns, 4), (kept - mean) / deviation, atol=1e-6)


def test_the_shortest_side_is_resized() -> None:
    """48 x 96 becomes 24 x 48, of which 24 x 24 is kept: a fixed point is a grey image."""
    grey = np.full((48, 96, 3), 119, np.uint8)
    assert pixels(grey, 24).shape == (3, 24, 24)
    assert pixels(grey, 24)[0].unique().tolist() == pytest.approx([-0.055050], abs=1e-6)


def head(folder: Path, tensors: dict[str, torch.Tensor]) -> str:
    torch.save(tensors, folder / "head.pth")
    return str(folder / "head.pth")


def test_version_1_is_one_linear_map(clip: str, tmp_path: Path) -> None:
    """Of the unit vector: an unnormalised one would give another number."""
    weight = torch.linspace(-1, 1, 32)[None]
    file = head(tmp_path, {"weight": weight, "bias": torch.tensor([5.0])})
    scorer, _ = load_clip(clip, torch.device("cpu"), torch.float32)
    features = scorer.image_features(images(2))
    assert features.norm(dim=-1).tolist() == pytest.approx([1, 1], abs=1e-6)
    expected = [5 + float(row @ weight[0]) for row in features]
    results = AestheticReward(file, clip).score(images(2), PROMPTS[:2])
    assert values(list(results)) == pytest.approx(expected, abs=1e-5)


def test_version_2_has_five_maps_and_no_activation() -> None:
    """2 (1 x + 1) + 1, with a negative number on the way: -3 -> -2 -> -3 -> -3 -> -3 -> -3."""
    one, zero = torch.eye(1), torch.zeros(1)
    maps = [(one, zero + 1), (2 * one, zero + 1), (one, zero), (one, zero), (one, zero)]
    assert rating(torch.tensor([[-3.0], [0.0]]), maps).tolist() == [-3.0, 3.0]


def test_zero_features_get_the_bias() -> None:
    """Whatever the weights are."""
    assert rating(torch.zeros(1, 3), [(torch.ones(1, 3), torch.tensor([4.5]))]).tolist() == [4.5]


def test_the_version_is_read_from_the_tensors() -> None:
    """Names of version 1, of version 2, and of neither."""
    tensors, width = {}, 768
    for name, size in V2.items():
        tensors |= {f"{name}.weight": torch.zeros(size, width), f"{name}.bias": torch.zeros(size)}
        width = size
    assert [weight.shape[0] for weight, _ in linear_maps(tensors, Path("f"))] == list(V2.values())
    with pytest.raises(UserError, match=r"head f is no head of LAION's predictors: weight$"):
        linear_maps({"weight": torch.zeros(1, 768)}, Path("f"))


@pytest.mark.skipif(not LAION.is_dir(), reason="the published head is not part of the repository")
def test_the_published_head_is_version_1() -> None:
    """Its numbers for the random vectors of the data folder, in float64."""
    data = np.load(LAION / "aesthetic.npz")
    (weight, bias) = linear_maps(read_tensors([LAION / "sa_0_4_vit_l_14_linear.pth"]), LAION)[0]
    expected = data["random5"].astype(float) @ data["v1_weight"][0].astype(float) + data["v1_bias"]
    found = rating(torch.tensor(data["random5"]), [(weight, bias)])
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-5)


def test_a_head_of_another_clip_is_refused(clip: str, tmp_path: Path) -> None:
    """With both widths; and a head that is not there."""
    file = head(tmp_path, {"weight": torch.zeros(1, 768), "bias": torch.zeros(1)})
    with pytest.raises(UserError, match="it reads 768 features, and the CLIP has 32"):
        AestheticReward(file, clip)
    with pytest.raises(UserError, match="head nowhere does not exist"):
        AestheticReward.check("nowhere", clip)


def test_image_features_are_unit_vectors_for_the_vendi_score(clip: str) -> None:
    """The parts f0 to f31 in order; twice the same two images are two images."""
    twice = [*images(2), *images(2)]
    results = ImageFeaturesReward(clip).score(twice, [PROMPTS[0]] * 4)
    details = [result.detail or {} for result in results if isinstance(result, Score)]
    assert [list(detail) for detail in details] == [[f"f{place}" for place in range(32)]] * 4
    features = np.array([list(detail.values()) for detail in details])
    assert np.linalg.norm(features, axis=1) == pytest.approx(np.ones(4), abs=1e-6)
    assert vendi(features) == pytest.approx(vendi(features[:2]), abs=1e-5)


def test_features_of_dinov2_are_its_class_token(tmp_path: Path) -> None:
    """By the folder's own preparation."""
    folder = save_dinov2(tmp_path)
    (result,) = ImageFeaturesReward(str(folder)).score(images(1, size=30), PROMPTS[:1])
    assert isinstance(result, Score)
    reward = ImageFeaturesReward(str(folder))
    assert reward.digest
    model = Dinov2Model.from_pretrained(folder).eval()
    prepared = BitImageProcessorPil.from_pretrained(folder)(
        images(1, size=30), return_tensors="pt"
    ).pixel_values
    with torch.no_grad():
        token = normalize(model(pixel_values=prepared).last_hidden_state[0, 0], dim=-1)
    assert list((result.detail or {}).values()) == pytest.approx(token.tolist(), abs=1e-6)


def test_features_of_another_model_are_refused(tmp_path: Path) -> None:
    """With its kind."""
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    save_file({"a": torch.zeros(1)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="model_type is 'vit', not 'clip' or 'dinov2'"):
        ImageFeaturesReward.check(str(tmp_path))
