"""The shipped checkpoint is what its card says, and the machinery that builds it runs."""

from __future__ import annotations

import multiprocessing
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import JanusForConditionalGeneration

from policy.checkpoint.generation_defaults import load_defaults
from policy.encoding import PromptEncoder
from policy.janus import JanusPolicy
from policy.prompts import load_prompts
from policy.templates import template_named
from shapes.build import mixed
from shapes.build.codes import add_grain, code_table
from shapes.build.decoder import train_decoder
from shapes.build.examples import make_example, padded_rows
from shapes.build.measure import CHECKPOINT, load_checkpoint, measure_decoder, measure_samples
from shapes.build.mixed import MIXED_CHECKPOINT
from shapes.build.policy_training import train_policy
from shapes.build.pretrain import SAMPLING, pretrain
from shapes.build.prompt_files import DATA
from shapes.build.samples import sample
from shapes.build.tiny_janus import build_model, build_tokenizer
from shapes.scenes import describe_scene, sample_request, sample_scene
from shapes.world import HELD_OUT_KINDS, SEEN_KINDS


@pytest.fixture(scope="module")
def loaded() -> tuple[JanusPolicy, PromptEncoder]:
    return load_checkpoint(CHECKPOINT)


@pytest.mark.parametrize("folder", [CHECKPOINT, MIXED_CHECKPOINT], ids=["first", "mixed"])
def test_checkpoint_loads_completely(folder: Path) -> None:
    """No missing or unexpected keys, untied heads, unit codebook rows, at most 4 MB."""
    loaded: Any = JanusForConditionalGeneration.from_pretrained(folder, output_loading_info=True)
    model, info = loaded
    assert not any(info.values()), info
    assert model.lm_head.weight is not model.model.language_model.embed_tokens.weight
    norms = model.model.vqmodel.quantize.embedding.weight.norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 4_000_000


def test_checkpoint_says_how_to_sample_it() -> None:
    """The file beside the weights names the template and limits that pretraining used."""
    assert load_defaults(CHECKPOINT) == SAMPLING
    assert load_defaults(MIXED_CHECKPOINT) == mixed.SAMPLING


def test_words_survive_the_tokenizer(loaded: tuple[JanusPolicy, PromptEncoder]) -> None:
    """Prompts and CoTs round-trip exactly, without an unknown word, whatever they name."""
    _, encoder = loaded
    rng = np.random.default_rng(0)
    for _ in range(50):
        scene = sample_scene(sample_request(rng, (*SEEN_KINDS, *HELD_OUT_KINDS)), rng)
        cot = describe_scene(scene)
        ids = np.array(encoder.tokenizer.encode(cot), np.int32)
        assert encoder.cot_text(ids) == cot
        prompt = scene.request.prompt()
        used = [*encoder.cot_prompt_ids(prompt), *encoder.image_prompt_ids(prompt, cot)]
        assert encoder.tokenizer.unk_token_id not in used


def test_decoder_draws_what_codes_say(loaded: tuple[JanusPolicy, PromptEncoder]) -> None:
    """Coded and decoded ground truth, held-out pairs included, is strictly right."""
    assert measure_decoder(loaded[0], count=48, seed=2)["strict"] == 1.0


def test_checkpoint_draws_as_its_card_says(loaded: tuple[JanusPolicy, PromptEncoder]) -> None:
    """A small sample has the reward and the entropies for which the world was made."""
    prompts = load_prompts(DATA / "seen.jsonl")[:16]
    figures = measure_samples(*loaded, prompts, samples=4, guidance_scale=1.0, seed=3)
    assert 0.4 < figures["reward"] < 0.85
    assert figures["reward std within prompts"] > 0.1
    assert 0.3 < figures["image entropy"] < 0.5
    assert figures["image entropy std"] > 0.15


def test_the_second_checkpoint_needs_guidance() -> None:
    """Its reward at guidance 2 is above that without guidance, by more than the noise."""
    policy, encoder = load_checkpoint(MIXED_CHECKPOINT)
    prompts = load_prompts(DATA / "seen.jsonl")[:12]
    unguided, guided = (
        measure_samples(policy, encoder, prompts, 4, scale, seed=3)["reward"]
        for scale in (1.0, 2.0)
    )
    assert guided > unguided + 0.05


