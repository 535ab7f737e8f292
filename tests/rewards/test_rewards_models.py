"""The four reward models on tiny random checkpoints: each score against its formula, written anew.

The formulas use the models of transformers on one image at a time, with all logits and a softmax,
and none of the code in ``rewards/`` beyond the class under test.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import (
    AutoTokenizer,
    CLIPModel,
    GitForCausalLM,
    LlavaOnevisionForConditionalGeneration,
)

from benchmarks.small_models.tiny_rewards import (
    PROMPTS,
    clip_config,
    clip_tokenizer,
    images,
    open_clip,
    save_clip,
    save_git,
    save_grounding_dino,
    save_hps,
    save_orm,
)
from policy.errors import UserError
from policy.types import Prompt, RewardFailure, RewardResult, Score
from rewards.config import RewardConfig
from rewards.detection.detection_score import VARIANTS
from rewards.factory import check_factory
from rewards.models.clip_score import ClipScoreReward
from rewards.models.git import GitReward
from rewards.models.grounding_dino import GroundingDinoReward
from rewards.models.hps import HpsReward
from rewards.models.hps_inputs import pixels as hps_pixels
from rewards.models.orm import OrmReward

IMAGES = images(len(PROMPTS))
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("rewards")
    builders: dict[str, Callable[[Path], Path]] = {
        "hps": save_hps,
        "clip": save_clip,
        "git": save_git,
        "grounding_dino": save_grounding_dino,
        "orm": save_orm,
    }
    return {name: save(root / name) for name, save in builders.items()}


@pytest.fixture(scope="module")
def rewards(folders: dict[str, Path]) -> dict[str, Any]:
    return {
        "hps": HpsReward(str(folders["hps"]), str(folders["hps"])),
        "clip": ClipScoreReward(str(folders["clip"]), logit_scale=True),
        "git": GitReward(str(folders["git"])),
        "grounding_dino": GroundingDinoReward(str(folders["grounding_dino"])),
        "orm": OrmReward(str(folders["orm"]), dtype="float32"),
    }


def values(results: list[RewardResult]) -> list[float]:
    assert all(isinstance(result, Score) for result in results)
    return [result.value for result in results]  # type: ignore[union-attr]


def pixels(image: NDArray[np.uint8], size: int, mean: Any, std: Any, filter: Any) -> torch.Tensor:
    """Resized, scaled to [0, 1] and normalised: 1 3 H W."""
    resized = Image.fromarray(image).resize((size, size), filter)
    scaled = (np.asarray(resized) / 255 - np.array(mean)) / np.array(std)
    return torch.tensor(scaled.transpose(2, 0, 1)[None], dtype=torch.float32)


def clip_pixels(image: NDArray[np.uint8]) -> torch.Tensor:
    return pixels(image, 32, CLIP_MEAN, CLIP_STD, Image.Resampling.BICUBIC)


NAMES = ["hps", "clip", "git", "grounding_dino", "orm"]


@pytest.mark.parametrize("name", NAMES)
def test_a_mixed_batch_equals_one_at_a_time(rewards: dict[str, Any], name: str) -> None:
    """Six prompts of six task types and lengths at once, one by one, and in the other order."""
    reward = rewards[name]
    together = reward.score(IMAGES, PROMPTS)
    alone = [reward.score([i], [p])[0] for i, p in zip(IMAGES, PROMPTS, strict=True)]
    turned = reward.score(IMAGES[::-1], PROMPTS[::-1])[::-1]
    assert values(together) == pytest.approx(values(alone), abs=2e-6)
    assert values(together) == pytest.approx(values(turned), abs=2e-6)
    assert [r.applicable for r in together] == [r.applicable for r in alone]
    assert len(set(values(together))) > 2  # they do tell images apart


def test_hps_is_the_cosine_of_the_original_clip(rewards: dict[str, Any]) -> None:
    """open_clip's own forward pass, with its parameter names, on ids made by hand.

    The pixels, and texts in general, are held by ``test_rewards_hps.py``.
    """
    original = open_clip(clip_config())
    vocabulary = clip_tokenizer().get_vocab()
    expected = []
    for image, prompt in zip(IMAGES, PROMPTS, strict=True):
        words = prompt.text.lower().replace(".", " .").split()
        pieces = [piece for word in words for piece in [*word[:-1], f"{word[-1]}</w>"]]
        ids = torch.tensor([[512, *(vocabulary[piece] for piece in pieces), 513]])
        expected.append(float(original.cosine(hps_pixels(image, 32)[None], ids)))
    assert values(rewards["hps"].score(IMAGES, PROMPTS)) == pytest.approx(expected, abs=1e-5)


def test_a_reward_tells_its_weights_apart(
    folders: dict[str, Path], rewards: dict[str, Any], tmp_path: Path
) -> None:
    """``digest`` is the same for the same file and another for other weights of the same size."""
    assert len({reward.digest for reward in rewards.values()}) == len(rewards)
    again = HpsReward(str(folders["hps"]), str(folders["hps"]))
    other = save_hps(tmp_path, seed=7)
    assert again.digest == rewards["hps"].digest
    assert HpsReward(str(other), str(other)).digest != again.digest


def test_a_long_prompt_is_cut_to_the_context_and_keeps_its_end(rewards: dict[str, Any]) -> None:
    """77 tokens, of which the last is the end of text: what comes after changes nothing."""
    long = Prompt("t:1", "abcdefghij" * 8, "color")
    longer = Prompt("t:2", "abcdefghij" * 9, "color")
    results = rewards["hps"].score([IMAGES[0]] * 2, [long, longer])
    assert results[0] == results[1]
    letter = clip_tokenizer().get_vocab()
    ids = torch.tensor([[512, *(letter[c] for c in long.text[:75]), 513]])
    expected = float(open_clip(clip_config()).cosine(hps_pixels(IMAGES[0], 32)[None], ids))
    assert results[0].value == pytest.approx(expected, abs=1e-5)


def test_pickscore_is_the_scaled_cosine(folders: dict[str, Path], rewards: dict[str, Any]) -> None:
    """exp(logit_scale) x cosine of transformers' own embeddings; without the scale, the cosine."""
    model = CLIPModel.from_pretrained(folders["clip"]).eval()
    expected = []
    for image, prompt in zip(IMAGES, PROMPTS, strict=True):
        ids = rewards["clip"]._scorer.inputs.tokenizer(prompt.text, return_tensors="pt").input_ids
        with torch.no_grad():
            output = model(input_ids=ids, pixel_values=clip_pixels(image))
        expected.append(float(output.logits_per_image[0, 0]))
    assert values(rewards["clip"].score(IMAGES, PROMPTS)) == pytest.approx(expected, abs=1e-4)
    scale = model.logit_scale.exp().item()
    plain = ClipScoreReward(str(folders["clip"]), processor=str(folders["hps"]))
    assert values(plain.score(IMAGES, PROMPTS)) == pytest.approx(
        [value / scale for value in expected], abs=1e-5
    )


