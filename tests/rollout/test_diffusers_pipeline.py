"""Drawing with a pipeline of diffusers: a tiny Stable Diffusion with random weights."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks.small_models.tiny_rewards import clip_config, clip_tokenizer
from orchestrator.cli import main
from policy.errors import RunFailed, UserError
from policy.image_files import read_image
from rollout.diffusers_pipeline import DiffusersPipeline, PipelineSettings

try:
    import diffusers
except ImportError:
    assert not os.environ.get("CI"), "CI installs diffusers: extra test of pyproject.toml"
    pytest.skip("diffusers is not installed", allow_module_level=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline whose images have 32 x 32 pixels, in the format of the Hub."""
    import torch
    from transformers import CLIPTextModel

    torch.manual_seed(0)
    text, tokenizer = clip_config().text_config, clip_tokenizer()
    tokenizer.model_max_length = text.max_position_embeddings
    path = tmp_path_factory.mktemp("pipeline")
    diffusers.StableDiffusionPipeline(
        vae=diffusers.AutoencoderKL(
            block_out_channels=(8, 8, 8, 8), latent_channels=4, norm_num_groups=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        ),
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=diffusers.UNet2DConditionModel(
            sample_size=4, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            cross_attention_dim=text.hidden_size, attention_head_dim=4,
        ),
        scheduler=diffusers.DDIMScheduler(steps_offset=1, clip_sample=False),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    ).save_pretrained(path)  # fmt: skip
    return path


def test_an_image_depends_on_its_seed_and_not_on_the_others(folder: Path) -> None:
    """Drawn with others or alone, to one step of the 256 of a pixel."""
    pipeline = DiffusersPipeline(PipelineSettings(str(folder), steps=2, guidance_scale=3.0))
    first, second = pipeline.draw("a red circle", [1, 2])
    (alone,) = pipeline.draw("a red circle", [2])
    assert first.shape == (32, 32, 3)
    assert first.dtype == np.uint8
    assert np.abs(alone.astype(int) - second).max() <= 1
    assert np.abs(first.astype(int) - second).max() > 1


def test_an_image_that_a_filter_removed_is_an_error(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its score would be that of a black square."""
    pipeline = DiffusersPipeline(PipelineSettings(str(folder), steps=1, guidance_scale=None))
    monkeypatch.setattr(
        pipeline._pipeline,
        "run_safety_checker",
        lambda image, *others: (image, [True]),
    )
    with pytest.raises(RunFailed, match="filter has removed an image of 'a red circle'"):
        pipeline.draw("a red circle", [1])


def test_a_model_that_cannot_be_loaded_is_named(tmp_path: Path) -> None:
    """A folder that holds no pipeline."""
    with pytest.raises(UserError, match=f"--diffusers: {tmp_path} cannot be loaded"):
        DiffusersPipeline(PipelineSettings(str(tmp_path), steps=None, guidance_scale=None))


def test_the_command_draws_what_is_missing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two images each of the prompts 0 and 96 of the suite; a deleted one is drawn again and
    equals the first."""
    out = tmp_path / "other"
    arguments = [
        "evaluate", "draw", "shapes", "--diffusers", str(folder), "--out", str(out), "--steps", "1",
        "prompts=1", "images_per_prompt=2",
    ]  # fmt: skip
    assert main(arguments) == 0
    names = ["00000/00.png", "00000/01.png", "00096/00.png", "00096/01.png"]
    assert sorted(str(f.relative_to(out)) for f in out.glob("*/*.png")) == names
    assert json.loads((out / "drawn_by.json").read_text())["steps"] == 1
    before = read_image(out / names[3], "image")
    kept = (out / names[2]).stat().st_mtime_ns
    (out / names[3]).unlink()
    assert main(arguments) == 0
    assert np.abs(read_image(out / names[3], "image").astype(int) - before).max() <= 1
    assert (out / names[2]).stat().st_mtime_ns == kept
    assert main([*arguments, "seed=1"]) == 2
    assert "has images that were drawn in another way" in capsys.readouterr().err
