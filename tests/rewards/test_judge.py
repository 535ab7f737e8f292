"""The judge of WISE against a real HTTP server on loopback that replays recorded answers."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from policy.errors import UserError
from policy.types import Prompt, RewardFailure, Score
from rewards.config import RewardConfig
from rewards.factory import build_reward
from rewards.judge import WiseJudge
from rewards.judge_questions import read_questions

IMAGE = np.zeros((4, 4, 3), dtype=np.uint8)
MOON = Prompt("wise:1", "the moon", "culture", evaluation={"explanation": "it is round"})
GOOD = "Consistency: 2\nRealism: 1\nAesthetic Quality: 0"
# A program as WISE's: nothing of it may run.
PROGRAM = """
raise SystemExit("this program was run")

def build_evaluation_messages(prompt_data, image_base64):
    return [
        {"role": "system", "content": [{"type": "text", "text": "Be strict."}]},
        {"role": "user", "content": [
            {"type": "text", "text": f\"\"\"Rate it.
PROMPT: "{prompt_data['Prompt']}"
EXPLANATION: "{prompt_data['Explanation']}"
Be brief.\"\"\"},
            {"type": "image_url", "image_url": {"url": f"data:{image_base64}"}},
        ]},
    ]
"""


class Model(ThreadingHTTPServer):
    """Gives the recorded answers in turn: (status, text of the message), or None to hang up."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.answers: list[tuple[int, str] | None] = []
        self.asked: list[tuple[str, str | None, Any]] = []


class _Answer(BaseHTTPRequestHandler):
    server: Model

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append((self.path, self.headers["Authorization"], body))
        answer = self.server.answers.pop(0)
        if answer is None:
            self.close_connection = True
            return
        status, text = answer
        data = json.dumps({"choices": [{"message": {"content": text}}]}).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> Iterator[Model]:
    monkeypatch.setattr("rewards.remote._FIRST_PAUSE_S", 0.001)
    monkeypatch.setenv("OPENAI_API_KEY", "a-key")
    server = Model()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def questions(tmp_path: Path) -> str:
    file = tmp_path / "gpt_eval.py"
    file.write_text(PROGRAM)
    return str(file)


def judge(model: Model, questions: str, **options: Any) -> WiseJudge:
    url = f"http://127.0.0.1:{model.server_port}/v1"
    return WiseJudge(url=url, model="gpt-4o-2024-05-13", questions=questions, **options)


def test_the_request_is_that_of_the_authors(model: Model, questions: str) -> None:
    """The texts come from their program, with the prompt and the explanation in their places."""
    model.answers = [(200, GOOD)]
    (score,) = judge(model, questions, key_variable="OPENAI_API_KEY").score([IMAGE], [MOON])
    detail = {"consistency": 2.0, "realism": 1.0, "aesthetic quality": 0.0}
    assert score == Score(pytest.approx(0.8), detail)
    ((path, key, body),) = model.asked
    assert (path, key) == ("/v1/chat/completions", "Bearer a-key")
    system, user = body.pop("messages")
    assert body == {"model": "gpt-4o-2024-05-13", "temperature": 0.0, "max_tokens": 2000}
    assert system == {"role": "system", "content": [{"type": "text", "text": "Be strict."}]}
    text, image = user["content"]
    asked = 'Rate it.\nPROMPT: "the moon"\nEXPLANATION: "it is round"\nBe brief.'
    assert text == {"type": "text", "text": asked}
    assert image["image_url"]["url"].startswith("data:image/png;base64,iVBOR")


def test_the_verified_protocol_asks_for_one_score(model: Model, questions: str) -> None:
    """500 tokens, further fields from the settings. OpenAI's key is sent to no other host."""
    model.answers = [(200, "Score: 1")]
    options = {"protocol": "verified", "extra": {"seed": 1}}
    assert judge(model, questions, **options).score([IMAGE], [MOON]) == [Score(1.0)]
    ((_, key, body),) = model.asked
    assert (key, body["max_tokens"], body["seed"]) == (None, 500, 1)


def test_passing_troubles_are_repeated(model: Model, questions: str) -> None:
    """A busy server and a broken connection; the third try answers."""
    model.answers = [(429, ""), None, (200, GOOD)]
    (score,) = judge(model, questions).score([IMAGE], [MOON])
    assert isinstance(score, Score)
    assert len(model.asked) == 3


def test_troubles_that_last_fail_the_image_transiently(model: Model, questions: str) -> None:
    """The pool tries again later; no number takes the place of the score."""
    model.answers = [(503, "")] * 3
    (result,) = judge(model, questions, retries=2).score([IMAGE], [MOON])
    assert result == RewardFailure("judge: answered 503", transient=True)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((401, "no"), "judge: answered 401"),
        ((200, "I am sorry."), "judge: no scores in the answer 'I am sorry.'"),
        ((200, "Consistency: 10\nRealism: 1\nAesthetic Quality: 0"), "judge: score '10'"),
    ],
)
def test_an_answer_that_will_not_change_fails_at_once(
    model: Model, questions: str, answer: tuple[int, str], reason: str
) -> None:
    """At temperature 0 the same question gets the same answer; the reason quotes it."""
    model.answers = [answer]
    (result,) = judge(model, questions).score([IMAGE], [MOON])
    assert isinstance(result, RewardFailure)
    assert result.reason.startswith(reason)
    assert not result.transient
    assert len(model.asked) == 1


def test_a_prompt_without_an_explanation_fails(model: Model, questions: str) -> None:
    """Nothing is asked: the judge would rate another question."""
    (result,) = judge(model, questions).score([IMAGE], [Prompt("p", "the moon", "culture")])
    assert result == RewardFailure("prompt p has no explanation for a judge")
    assert model.asked == []


@pytest.mark.parametrize(
    ("program", "problem"),
    [
        ("def other(): pass", "has 0 texts"),
        ("def build_evaluation_messages(:", "not a Python program"),
        (PROGRAM.replace("Explanation", "Category"), "unexpected text of a question"),
        (PROGRAM.replace("{prompt_data['Prompt']}", ""), "lacks the prompt or the explanation"),
    ],
)
def test_a_program_without_the_questions_is_refused(
    tmp_path: Path, program: str, problem: str
) -> None:
    """Another file, or a version of it that asks in another way."""
    file = tmp_path / "program.py"
    file.write_text(program)
    with pytest.raises(UserError, match=problem):
        read_questions(file)


def test_the_judge_is_a_reward(model: Model, questions: str) -> None:
    """It is built from a configuration, and its mistakes are named."""
    options = {"url": "ftp://x", "model": "m", "questions": questions}
    config = RewardConfig(name="judge", factory="rewards.judge:WiseJudge", options=options)
    with pytest.raises(UserError, match="url: 'ftp://x' is not an http or https address"):
        build_reward(config)