def test_git_is_the_mean_probability_of_yes(
    folders: dict[str, Path], rewards: dict[str, Any]
) -> None:
    """[CLS] + question, no [SEP]; softmax over the whole vocabulary at the last position."""
    model = GitForCausalLM.from_pretrained(folders["git"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(folders["git"])
    yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
    asked = {"t:3": ["blue bird?", "brown chair?"], "t:4": ["butterfly?", "garden?"],
             "t:5": ["conical ice cream cone?"]}  # fmt: skip
    results = dict(zip([p.id for p in PROMPTS], rewards["git"].score(IMAGES, PROMPTS), strict=True))
    for image, prompt in zip(IMAGES, PROMPTS, strict=True):
        if prompt.id not in asked:
            # as published: 0 where the task is not asked about, 1 where nothing is named
            value = 0.0 if prompt.task_type in ("spatial", "numeracy") else 1.0
            assert results[prompt.id] == Score(value, applicable=False)
            continue
        shares = []
        for question in asked[prompt.id]:
            ids = tokenizer(question).input_ids[:-1]  # without [SEP]
            assert ids[0] == 101
            with torch.no_grad():
                logits = model(
                    input_ids=torch.tensor([ids]), pixel_values=clip_pixels(image)
                ).logits
            probability = logits[0, -1].softmax(-1)
            shares.append(float(probability[yes] / (probability[yes] + probability[no])))
        assert results[prompt.id].value == pytest.approx(sum(shares) / len(shares), abs=2e-6)


@pytest.mark.parametrize("variant", ["published", "corrected"])
def test_grounding_dino_finds_what_the_model_says(folders: dict[str, Path], variant: str) -> None:
    """Object branch: the share of nouns with a query whose mean token probability is above 0.3.

    Captions, token places and probabilities are written out here; the corrected variant counts
    distinct boxes, of which these three prompts' nouns have the numbers given.
    """
    folder = folders["grounding_dino"]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    reward = GroundingDinoReward(str(folder), variant=variant)  # type: ignore[arg-type]
    model = reward._detector.model  # what it computes is held by test_rewards_grounding_dino.py
    # Nouns in tokens: a word of the vocabulary, or letters; [CLS] comes first, " . " is one token.
    nouns = {"bird": 1, "chair": 5, "butterfly": 9, "garden": 6}
    for index in (2, 3):
        image, prompt = IMAGES[index], PROMPTS[index]
        caption = " . ".join(prompt.nouns) + "."
        size = pixels(image, 64, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225),
                      Image.Resampling.BILINEAR)  # fmt: skip
        with torch.no_grad():
            output = model(pixel_values=size, **tokenizer(caption, return_tensors="pt"))
        probability = output.logits[0].sigmoid()
        start, expected = 1, 0.0
        for noun in prompt.nouns:
            places = range(start, start + nouns[noun])
            kept = probability[:, list(places)].mean(1) > 0.3
            start += nouns[noun] + 1
            if variant == "published":
                expected += float(kept.any()) / len(prompt.nouns)
            elif kept.any():
                extra = distinct(output.pred_boxes[0][kept].tolist()) - 1
                expected += max(0.0, 1 - 0.5 * extra) / len(prompt.nouns)
        (result,) = reward.score([image], [prompt])
        assert result == Score(pytest.approx(expected))  # type: ignore[arg-type]


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("nouns", [(), ("car", "zebra")])
def test_a_prompt_without_what_its_task_asks_about_fails_alone(
    folders: dict[str, Path], variant: str, nouns: tuple[str, ...]
) -> None:
    """Never a 1, whether it names nouns or not; the others of its batch keep their scores."""
    reward = GroundingDinoReward(str(folders["grounding_dino"]), variant=variant)  # type: ignore[arg-type]
    bare = [Prompt("t:7", "x", "spatial", nouns), Prompt("t:8", "x", "numeracy", nouns)]
    results = reward.score(IMAGES[:4], [*bare, PROMPTS[2], PROMPTS[5]])
    assert results == [
        RewardFailure("prompt t:7: a spatial prompt without spatial_info"),
        RewardFailure("prompt t:8: a numeracy prompt without numeracy_info"),
        *reward.score(IMAGES[2:3], [PROMPTS[2]]),
        Score(1.0, applicable=False),
    ]


def test_a_name_is_found_by_what_its_tokenizer_keeps_of_it(folders: dict[str, Path]) -> None:
    """An accent written apart, or a zero-width character, has no token: no error, as without it."""
    reward = GroundingDinoReward(str(folders["grounding_dino"]))
    names = ("cafe", "cafe\u0301", "e\u0301cafe", "ca\u200bfe")
    prompts = [Prompt("t:9", "x", "color", (name, "zebra")) for name in names]
    plain, accented, _, zero_width = reward.score([IMAGES[0]] * 4, prompts)
    assert isinstance(plain, Score)
    assert plain == accented == zero_width


def distinct(boxes: list[list[float]]) -> int:
    """Clusters of boxes that overlap by more than half; enough where each overlaps all others."""
    found: list[list[float]] = []
    for box in boxes:
        if not any(overlap(box, other) > 0.5 for other in found):
            found.append(box)
    return len(found)


def overlap(a: list[float], b: list[float]) -> float:
    sides = [
        max(0.0, min(a[k] + a[k + 2] / 2, b[k] + b[k + 2] / 2)
            - max(a[k] - a[k + 2] / 2, b[k] - b[k + 2] / 2))
        for k in (0, 1)
    ]  # fmt: skip
    common = sides[0] * sides[1]
    return common / (a[2] * a[3] + b[2] * b[3] - common)


def test_orm_is_the_probability_of_yes_at_its_temperature(
    folders: dict[str, Path], rewards: dict[str, Any]
) -> None:
    """transformers' own forward pass: image tokens in the text, softmax of the scores over 0.3.

    Two images are announced where there is one, which keeps it from being cut into patches.
    """
    reward = rewards["orm"]
    tokenizer = AutoTokenizer.from_pretrained(folders["orm"])
    model: Any = LlavaOnevisionForConditionalGeneration(reward._model.config).eval()
    model.load_state_dict(reward._model.state_dict())
    patch = 5  # any id; its embedding is replaced
    model.config.image_token_id = patch
    expected = []
    for image, prompt in zip(IMAGES, PROMPTS, strict=True):
        head = "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
        tail = (
            f" This image is generated by a prompt: {prompt.text}. Does this image accurately"
            " represent the prompt? Please answer yes or no without explanation.<|im_end|>\n"
            "<|im_start|>assistant\n"
        )
        parts = [tokenizer(text).input_ids for text in (head, tail)]
        assert patch not in parts[0] + parts[1]
        ids = torch.tensor([[*parts[0], *[patch] * (9 + 1), *parts[1]]])  # 3 x 3 and a newline
        with torch.no_grad():
            logits = model(
                input_ids=ids,
                pixel_values=pixels(image, 24, [0.5] * 3, [0.5] * 3, Image.Resampling.BICUBIC),
                image_sizes=torch.tensor([[48, 48]]),
                batch_num_images=[2],
            ).logits[0, -1]
        yes, no = tokenizer.convert_tokens_to_ids(["yes", "no"])
        probability = (logits / 0.3).softmax(-1)
        expected.append(float(probability[yes] / (probability[yes] + probability[no])))
    assert values(reward.score(IMAGES, PROMPTS)) == pytest.approx(expected, abs=1e-5)


def test_orm_weights_arrive_under_their_names(
    folders: dict[str, Path], rewards: dict[str, Any]
) -> None:
    """Bit for bit: every tensor of the file is in the model, but for what LLaVA drops."""
    stored = load_file(folders["orm"] / "model.safetensors")
    model = rewards["orm"]._model
    held = dict(model.state_dict())
    pairs = {
        "lm_head.weight": "lm_head.weight",
        "model.image_newline": "model.image_newline",
        "model.embed_tokens.weight": "model.language_model.embed_tokens.weight",
        "model.norm.weight": "model.language_model.norm.weight",
        "model.mm_projector.0.weight": "model.multi_modal_projector.linear_1.weight",
        "model.mm_projector.2.bias": "model.multi_modal_projector.linear_2.bias",
        "model.layers.1.self_attn.q_proj.bias":
            "model.language_model.layers.1.self_attn.q_proj.bias",
        "model.vision_tower.vision_tower.vision_model.encoder.layers.1.mlp.fc1.weight":
            "model.vision_tower.encoder.layers.1.mlp.fc1.weight",
    }  # fmt: skip
    for original, ours in pairs.items():
        assert torch.equal(stored[original], held[ours])
    dropped = [key for key in stored if ".layers.2." in key or ".head." in key]
    assert len(stored) - len(dropped) == len(held)
    assert model.config.get_text_config().rope_parameters["rope_theta"] == 1e6


def test_orm_pads_to_a_square_of_the_mean_colour(rewards: dict[str, Any]) -> None:
    """A wide image scores as the same image with 127-grey bars above and below."""
    wide = IMAGES[0][12:36]
    square = np.full((48, 48, 3), 127, dtype=np.uint8)
    square[12:36] = wide
    results = rewards["orm"].score([wide, square], [PROMPTS[0]] * 2)
    assert results[0].value == pytest.approx(results[1].value, abs=1e-6)


def test_half_precision_weights_score_close_to_single(folders: dict[str, Path]) -> None:
    """bfloat16 rounds to three digits, and the score stays a float32 number near it."""
    for name, build in (
        ("hps", lambda folder, dtype: HpsReward(folder, folder, dtype=dtype)),
        ("git", lambda folder, dtype: GitReward(folder, dtype=dtype)),
        ("orm", lambda folder, dtype: OrmReward(folder, dtype=dtype)),
    ):
        single, half = (
            values(build(str(folders[name]), dtype).score(IMAGES, PROMPTS))
            for dtype in ("float32", "bfloat16")
        )
        assert half == pytest.approx(single, abs=0.1)
        assert half != single


# Strictness: what is wrong with a checkpoint is one line, before or while it is loaded.


def config(name: str, folder: Path) -> RewardConfig:
    factory = {
        "hps": "rewards.models.hps:HpsReward",
        "clip": "rewards.models.clip_score:ClipScoreReward",
        "git": "rewards.models.git:GitReward",
        "grounding_dino": "rewards.models.grounding_dino:GroundingDinoReward",
        "orm": "rewards.models.orm:OrmReward",
    }[name]
    options = {"model": str(folder)} | ({"clip": str(folder)} if name == "hps" else {})
    return RewardConfig(name=name, factory=factory, options=options)


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_folder_or_file_is_found_before_any_worker(
    folders: dict[str, Path], tmp_path: Path, name: str
) -> None:
    """check_factory passes what is there, and names what is not, without loading a weight."""
    check_factory(config(name, folders[name]))
    with pytest.raises(UserError, match=f"reward '{name}': checkpoint .*nowhere.* does not exist"):
        check_factory(config(name, tmp_path / "nowhere"))
    for missing in sorted(file.name for file in folders[name].iterdir() if file.is_file()):
        if missing in ("generation_config.json", "tokenizer.json") and name == "orm":
            continue
        if missing == "preprocessor_config.json" and name == "hps":  # has its own preparation
            continue
        needed = missing not in ("generation_config.json", "tokenizer_config.json") or (
            missing == "tokenizer_config.json" and name == "orm"
        )
        part = tmp_path / missing
        part.mkdir()
        for file in folders[name].iterdir():
            if file.name != missing:
                (part / file.name).symlink_to(file)
        if needed:
            with pytest.raises(UserError, match=rf"reward '{name}': checkpoint ") as caught:
                check_factory(config(name, part))
            assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"device": "gpu"}, "device: 'gpu' is not a device"),
        ({"dtype": "float8"}, "dtype: 'float8' is not one of float32, bfloat16, float16"),
    ],
)
def test_wrong_options_are_one_line(
    folders: dict[str, Path], options: dict[str, str], message: str
) -> None:
    """For every reward that has the option."""
    for name in NAMES:
        if name == "grounding_dino" and "dtype" in options:
            continue
        wrong = config(name, folders[name]).model_copy(
            update={"options": config(name, folders[name]).options | options}
        )
        with pytest.raises(UserError, match=message):
            check_factory(wrong)


