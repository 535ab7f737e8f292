"""Asking the policy about an image: log-probs of answers by the tiny checkpoint's own modules."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from evaluation.understanding import load_questions, values_of
from orchestrator.cli import main
from orchestrator.commands import data
from policy.checkpoint.loading import load_encoder, load_policy
from policy.encoding import PromptEncoder
from policy.errors import UserError
from policy.janus import JanusPolicy
from policy.understanding import answer_logprobs
from tests.command_line import ROOT

MODEL = ROOT / "shapes" / "checkpoint"
RED = np.full((32, 32, 3), (255, 0, 0), dtype=np.uint8)


@pytest.fixture(scope="module")
def policy() -> JanusPolicy:
    return load_policy(MODEL, torch.float32)


@pytest.fixture(scope="module")
def encoder() -> PromptEncoder:
    return load_encoder(MODEL, "shapes", None)


def test_the_log_prob_is_that_of_transformers(policy: JanusPolicy, encoder: PromptEncoder) -> None:
    """The same sequence, put together by hand and given to the whole model of transformers."""
    (found,) = answer_logprobs(policy, encoder, RED, "a photo of a", ["red square"])
    special, tokenizer = encoder.special, encoder.tokenizer
    before = [special.bos, *tokenizer.encode("<|User|> :"), special.begin_of_image]
    after = tokenizer.encode("a photo of a <|Assistant|> :")
    answer = [*tokenizer.encode("red square"), special.eos]
    model = policy.model.model
    pixels = torch.tensor([1.0, -1.0, -1.0]).view(1, 3, 1, 1).expand(1, 3, 32, 32)
    with torch.inference_mode():
        image = model.get_image_features(pixels).pooler_output[0]
        text = model.get_input_embeddings()
        parts = [text(torch.tensor(before)), image, text(torch.tensor([*after, *answer]))]
        logits = policy.model(inputs_embeds=torch.cat(parts)[None]).logits[0]
    first = len(before) + len(image) + len(after) - 1
    rows = logits[first : first + len(answer)].log_softmax(-1)
    expected = sum(float(row[token]) for row, token in zip(rows, answer, strict=True))
    assert found == pytest.approx(expected, abs=1e-4)


def test_an_answer_does_not_depend_on_the_others(
    policy: JanusPolicy, encoder: PromptEncoder
) -> None:
    """A longer answer beside it adds padding behind it, which causal attention never sees."""
    alone = answer_logprobs(policy, encoder, RED, "a photo of a", ["red"])
    both = answer_logprobs(policy, encoder, RED, "a photo of a", ["red", "large red square"])
    assert both[0] == pytest.approx(alone[0], abs=1e-5)
    assert both[1] < both[0]


def test_the_image_and_the_question_are_read(policy: JanusPolicy, encoder: PromptEncoder) -> None:
    """Another image, and another question, give other log-probs; a wide image gets a border."""
    (red,) = answer_logprobs(policy, encoder, RED, "a photo of a", ["red"])
    blue = np.full((20, 40, 3), (0, 0, 255), dtype=np.uint8)
    (other,) = answer_logprobs(policy, encoder, blue, "a photo of a", ["red"])
    (asked,) = answer_logprobs(policy, encoder, RED, "visualize a", ["red"])
    assert abs(other - red) > 1e-4
    assert abs(asked - red) > 1e-4


def test_the_right_answer_must_be_the_likeliest(tmp_path: Path) -> None:
    """-1 against -2 is right, and -3 against -2 wrong; a tie is wrong."""
    row = {"image": "a.png", "question": "what?", "answer": "a cat", "others": ["a dog"]}
    file = tmp_path / "questions.jsonl"
    file.write_text(f"{json.dumps(row)}\n" * 3)
    questions = load_questions(file)
    assert questions[0].image == tmp_path / "a.png"
    values = values_of(questions, [[-1.0, -2.0], [-3.0, -2.0], [-2.0, -2.0]])
    assert list(values["accuracy"].values()) == [1.0, 0.0, 0.0]
    assert list(values["logprob"].values()) == [-1.0, -3.0, -2.0]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"others": []}, "others must be a list of wrong answers"),
        ({"others": ["a cat"]}, "an answer is there twice"),
        ({"answer": " "}, "answer must be text"),
        ({"image": 3}, "image must be text"),
    ],
)
def test_a_wrong_question_is_named(tmp_path: Path, change: dict[str, object], problem: str) -> None:
    """By file and line."""
    row = {"image": "a.png", "question": "what?", "answer": "a cat", "others": ["a dog"]}
    file = tmp_path / "questions.jsonl"
    file.write_text(f"\n{json.dumps(row | change)}\n")
    with pytest.raises(UserError, match=f"questions.jsonl:2: {problem}"):
        load_questions(file)


def test_the_command_measures_and_compares(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two runs of one checkpoint: no drift at all, in accuracy and log-prob."""
    Image.fromarray(RED).save(tmp_path / "red.png")
    rows = [
        {"image": "red.png", "question": "a photo of a", "answer": answer, "others": [other]}
        for answer, other in (("red square", "blue square"), ("circle", "triangle"))
    ]
    questions = tmp_path / "questions.jsonl"
    questions.write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    for name in ("before", "after"):
        arguments = ["evaluate", "understanding", "--model", str(MODEL)]
        arguments += ["--questions", str(questions), "--out", str(tmp_path / name)]
        assert main(arguments) == 0
    assert "log-prob of the right answer" in capsys.readouterr().out
    assert main(["evaluate", "table", str(tmp_path / "before"), str(tmp_path / "after")]) == 0
    table = capsys.readouterr().out
    assert "| after | +0.00 [+0.00, +0.00] | +0.00 [+0.00, +0.00] |" in table


