"""``eg-grpo evaluate understanding``: asks a checkpoint about images, in this process."""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

from evaluation.suites.suite import columns_of
from evaluation.understanding import COLUMNS, load_questions, values_of
from orchestrator.commands.data import write_questions
from orchestrator.record.counter import Counter
from orchestrator.record.evaluation_folder import RESULT
from orchestrator.record.progress import Progress
from orchestrator.settings.host import PACKAGES, versions
from orchestrator.settings.inputs import verified_policy_folder
from orchestrator.settings.machine import check_device
from policy.checkpoint.generation_defaults import load_defaults
from policy.checkpoint.hub import checkpoint_folder
from policy.checkpoint.loading import load_encoder, load_policy
from policy.checkpoint.weight_files import weights_sha256
from policy.digest import sha256
from policy.disk import check_vacant, write_whole
from policy.image_files import read_image
from policy.runtime import tune_process
from policy.understanding import answer_logprobs


def measure(parsed: argparse.Namespace) -> Path:
    """Ask every question and write ``result.json``; returns its path.

    The folder must be empty or not exist. Nothing is kept of a run that is stopped: an answer takes
    one forward pass.
    """
    check_vacant(parsed.out)
    check_device(parsed.device, "--device")
    with TemporaryDirectory(prefix="eg-grpo-") as scratch:
        file = parsed.questions or write_questions(Path(scratch) / "questions")
        questions = load_questions(file)
        images = {question.image: read_image(question.image, "image") for question in questions}
        digests = "".join(map(sha256, (file, *(question.image for question in questions))))
    tune_process()
    import torch

    folder = verified_policy_folder(checkpoint_folder(parsed.model))
    defaults = load_defaults(folder)
    policy = load_policy(folder, getattr(torch, parsed.dtype)).to(parsed.device)
    encoder = load_encoder(folder, defaults.template, defaults.instruction)
    counter = Counter(Progress(steps=1).note, "questions answered", len(questions))
    logprobs = []
    for question in questions:
        image = images[question.image]
        logprobs.append(answer_logprobs(policy, encoder, image, question.text, question.answers))
        counter.add(1)
    values = values_of(questions, logprobs)
    columns = columns_of(COLUMNS, values)
    result = {
        "suite": "understanding",
        "lists": {"questions": file.name if parsed.questions else "scenes"},
        "prompts": len(questions),
        "whole": True,
        "prompts_sha256": hashlib.sha256(digests.encode()).hexdigest(),
        "images_per_prompt": 1,
        "model": parsed.model,
        "weights": weights_sha256(folder),
        "template": defaults.template,
        "dtype": parsed.dtype,
        # Log-probs of another type differ by rounding, which is no drift.
        "scorers": [{"name": "logprob", "options": {"dtype": parsed.dtype}, "not_comparable": ""}],
        "digests": {},
        "versions": {"python": platform.python_version(), **versions(PACKAGES)},
        "columns": [{**asdict(column), "value": columns[column.name]} for column in COLUMNS],
        "values": values,
        "logprobs": {
            question.id: dict(zip(question.answers, of_question, strict=True))
            for question, of_question in zip(questions, logprobs, strict=True)
        },
        "failures": {},
    }
    parsed.out.mkdir(parents=True, exist_ok=True)
    write_whole(parsed.out / RESULT, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    return Path(parsed.out / RESULT)