def test_an_unknown_variant_is_refused(folders: dict[str, Path]) -> None:
    """With the ones there are."""
    folder = str(folders["grounding_dino"])
    with pytest.raises(UserError, match="'strict' is not one of corrected, published, published-"):
        GroundingDinoReward.check(folder, "strict")  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["clip", "git", "grounding_dino", "orm"])
@pytest.mark.parametrize("problem", ["missing", "unexpected", "mismatched"])
def test_a_checkpoint_of_other_tensors_is_refused(
    folders: dict[str, Path], tmp_path: Path, name: str, problem: str
) -> None:
    """No weight is ever made up: the key is named."""
    part = tmp_path / "part"
    part.mkdir()
    for file in folders[name].iterdir():
        (part / file.name).symlink_to(file)
    tensors = load_file(part / "model.safetensors")
    (part / "model.safetensors").unlink()
    keys = (key for key in sorted(tensors) if key.endswith("weight"))
    key = next(key for key in keys if "norm" not in key and "bbox" not in key)  # boxes are tied
    if problem == "missing":
        del tensors[key]
    elif problem == "unexpected":
        tensors["something.else"] = torch.zeros(1)
    else:
        tensors[key] = torch.zeros(3, 5)
    save_file(tensors, part / "model.safetensors", metadata={"format": "pt"})
    kinds: dict[str, Any] = {
        "clip": ClipScoreReward,
        "git": GitReward,
        "grounding_dino": GroundingDinoReward,
        "orm": OrmReward,
    }
    with pytest.raises(UserError, match=f"{problem} keys: 1, first ") as caught:
        kinds[name](str(part))
    assert "\n" not in str(caught.value)


