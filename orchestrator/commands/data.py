"""``eg-grpo data fetch``: downloads and checks the public prompt files, and lists leaks.

A leak is a validation prompt that is also a training prompt.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from evaluation.leaks import find_leaks, load_validation
from evaluation.public_files import PUBLIC_FILES, TRAINING
from orchestrator.commands.download import download
from policy.disk import NotWritten, write_whole
from policy.errors import UserError
from policy.prompts import load_prompts
from policy.text_files import read_text

SEEN = "seen.jsonl"
_SEEN_PROMPTS = 64


def run(parsed: argparse.Namespace) -> None:
    """Fetch, which is the only action."""
    try:
        fetch(parsed.output)
    except NotWritten as error:
        raise UserError(str(error)) from None


def fetch(output: Path) -> None:
    """Download the files that ``output`` lacks, check the others, and list the leaks.

    It also writes ``seen.jsonl``, training prompts for evaluation: every n-th row of the training
    file. The training file itself would not do, because it is sorted by kind of prompt and
    evaluation reads only the first rows of a file.
    """
    for file in PUBLIC_FILES:
        state = "downloaded" if download(file, output) else "there"
        print(f"{state:<10}  {file.size:>9,} bytes  {output / file.path}")
    training_file = output / TRAINING.path
    if not (output / SEEN).exists():
        step = _write_seen(output / SEEN, training_file)
        print(f"written     every {step}th training prompt  {output / SEEN}")
    validation = [
        prompt
        for file in PUBLIC_FILES
        if file.path.startswith(("t2i_compbench/", "wise_legacy/"))
        for prompt in load_validation(output / file.path)
    ]
    training = load_prompts(training_file)
    leaks = find_leaks(training, validation)
    print(f"{len(leaks)} of {len(validation)} validation prompts are also training prompts:")
    for leak in leaks:
        print(f"  {leak.validation.place}  {leak.validation.text}")
    print("data.leaks in the configuration says whether training keeps or drops them")


def _write_seen(file: Path, training_file: Path) -> int:
    """Write every n-th row and return n. The file is written whole, because later runs trust it."""
    rows = read_text(training_file).removesuffix("\n").split("\n")
    step = len(rows) // _SEEN_PROMPTS
    write_whole(file, "".join(f"{row}\n" for row in rows[::step][:_SEEN_PROMPTS]))
    return step
