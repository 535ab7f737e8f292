"""GroundingDINO against its authors' code: positions, probabilities and boxes, written down.

The numbers are those of https://github.com/IDEA-Research/GroundingDINO at 856dde2, run on the
same weights, tokens and pixels (BERT as in transformers 4.41.2).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from written_weights import rewrite_weights

from benchmarks.small_models.tiny_rewards import grounding_dino_config, images, save_grounding_dino
from policy.errors import UserError
from rewards.detection.detection_score import VARIANTS
from rewards.models import pretrained as loading
from rewards.models.grounding_dino import GroundingDinoReward
from rewards.models.grounding_dino_text import phrase_positions

CAPTIONS = ("car . zebra.", "bird . dog.")  # the first is padded to the length of the second
POSITIONS = ([0, 0, 1, 0, 1, 0, 0, 0], [0, 0, 1, 0, 1, 2, 3, 0])
PROBABILITIES = (
    [
        [0.625550, 0.617130, 0.619417, 0.667040, 0.649480, 0.738461],
        [0.676169, 0.641760, 0.622783, 0.718788, 0.665921, 0.755387],
        [0.710864, 0.656782, 0.622486, 0.728142, 0.676367, 0.756738],
    ],
    [
        [0.698873, 0.657081, 0.736299, 0.653820, 0.433300, 0.820062, 0.727661, 0.780398],
        [0.624751, 0.571180, 0.641019, 0.540466, 0.339047, 0.744102, 0.638399, 0.700316],
        [0.753170, 0.675533, 0.702143, 0.617551, 0.509660, 0.772468, 0.669414, 0.771063],
    ],
)
BOXES = (
    [
        [0.280894, 0.703311, 0.361405, 0.303805],
        [0.026948, 0.643868, 0.056836, 0.040172],
        [0.092374, 0.974004, 0.056631, 0.039175],
    ],
    [
        [0.490383, 0.634374, 0.047655, 0.038904],
        [0.277355, 0.841850, 0.055463, 0.040637],
        [0.028793, 0.974760, 0.055094, 0.037636],
    ],
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the authors' width, which their code has as a constant."""
    folder = tmp_path_factory.mktemp("grounding_dino")
    return rewrite_weights(save_grounding_dino(folder, grounding_dino_config(256)))


def tokens_and_pixels(reward: GroundingDinoReward, rows: list[int]) -> dict[str, Any]:
    captions = [CAPTIONS[row] for row in rows]
    pixels = reward._detector.image_processor([images(2)[row] for row in rows], return_tensors="pt")
    return dict(reward._detector.tokenizer(captions, padding=True, return_tensors="pt")) | dict(
        pixels
    )


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("rows", [[0], [1], [0, 1]])
def test_the_detector_gives_the_authors_numbers(
    folder: Path, variant: Any, rows: list[int]
) -> None:
    """In every variant, for a caption alone and for one that is padded beside a longer one."""
    reward = GroundingDinoReward(str(folder), variant=variant)
    with torch.inference_mode():
        output = reward._detector.model(**tokens_and_pixels(reward, rows))
    for place, row in enumerate(rows):
        probability_QT = torch.tensor(PROBABILITIES[row])
        found_QT = output.logits[place].sigmoid()[:, : probability_QT.shape[1]]
        assert torch.allclose(found_QT, probability_QT, rtol=0, atol=2e-6)
        assert torch.allclose(output.pred_boxes[place], torch.tensor(BOXES[row]), rtol=0, atol=2e-6)


def test_both_readers_of_the_text_get_the_authors_positions(folder: Path) -> None:
    """The text backbone as indices, the encoder in the dtype of its sines and cosines."""
    reward = GroundingDinoReward(str(folder))
    seen: dict[str, Any] = {}
    inner = reward._detector.model.model
    inner.text_backbone.embeddings.register_forward_pre_hook(
        lambda module, inputs, named: seen.update(backbone=named["position_ids"]), with_kwargs=True
    )
    inner.encoder.layers[0].register_forward_pre_hook(
        lambda module, inputs, named: seen.update(encoder=named["text_position_ids"]),
        with_kwargs=True,
    )
    with torch.inference_mode():
        reward._detector.model(**tokens_and_pixels(reward, [0, 1]))
    assert seen["backbone"].tolist() == list(POSITIONS)
    assert seen["backbone"].dtype == torch.int64
    assert seen["encoder"].tolist() == list(POSITIONS)
    assert seen["encoder"].dtype == torch.float32


def test_a_position_is_the_place_in_its_phrase() -> None:
    """``ice cream . owl.``: the mask's blocks are [CLS], the first phrase, the second, [SEP]."""
    mask_TT = torch.block_diag(*[torch.ones(n, n) for n in (1, 3, 2, 1)]).bool()
    assert phrase_positions(mask_TT[None]).tolist() == [[0, 0, 1, 2, 0, 1, 0]]


def test_a_tokenizer_with_other_separators_is_refused(folder: Path, tmp_path: Path) -> None:
    """transformers looks for BERT's numbers; with others no phrase would ever end."""
    for file in folder.iterdir():
        (tmp_path / file.name).symlink_to(file)
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["."], vocabulary["car"] = vocabulary["car"], vocabulary["."]
    (tmp_path / "tokenizer.json").unlink()
    (tmp_path / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(UserError, match=r"token '\.' of its tokenizer is not 1012") as caught:
        GroundingDinoReward(str(tmp_path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", ["5.16.1", "5.23.1", "5.24.0.dev0", "5.25.0", "6.0.0"])
def test_an_unchecked_version_of_transformers_is_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    """Before any worker starts, with the versions that were checked."""
    monkeypatch.setattr(loading.transformers, "__version__", version)
    with pytest.raises(UserError, match=rf"transformers {version} .*5\.19\.0") as caught:
        GroundingDinoReward.check(str(folder))
    assert "\n" not in str(caught.value)
