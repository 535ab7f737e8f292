"""GenEval's colours and T2I-CompBench's CLIPScore against their own programs, written down.

The numbers are those of https://github.com/djghosh13/geneval at af4902f2 (``evaluate_image`` and
``color_classification``, open_clip_torch 2.20.0, clip-benchmark 1.4.0) and of
https://github.com/Karine-Huang/T2I-CompBench at 1b709499 (``CLIPScore_eval`` with its own ``clip``)
on the same weights, images, boxes and texts; torch 2.13.0, torchvision 0.28.0, Pillow 9.4.0, ftfy
6.3.1, in float32 on a CPU. A detector stands in for GenEval's; it finds boxes and no masks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from transformers import CLIPModel
from written_weights import rewrite_weights

from benchmarks.small_models.tiny_rewards import clip_config, clip_tokenizer
from policy.errors import UserError
from policy.types import Prompt, Score
from rewards.models.clip_score import ClipScorer
from rewards.scorers import geneval
from rewards.scorers.colours import ColourNames, crop
from rewards.scorers.compbench_clip import CompBenchClipReward
from rewards.scorers.openai_clip import OpenAiClipInputs, load_clip, pixels

# Whole, its last column, its last row, one pixel, halves, one column, over the edges, fractions.
BOXES = np.array(
    [
        [0, 0, 40, 200],
        [39, 0, 40, 200],
        [0, 199, 40, 200],
        [20, 100, 21, 101],
        [0.5, 1.5, 38.5, 197.5],
        [3.4, 1.6, 4.6, 150.2],
        [-3.2, -1.5, 30.4, 120.7],
        [12, 100, 45.3, 200.5],
        [10.25, 20.75, 33.3, 41.2],
    ],
    np.float32,
)
NAMED = ["blue", "pink", "blue", "red", "blue", "yellow", "yellow", "yellow", "yellow"]
# A hundred times the cosine, of each box and colour.
LOGITS = [
    [7.04193, 6.63452, 7.55253, 7.13229, 7.76706, 7.02538, 7.53013, 7.19400, 7.63929, 7.28856],
    [7.24639, 7.27488, 7.77204, 7.88970, 8.44495, 7.38984, 8.56746, 7.87605, 8.23502, 7.89480],
    [4.63534, 3.61629, 5.18866, 4.65780, 5.96179, 5.03053, 5.25278, 4.82848, 5.58456, 5.28462],
    [8.95526, 6.37174, 8.07902, 7.16643, 7.99532, 7.29689, 6.95989, 7.14468, 7.48247, 7.12250],
    [6.51292, 6.15595, 7.08204, 6.50768, 7.20616, 6.59536, 6.90519, 6.54891, 7.00885, 6.65578],
    [3.97373, 4.68476, 5.62502, 2.42636, 3.29412, 4.71077, 2.51075, 2.70496, 3.05257, 2.60462],
    [9.42837, 7.89994, 9.53909, 7.56038, 8.43667, 8.44125, 7.38248, 7.77387, 8.20733, 7.77323],
    [6.85389, 5.74578, 6.89355, 5.49515, 6.48988, 6.22498, 5.87973, 5.55783, 5.87850, 5.45085],
    [6.63893, 5.79867, 7.46735, 4.56831, 5.63778, 6.60241, 4.33965, 4.88164, 5.31745, 4.90536],
]
TALL = [6.86415, 4.88988, 6.61788, 6.05600, 6.99245, 5.81046, 6.00144, 6.16948, 6.98910, 6.68031]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Weights that half precision holds, to which the original's loader rounds what it is given."""
    folder = tmp_path_factory.mktemp("clip")
    config = clip_config(width=128)
    config.text_config.hidden_act = config.vision_config.hidden_act = "quick_gelu"
    CLIPModel(config).save_pretrained(folder)
    clip_tokenizer().save_pretrained(folder)
    file = rewrite_weights(folder) / "model.safetensors"
    halves = {name: tensor.half().float() for name, tensor in load_file(file).items()}
    save_file(halves, file, metadata={"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def clip(folder: Path) -> ClipScorer:
    return load_clip(str(folder), torch.device("cpu"), torch.float32)[0]


def noise(seed: int, height: int, width: int) -> NDArray[np.uint8]:
    values = np.random.RandomState(seed).randint(0, 256, (height, width, 3))
    return values.astype(np.uint8)


def blocks() -> NDArray[np.uint8]:
    """Five rows of four colours, 200 x 40."""
    return noise(22, 5, 4).repeat(40, axis=0).repeat(10, axis=1)


def logits(clip: ClipScorer, image: NDArray[np.uint8], name: str, boxes: Any) -> torch.Tensor:
    with torch.inference_mode():
        features = clip.image_features([crop(image, box) for box in boxes])
        return 100 * features @ ColourNames(clip)._text_features(name).T


def test_the_colours_of_boxes_are_genevals(clip: ClipScorer) -> None:
    """Of nine boxes, whose corners are fractions, halves, or outside the image."""
    assert ColourNames(clip).of(blocks(), "tennis racket", BOXES) == NAMED
    found = logits(clip, blocks(), "tennis racket", BOXES)
    assert torch.allclose(found, torch.tensor(LOGITS), rtol=0, atol=5e-5)


def test_a_tall_object_has_the_colour_that_older_pillows_give_it(clip: ClipScorer) -> None:
    """Pillow 13 alone would find it black."""
    image, whole = noise(5, 200, 37), np.array([[0, 0, 37, 200]], np.float32)
    assert ColourNames(clip).of(image, "bird", whole) == ["blue"]
    found = logits(clip, image, "bird", whole)
    assert torch.allclose(found, torch.tensor([TALL]), rtol=0, atol=5e-5)


# Four rackets, of which one is too uncertain, and two birds.
FOUND = {
    "tennis racket": (BOXES[[0, 1, 3, 5]], np.array([0.9, 0.8, 0.7, 0.2], np.float32)),
    "bird": (BOXES[[8, 6]], np.array([0.6, 0.95], np.float32)),
}


class NoDetector:
    """What is found is given."""

    digest = ""

    def __init__(self, *_: str) -> None: ...

    @staticmethod
    def check(*_: str) -> None: ...


RACKET = {"class": "tennis racket", "count": 1}
BLUE = RACKET | {"color": "blue"}
BIRD = {"class": "bird", "count": 1, "color": "red"}
VERDICTS = [
    ([BLUE], 1),
    ([RACKET | {"color": "pink"}], 0),  # the second best is
    ([BLUE | {"count": 2}], 0),
    ([RACKET | {"count": 3}], 1),
    ([RACKET | {"count": 4}], 0),
    ([BLUE, BIRD], 1),
    ([BLUE, BIRD | {"position": ["above", 0]}], 0),
    ([RACKET | {"color": "pink"}, {"class": "bird", "count": 1, "position": ["above", 0]}], 0),
]  # fmt: skip


def test_the_verdicts_are_genevals(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of eight requests for one image."""
    monkeypatch.setattr(geneval, "GroundingDino", NoDetector)
    monkeypatch.setattr(
        geneval,
        "locate",
        lambda _, images, names, __: [{name: FOUND[name] for name in some} for some in names],
    )
    prompts = [
        Prompt(f"t:{number}", "", "", evaluation={"tag": "colors", "include": include})
        for number, (include, _) in enumerate(VERDICTS)
    ]
    results = geneval.GenEvalReward("", str(folder)).score([blocks()] * len(prompts), prompts)
    assert results == [Score(float(value)) for _, value in VERDICTS]


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ("A man\u2019s red hat, and a dog\u2019s bowl.", [0.0451382, 0.0483760, 0.0754903]),
        ("Tom &amp;  Jerry", [0.0640109, 0.0623433, 0.0770928]),
        ("a caf\u00c3\u00a9 at 5:30", [0.0560973, 0.0622930, 0.0852743]),
        ("A chef cooks \u201cdinner\u201d", [0.0793665, 0.0844540, 0.0885428]),
        ("a" * 75, [0.0684658, 0.0779449, 0.0875716]),
    ],
    ids=["apostrophe", "entity", "mojibake", "quotes", "77 tokens"],
)
def test_the_cosines_are_the_original_compbenchs(
    folder: Path, text: str, values: list[float]
) -> None:
    """Of images of three shapes, one of them tall."""
    seen = [noise(1, 31, 47), noise(5, 200, 37), blocks()]
    results = CompBenchClipReward(str(folder)).score(seen, [Prompt("t:1", text, "")] * 3)
    found = [result.value for result in results if isinstance(result, Score)]
    assert found == pytest.approx(values, abs=1e-6)


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("A cat\u2019s", "a</w> c a t</w> ' s</w>"),
        ("Tom &amp;amp; Jerry", "t o m</w> &</w> j e r r y</w>"),
        ("Caf\u00c3\u00a9!", "c a f \u00c3 \u00a9</w> !</w>"),
        ("I'LL 12", "i</w> ' l l</w> 1</w> 2</w>"),
        ("  a \n b\t", "a</w> b</w>"),
        ("\ufb01ne \u039f\u03a3", "f i n e</w> \u00ce \u00bf \u00cf \u0124</w>"),
        ("x <|startoftext|>y", "x</w> <|startoftext|> y</w>"),
        ("<start_of_text>", "<</w> s t a r t</w> _</w> o f</w> _</w> t e x t</w> ></w>"),
    ],
)
def test_a_text_is_read_as_openai_reads_it(folder: Path, text: str, pieces: str) -> None:
    """Repaired, entities decoded, in lower case; bytes of words in a vocabulary without merges."""
    names = {number: piece for piece, number in clip_tokenizer().get_vocab().items()}
    ids = OpenAiClipInputs(folder, 32).texts([text])["input_ids"][0].tolist()
    assert [names[number] for number in ids] == [
        "<|startoftext|>", *pieces.split(), "<|endoftext|>",
    ]  # fmt: skip


def test_tall_images_are_resized_across_first() -> None:
    """50 x 9 to the 4 x 4 in its middle: the first colour whole, and the sum of each."""
    red = [
        [-0.303223, 0.572683, -0.201034, 0.543486],
        [-0.201034, 0.558084, -1.003947, -0.347018],
        [-0.142640, 0.003344, 0.076336, -0.055050],
        [0.193124, -0.230231, -0.536798, 0.105533],
    ]
    found = pixels(noise(3, 50, 9), 4)
    assert torch.allclose(found[0], torch.tensor(red), rtol=0, atol=2e-6)
    sums = torch.tensor([-0.9684, 3.8279, 3.5906])
    assert torch.allclose(found.sum((1, 2)), sums, rtol=0, atol=1e-4)


def test_a_vocabulary_without_the_begin_of_text_is_refused(tmp_path: Path) -> None:
    """In one line."""
    clip_tokenizer().save_pretrained(tmp_path)
    file = tmp_path / "tokenizer.json"
    file.write_text(file.read_text().replace("<|startoftext|>", "<|begin|>"))
    with pytest.raises(UserError, match=r"its tokenizer has no token '<\|startoftext\|>'"):
        OpenAiClipInputs(tmp_path, 32)