@torch.no_grad()
def test_sampling_agrees_with_teacher_forcing(loaded: tuple[JanusPolicy, PromptEncoder]) -> None:
    """Entropies recorded with cache and left padding equal those of one unpadded pass."""
    policy, encoder = loaded
    prompts = load_prompts(DATA / "seen.jsonl")[:4]
    drawn = sample(policy, encoder, prompts, 2.0, torch.Generator().manual_seed(0))
    for row, prompt in enumerate(prompts):
        image_prompt = encoder.image_prompt_ids(prompt, drawn.cots[row])
        rows = padded_rows([image_prompt], [drawn.image_ids_BN[row]], encoder.special.pad, True)
        hidden_BLD = policy.hidden_states(policy.embed(rows.ids_BL, rows.is_image_BL)[:, :-1])
        logits_NV = policy.image_logits(hidden_BLD[rows.predicted_BL[:, 1:]])
        entropy_N = torch.distributions.Categorical(logits=logits_NV).entropy()
        np.testing.assert_allclose(drawn.image_entropies_BN[row], entropy_N.numpy(), atol=1e-4)


def test_unseen_codes_are_sums_of_seen_parts() -> None:
    """In the image head, red square edge - red cross edge = blue square edge - blue cross edge.

    So the logit of a code that pretraining never showed follows from those that it did.
    """
    torch.manual_seed(0)
    table, rows = code_table(), build_model(build_tokenizer()).model.generation_head.vision_head

    def row(colour: int, pattern: int) -> torch.Tensor:
        found = (table.colour_K == colour) & (table.pattern_K == pattern) & (table.shade_K == 0)
        return rows.weight[int(np.flatnonzero(found)[0])]

    torch.testing.assert_close(row(0, 3) - row(0, 5), row(2, 3) - row(2, 5))


def test_pretraining_learns_and_leaves_the_tables_alone(tmp_path: Path) -> None:
    """A few steps lower the loss, keep codebook rows of unit norm and move no laid-out table."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    model = build_model(tokenizer)
    encoder = PromptEncoder(tokenizer, template_named("shapes"))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    lines: list[str] = []
    train_policy(JanusPolicy(model), encoder, 6, 0, lambda _, text: lines.append(text), scenes=64)
    train_decoder(model.model.vqmodel, 2, 0, lambda _, text: lines.append(text), scenes=64)
    losses = [float(line.split()[2].rstrip(",")) for line in lines]
    assert losses[5] < losses[0]
    norms = model.model.vqmodel.quantize.embedding.weight.norm(dim=-1)
    torch.testing.assert_close(norms, torch.ones_like(norms))
    moved = {name for name, value in model.state_dict().items() if not value.equal(before[name])}
    assert not any("vision_" in name or "generation_embeddings" in name for name in moved)
    assert "lm_head.weight" in moved
    model.save_pretrained(tmp_path)
    assert JanusForConditionalGeneration.from_pretrained(tmp_path)


def test_a_decoder_that_is_never_trained_ends_the_wait(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy is trained and its process still runs: one line, and the process is ended."""
    monkeypatch.setattr("shapes.build.pretrain.train_policy", lambda *arguments: None)
    monkeypatch.setattr("shapes.build.pretrain._DECODER_PATIENCE_S", 0.1)
    with pytest.raises(RuntimeError, match=r"^decoder training did not end within 0\.1 s of the"):
        pretrain(tmp_path, seed=0, decoder_steps=10**9, policy_steps=1)
    for process in multiprocessing.active_children():
        process.join(60)
        assert process.exitcode == -signal.SIGTERM


def test_examples_are_reproducible_and_end() -> None:
    """The same seed gives the same example; CoTs end with EOS; grain never changes the looks."""
    encoder = PromptEncoder(build_tokenizer(), template_named("shapes"))
    one, same = (make_example(encoder, 0.5, np.random.default_rng(3)) for _ in range(2))
    assert np.array_equal(one.cot_ids, same.cot_ids)
    assert np.array_equal(one.looks, same.looks)
    assert one.cot_ids[-1] == encoder.special.eos
    assert one.image_prompt_ids[-1] == encoder.special.begin_of_image
    assert add_grain(one.looks, np.random.default_rng(0)).shape == (64,)
