"""Writes reward models of the published sizes with random weights, for a dress rehearsal.

    eg-grpo init-random --like janus-pro-1b --image-size 64 rehearsal/janus-pro-1b
    python -m benchmarks.random_rewards rehearsal
    eg-grpo train configs/dress-rehearsal-1b.yaml

They are in the formats of the published files, in `hps`, `git` and `grounding_dino` below the
folder, and take 3.5 GB. The fourth, ORM, would take 16 GB more and is left out. The tokenizers
split texts into letters, so a text has more tokens than with the real ones.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch
from transformers import (
    CLIPConfig,
    GitConfig,
    GitForCausalLM,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
)

from benchmarks.gpu_check.reward_folders import described
from benchmarks.small_models.original_clip import OpenClip


def write(folder: Path, tiny: bool = False) -> None:
    """Write the three models."""
    folder.mkdir(parents=True, exist_ok=True)
    hps, git, dino = (folder / name for name in ("hps", "git", "grounding_dino"))
    for place in (hps, git, dino):
        described(place.name, place, tiny)
    torch.manual_seed(0)
    clip = OpenClip(CLIPConfig.from_pretrained(hps)).to(torch.bfloat16)
    torch.save({"epoch": 0, "state_dict": clip.state_dict()}, hps / "HPS_v2.1_compressed.pt")
    del clip
    (hps / "model.safetensors").unlink()  # HPS reads only configuration and vocabulary beside it
    captioner = GitForCausalLM(GitConfig.from_pretrained(git))
    captioner.to(torch.bfloat16).save_pretrained(git)
    del captioner
    detector = GroundingDinoForObjectDetection(GroundingDinoConfig.from_pretrained(dino))
    detector.save_pretrained(dino)  # the reward computes in float32


def main(arguments: list[str] | None = None) -> None:
    what, commands, how = (part.strip() for part in __doc__.split("\n\n"))
    parser = argparse.ArgumentParser(
        "python -m benchmarks.random_rewards",
        description=what,
        epilog=f"a rehearsal:\n    {commands}\n\n{how}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="where the folders of the models are made")
    parser.add_argument("--tiny", action="store_true", help="of a few thousand parameters each")
    options = parser.parse_args(arguments)
    write(options.folder, options.tiny)


if __name__ == "__main__":
    main()