def test_without_a_file_scenes_are_asked_about(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same questions as ``data questions`` writes, here eight; they are not kept. A checkpoint
    that is not there leaves no folder behind."""
    monkeypatch.setattr(data, "_QUESTIONS", 8)
    out = tmp_path / "out"
    words = ["evaluate", "understanding", "--out", str(out), "--model"]
    assert main([*words, str(tmp_path / "none")]) == 2
    assert not out.exists()
    assert main([*words, str(MODEL)]) == 0
    result = json.loads((out / "result.json").read_text())
    assert len(result["values"]["accuracy"]) == 8
    assert result["lists"] == {"questions": "scenes"}
    assert [path.name for path in out.iterdir()] == ["result.json"]
    written = tmp_path / "written"
    assert main(["data", "questions", "--output", str(written)]) == 0
    given = ["--questions", str(written / "questions.jsonl")]
    assert main([*words[:3], str(tmp_path / "again"), "--model", str(MODEL), *given]) == 0
    again = json.loads((tmp_path / "again" / "result.json").read_text())
    assert again["prompts_sha256"] == result["prompts_sha256"]
    assert again["values"] == result["values"]


def test_questions_about_scenes_can_be_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """``data questions`` writes 200 with an image each; the first eight, two of each kind, are
    answered. Nothing is written to a folder that is not empty."""
    folder = tmp_path / "questions"
    assert main(["data", "questions", "--output", str(folder)]) == 0
    assert capsys.readouterr().out == f"200 questions: {folder / 'questions.jsonl'}\n"
    questions = load_questions(folder / "questions.jsonl")
    assert len({question.image for question in questions if question.image.is_file()}) == 200
    few = folder / "few.jsonl"
    few.write_text("\n".join((folder / "questions.jsonl").read_text().splitlines()[:8]))
    arguments = ["evaluate", "understanding", "--model", str(MODEL), "--questions", str(few)]
    assert main([*arguments, "--out", str(tmp_path / "out")]) == 0
    values = json.loads((tmp_path / "out" / "result.json").read_text())["values"]
    assert len(values["accuracy"]) == len(values["logprob"]) == 8
    assert main(["data", "questions", "--output", str(folder)]) == 2
    assert f"{folder} is not an empty folder; nothing was written" in capsys.readouterr().err
