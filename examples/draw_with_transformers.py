"""Draw from an exported checkpoint with transformers alone; nothing of this project is imported.

    eg-grpo export runs/shapes/checkpoints/step-80 my-janus
    python examples/draw_with_transformers.py my-janus \
        "<|User|> : a photo of a red circle . <|Assistant|> :" --guidance 2 --output circle.png

TEXT is the whole image prompt as the model reads it, from the template it was trained with, up to
where the image begins; of Janus-Pro trained as the paper does: "User: PROMPT. COT\n\nAssistant:".
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from PIL import Image
from transformers import GenerationConfig, JanusForConditionalGeneration, PreTrainedTokenizerFast


def draw(
    folder: str, text: str, guidance: float, greedy: bool = False, device: str = "cpu"
) -> Image.Image:
    """One image; without ``greedy`` it is sampled from the whole guided distribution."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model = JanusForConditionalGeneration.from_pretrained(folder).to(device)
    begin_of_image = tokenizer.convert_tokens_to_ids("<begin_of_image>")
    ids = [tokenizer.bos_token_id, *tokenizer.encode(text, add_special_tokens=False)]
    input_ids = torch.tensor([[*ids, begin_of_image]], device=device)
    codes = model.generate(
        input_ids,
        attention_mask=torch.ones_like(input_ids),
        generation_mode="image",
        generation_config=GenerationConfig(
            do_sample=not greedy,
            top_k=0,  # transformers' default of 50 would cut the distribution that was trained
            guidance_scale=guidance,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=model.generation_config.pad_token_id,
            generation_kwargs={"boi_token_id": begin_of_image},
        ),
    )
    pixels = model.decode_image_tokens(codes)[0].float().cpu()  # H W 3, in [-1, 1]
    return Image.fromarray(((pixels + 1) * 127.5).clamp(0, 255).to(torch.uint8).numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="exported checkpoint")
    parser.add_argument("text", help="image prompt as the model reads it")
    parser.add_argument("--guidance", type=float, required=True, help="w, more than 1")
    parser.add_argument("--device", default="cpu", help="such as cuda")
    parser.add_argument("--greedy", action="store_true", help="the likeliest tokens, no sampling")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=Path("drawn.png"))
    parsed = parser.parse_args()
    torch.manual_seed(parsed.seed)
    draw(parsed.folder, parsed.text, parsed.guidance, parsed.greedy, parsed.device).save(
        parsed.output
    )
    print(parsed.output)


if __name__ == "__main__":
    main()
