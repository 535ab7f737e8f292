"""A guard: does a policy still understand images after RL?

The questions are the user's: a file of images, questions and possible answers. An answer counts as
right if the policy gives the right one the highest log-prob. Nothing is sampled, so two checkpoints
differ by their weights alone. This is no benchmark: it shows a change, and compares with no
published figure.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evaluation.suites.suite import Column
from policy.errors import UserError
from policy.text_files import parse_json, read_text

COLUMNS = (
    Column("accuracy", {"accuracy": 1.0}),
    Column("log-prob of the right answer", {"logprob": 1.0}, scale=1.0),
)


@dataclass(frozen=True)
class Question:
    """One question about one image. ``answers[0]`` is right."""

    id: str  # <file stem>:<line>
    image: Path
    text: str
    answers: tuple[str, ...]


def load_questions(file: Path) -> list[Question]:
    """Read a file of one JSON object a line: ``image``, ``question``, ``answer``, ``others``.

    ``image`` is relative to the file, and ``others`` lists wrong answers. Raises ``UserError`` with
    file and line.
    """
    questions = []
    for number, line in enumerate(read_text(file, f"--questions: {file}").split("\n"), start=1):
        if line.strip():
            row = parse_json(line, file, number)
            try:
                questions.append(_question(row, file, number))
            except (KeyError, TypeError, ValueError) as error:
                raise UserError(f"{file}:{number}: {error}") from None
    if not questions:
        raise UserError(f"--questions: {file} holds no question")
    return questions


def _question(row: Any, file: Path, number: int) -> Question:
    if not isinstance(row, dict):
        raise TypeError("expected a JSON object")
    for key in ("image", "question", "answer"):
        if not isinstance(row.get(key), str) or not row[key].strip():
            raise TypeError(f"{key} must be text")
    others = row.get("others")
    if not isinstance(others, list) or not others:
        raise TypeError("others must be a list of wrong answers")
    answers = (row["answer"], *others)
    if not all(isinstance(answer, str) and answer.strip() for answer in answers):
        raise TypeError("others must be a list of wrong answers")
    if len(set(answers)) < len(answers):
        raise ValueError("an answer is there twice")
    return Question(f"{file.stem}:{number}", file.parent / row["image"], row["question"], answers)


def values_of(
    questions: Sequence[Question], logprobs: Sequence[Sequence[float]]
) -> dict[str, Mapping[str, float]]:
    """Accuracy and log-prob of the right answer by question; ``logprobs`` are of its answers."""
    pairs = list(zip(questions, logprobs, strict=True))
    return {
        "accuracy": {q.id: float(values[0] > max(values[1:])) for q, values in pairs},
        "logprob": {q.id: values[0] for q, values in pairs},
    }
