"""Rebuild the embedded checkpoint: ``python -m shapes.build.pretrain``.

Decoder and policy are trained at the same time, each in a process of one thread. This is possible
because neither needs the other; both use the same codes. Then the checkpoint is measured and its
model card written.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import JanusForConditionalGeneration, PreTrainedTokenizerFast

from policy.checkpoint.generation_defaults import GenerationDefaults, save_defaults
from policy.encoding import PromptEncoder
from policy.janus import JanusPolicy
from policy.runtime import tune_process
from policy.sampling import Sampling
from policy.templates import template_named
from shapes.build.decoder import train_decoder
from shapes.build.measure import CHECKPOINT, measure_checkpoint
from shapes.build.model_card import model_card
from shapes.build.policy_training import train_policy
from shapes.build.progress import progress
from shapes.build.samples import MAX_COT
from shapes.build.tiny_janus import build_model, build_tokenizer

DECODER_STEPS, POLICY_STEPS = 1300, 1300
SAMPLING = GenerationDefaults.of("shapes", None, Sampling(1.0, 1.0, MAX_COT))
_DECODER_PATIENCE_S = 3600.0  # wait for the decoder after the policy is done; each takes minutes


def pretrain(output: Path, seed: int, decoder_steps: int, policy_steps: int) -> int:
    """Train decoder and policy, save them as one checkpoint, return its number of parameters."""
    output.mkdir(parents=True, exist_ok=True)
    tokenizer, model = _untrained(seed)
    with tempfile.TemporaryDirectory() as folder:
        decoder_file = Path(folder) / "decoder.safetensors"
        process = multiprocessing.get_context("spawn").Process(
            target=_decoder_process, args=(decoder_file, seed, decoder_steps)
        )
        process.start()
        try:
            encoder = PromptEncoder(tokenizer, template_named("shapes"))
            report = progress("policy", policy_steps)
            train_policy(JanusPolicy(model), encoder, policy_steps, seed, report)
            process.join(_DECODER_PATIENCE_S)
            if process.exitcode is None:
                raise RuntimeError(
                    f"decoder training did not end within {_DECODER_PATIENCE_S:g} s of the policy's"
                )
        finally:
            process.terminate()
        if process.exitcode != 0:
            raise RuntimeError(f"decoder training ended with exit code {process.exitcode}")
        model.model.vqmodel.load_state_dict(load_file(decoder_file))
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    save_defaults(output, SAMPLING)
    return model.num_parameters()


def _decoder_process(output: Path, seed: int, steps: int) -> None:
    tune_process()
    _, model = _untrained(seed)
    train_decoder(model.model.vqmodel, steps, seed, progress("decoder", steps))
    save_file(model.model.vqmodel.state_dict(), output)


def _untrained(seed: int) -> tuple[PreTrainedTokenizerFast, JanusForConditionalGeneration]:
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    return tokenizer, build_model(tokenizer)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m shapes.build.pretrain", description=__doc__)
    parser.add_argument("--output", type=Path, default=CHECKPOINT, help="checkpoint folder")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    tune_process()
    start = time.monotonic()
    parameters = pretrain(arguments.output, arguments.seed, DECODER_STEPS, POLICY_STEPS)
    minutes = (time.monotonic() - start) / 60
    print(f"trained in {minutes:.1f} min; measuring", flush=True)
    figures = measure_checkpoint(arguments.output)
    card = model_card(figures, parameters, arguments.seed, minutes)
    (arguments.output / "README.md").write_text(card)
    print(f"checkpoint and model card: {arguments.output}")


if __name__ == "__main__":
    main()
