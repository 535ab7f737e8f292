"""``eg-grpo data``: provides the files that training and evaluation read.

``fetch`` downloads and checks the public prompt files, and lists leaks: validation prompts that are
also training prompts. ``chunks`` writes the noun chunks of prompts, and ``questions`` the questions
of ``eg-grpo evaluate understanding`` about rendered scenes.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from evaluation.chunks import analyse, write_analyses
from evaluation.leaks import find_leaks, load_validation
from evaluation.public_files import PUBLIC_FILES, TRAINING
from orchestrator.commands.download import download
from orchestrator.record.sheets import save_whole_png
from policy.disk import NotWritten, check_vacant, write_whole
from policy.errors import UserError
from policy.prompts import load_prompts
from policy.text_files import read_text
from shapes.questions import scene_questions

SEEN = "seen.jsonl"
# The lists that `eg-grpo evaluate` measures with.
_MEASURED = ("t2i_compbench/", "t2i_compbench_2023/", "geneval/", "wise_legacy/", "wise_verified/")
_SEEN_PROMPTS = 64
_QUESTIONS = 200  # 50 of each kind


def run(parsed: argparse.Namespace) -> None:
    """Do what the action says."""
    try:
        if parsed.action == "fetch":
            fetch(parsed.output)
        elif parsed.action == "questions":
            file = write_questions(parsed.output)
            print(f"{_QUESTIONS} questions: {file}")
        else:
            write_chunks(parsed.files, parsed.output, parsed.model)
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
        replace(prompt, place=f"{Path(file.path).parent}/{prompt.place}")
        for file in PUBLIC_FILES
        if file.path.startswith(_MEASURED)
        for prompt in load_validation(output / file.path)
    ]
    training = load_prompts(training_file)
    leaks = find_leaks(training, validation)
    print(f"{len(leaks)} of {len(validation)} validation prompts are also training prompts:")
    for leak in leaks:
        print(f"  {leak.validation.place}  {leak.validation.text}")
    print("data.leaks in the configuration says whether training keeps or drops them")


def write_chunks(files: Sequence[Path], output: Path, model: str) -> None:
    """Analyse every prompt of the files with spaCy and write what it finds to ``output``."""
    prompts = [prompt.text for file in files for prompt in load_validation(file)]
    analyses = analyse(prompts, model)
    write_analyses(output, analyses)
    print(f"{len(analyses.prompts)} prompts, spaCy {analyses.spacy}, {analyses.model}: {output}")
    if without := [text for text, found in analyses.prompts.items() if not found.chunks]:
        print(f"{len(without)} prompts have no noun chunk, so any image scores 1:")
        for text in without:
            print(f"  {text}")


def write_questions(output: Path) -> Path:
    """Write questions about scenes of the embedded world with their images; returns the file."""
    check_vacant(output)
    rows = []
    for number, question in enumerate(scene_questions(_QUESTIONS)):
        name = f"{number:03d}.png"
        save_whole_png(question.image, output / name)
        rows.append(
            {
                "image": name,
                "question": question.text,
                "answer": question.answer,
                "others": question.others,
            }
        )
    file = output / "questions.jsonl"
    write_whole(file, "".join(f"{json.dumps(row)}\n" for row in rows))
    return file


def _write_seen(file: Path, training_file: Path) -> int:
    """Write every n-th row and return n. The file is written whole, because later runs trust it."""
    rows = read_text(training_file).removesuffix("\n").split("\n")
    step = len(rows) // _SEEN_PROMPTS
    write_whole(file, "".join(f"{row}\n" for row in rows[::step][:_SEEN_PROMPTS]))
    return step