def test_git_of_an_older_library_loads(folders: dict[str, Path], tmp_path: Path) -> None:
    """pytorch_model.bin with the buffers that such files hold, and no safetensors."""
    for file in folders["git"].iterdir():
        (tmp_path / file.name).symlink_to(file)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["git.embeddings.position_ids"] = torch.arange(1024)[None]
    tensors["git.image_encoder.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    (tmp_path / "model.safetensors").unlink()
    torch.save(tensors, tmp_path / "pytorch_model.bin")
    reward, new = GitReward(str(tmp_path)), GitReward(str(folders["git"]))
    assert values(reward.score(IMAGES, PROMPTS)) == values(new.score(IMAGES, PROMPTS))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mm_vision_tower": "openai/clip"}, "mm_vision_tower 'openai/clip' is none of google/sig"),
        ({"mm_projector_type": "linear"}, "mm_projector_type is 'linear', not 'mlp2x_gelu'"),
        ({"hidden_size": None}, "key 'hidden_size' is missing"),
    ],
)
def test_a_llava_of_another_kind_is_refused(
    folders: dict[str, Path], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    """Before it is loaded, with the key."""
    for file in folders["orm"].iterdir():
        (tmp_path / file.name).symlink_to(file)
    given = json.loads((tmp_path / "config.json").read_text()) | change
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(
        json.dumps({key: value for key, value in given.items() if value is not None})
    )
    with pytest.raises(UserError, match=message):
        OrmReward.check(str(tmp_path))
