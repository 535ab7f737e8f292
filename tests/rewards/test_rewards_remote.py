"""The remote reward against a real HTTP server on loopback: what travels, what is repeated."""

from __future__ import annotations

import base64
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from queue import Queue
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.small_models.tiny_rewards import PROMPTS, images
from policy.errors import UserError
from policy.types import RewardFailure, Score
from rewards.config import RewardConfig
from rewards.factory import build_reward, check_factory
from rewards.remote import RemoteReward

IMAGES = images(2)


class Scorer(ThreadingHTTPServer):
    """Answers with the given (status, body) pairs in turn, and then with mean pixel values."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.asked: list[Any] = []
        self.answers: list[tuple[int | None, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/score"


class _Answer(BaseHTTPRequestHandler):
    server: Scorer

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(request)
        status, body = (self.server.answers or [(200, None)]).pop(0)
        if status is None:
            self.close_connection = True
            return
        if body is None:
            body = {"results": [{"value": _mean(item)} for item in request["items"]]}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


def _mean(item: dict[str, Any]) -> float:
    picture = Image.open(io.BytesIO(base64.b64decode(item["image_png"])))
    return float(np.asarray(picture).mean())


@pytest.fixture
def scorer(monkeypatch: pytest.MonkeyPatch) -> Iterator[Scorer]:
    monkeypatch.setattr("rewards.remote._FIRST_PAUSE_S", 0.001)
    with Scorer() as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_pixels_and_prompts_arrive_whole(scorer: Scorer) -> None:
    """One request a batch; PNG loses nothing; every field of the prompt is there."""
    reward = build_reward(
        RewardConfig(name="far", factory="rewards.remote:RemoteReward", options={"url": scorer.url})
    )
    results = reward.score(IMAGES, PROMPTS[:2])
    assert results == [Score(float(image.mean())) for image in IMAGES]
    (request,) = scorer.asked
    assert request["items"][1]["prompt"] == {
        "id": "t:2", "text": "two rubber gloves", "task_type": "numeracy",
        "nouns": ["rubber glove"], "attr_nouns": [], "spatial_info": None,
        "numeracy_info": [{"obj_name": "rubber glove", "num": 2}], "evaluation": None,
    }  # fmt: skip


def test_details_and_failures_come_back_as_such(scorer: Scorer) -> None:
    """A failure of one image keeps its reason; not applicable is told apart."""
    scorer.answers = [
        (200, {"results": [{"failure": "no face"}, {"value": 0, "applicable": False}]}),
        (200, {"results": [{"value": 1, "detail": {"faces": 2}}]}),
    ]
    reward = RemoteReward(scorer.url)
    assert reward.score(IMAGES, PROMPTS[:2]) == [
        RewardFailure("no face"),
        Score(0.0, applicable=False),
    ]
    assert reward.score(IMAGES[:1], PROMPTS[:1]) == [Score(1.0, {"faces": 2.0})]


@pytest.mark.parametrize("status", [408, 429, 500, 503, None])
def test_what_may_pass_is_tried_again(scorer: Scorer, status: int | None) -> None:
    """Twice the failure (None: the connection closed), then the score: three requests."""
    scorer.answers = [(status, {}), (status, {}), (200, None)]
    reward = RemoteReward(scorer.url, retries=2)
    assert reward.score(IMAGES[:1], PROMPTS[:1]) == [Score(float(IMAGES[0].mean()))]
    assert len(scorer.asked) == 3


@pytest.mark.parametrize("status", [503, None])
def test_tries_are_bounded(scorer: Scorer, status: int | None) -> None:
    """Then all of it may succeed later, which ConnectionError says, with the address."""
    scorer.answers = [(status, {})] * 9
    with pytest.raises(ConnectionError, match=scorer.url):
        RemoteReward(scorer.url, retries=2).score(IMAGES, PROMPTS[:2])
    assert len(scorer.asked) == 3


@pytest.mark.parametrize("status", [301, 400, 401, 404, 422])
def test_a_refusal_is_not_tried_again(scorer: Scorer, status: int) -> None:
    """One request; the reason holds the status."""
    scorer.answers = [(status, {})] * 3
    with pytest.raises(ValueError, match=f"answered {status}"):
        RemoteReward(scorer.url).score(IMAGES, PROMPTS[:2])
    assert len(scorer.asked) == 1


@pytest.mark.parametrize(
    "body",
    [b"<html>", [], {}, {"results": [{"value": 1}]}, {"results": [{}, {}]}, {"results": 3},
     {"results": [{"value": "high"}] * 2}, {"results": [{"value": True}] * 2},
     {"results": [{"value": None}] * 2}, {"results": [1, 2]}],
)  # fmt: skip
def test_an_answer_of_another_form_is_an_error(scorer: Scorer, body: Any) -> None:
    """Never a score."""
    scorer.answers = [(200, body)]
    with pytest.raises(ValueError, match=scorer.url):
        RemoteReward(scorer.url).score(IMAGES, PROMPTS[:2])


def answering(scorer: Scorer, answer: Callable[[BaseHTTPRequestHandler], object]) -> None:
    """Have the server read a request and then do this."""

    def do_POST(handler: BaseHTTPRequestHandler) -> None:
        handler.rfile.read(int(handler.headers["Content-Length"]))
        answer(handler)

    scorer.RequestHandlerClass = type("Answers", (_Answer,), {"do_POST": do_POST})  # type: ignore[assignment]


def test_a_server_that_hangs_is_left(scorer: Scorer) -> None:
    """Every try has a deadline."""
    hung = threading.Event()
    answering(scorer, lambda handler: hung.wait(10))
    with pytest.raises(ConnectionError, match=r": no whole answer within 1 s$"):
        RemoteReward(scorer.url, timeout_s=1.0, retries=1).score(IMAGES[:1], PROMPTS[:1])
    hung.set()


@pytest.mark.parametrize(
    "begin",
    [b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"],
    ids=["headers", "content"],
)
def test_a_server_that_trickles_is_left(scorer: Scorer, begin: bytes) -> None:
    """The deadline is that of the whole try: twice the client goes while bytes still come."""
    ends: Queue[str] = Queue()

    def trickle(handler: BaseHTTPRequestHandler) -> None:
        try:
            handler.wfile.write(begin)
            for _ in range(300):
                time.sleep(0.05)
                handler.wfile.write(b" ")
            ends.put("the client stayed")
        except OSError:
            ends.put("the client left")

    answering(scorer, trickle)
    with pytest.raises(ConnectionError, match=r": no whole answer within 1 s$"):
        RemoteReward(scorer.url, timeout_s=1.0, retries=1).score(IMAGES[:1], PROMPTS[:1])
    assert [ends.get(timeout=60) for _ in range(2)] == ["the client left"] * 2


def test_an_answer_that_is_too_large_is_refused(
    scorer: Scorer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many bytes as are allowed are read; one more, and it is not asked for again."""
    monkeypatch.setattr("rewards.remote._LARGEST_ANSWER", 1000)
    fits = json.dumps({"results": [{"value": 1}]}).encode().ljust(1000)
    scorer.answers = [(200, fits), (200, fits + b" ")]
    reward = RemoteReward(scorer.url)
    assert reward.score(IMAGES[:1], PROMPTS[:1]) == [Score(1.0)]
    with pytest.raises(ValueError, match=f"{scorer.url}: an answer of more than 1000 bytes"):
        reward.score(IMAGES[:1], PROMPTS[:1])
    assert len(scorer.asked) == 2


def test_an_answer_without_end_is_not_read(scorer: Scorer) -> None:
    """Of 256 MiB the client takes as much as is allowed, and goes."""
    ends: Queue[str] = Queue()

    def flood(handler: BaseHTTPRequestHandler) -> None:
        try:
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n\r\n")
            for _ in range(256):
                handler.wfile.write(bytes(2**20))
            ends.put("the client took all")
        except OSError:
            ends.put("the client left")

    answering(scorer, flood)
    with pytest.raises(ValueError, match="an answer of more than 16777216 bytes"):
        RemoteReward(scorer.url).score(IMAGES[:1], PROMPTS[:1])
    assert ends.get(timeout=60) == "the client left"


def test_an_answer_that_breaks_off_is_asked_for_again(scorer: Scorer) -> None:
    """Half of the announced bytes are no answer of another form."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "100")
        handler.end_headers()
        handler.wfile.write(b'{"results": [{"value": 1}]}'.ljust(60))

    answering(scorer, answer)
    with pytest.raises(ConnectionError, match="ClientPayloadError"):
        RemoteReward(scorer.url, retries=1).score(IMAGES[:1], PROMPTS[:1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"url": "ftp://host/score"}, "url: 'ftp://host/score' is not an http or https address"),
        ({"url": "localhost:80"}, "is not an http or https address"),
        ({"url": "http://[x"}, r"url: 'http://\[x' is not an http or https address"),
        ({"url": "http://h:port"}, "is not an http or https address"),
        ({"url": "http://h/a b"}, "is not an http or https address"),
        ({"url": 80}, r"^rewards\.far\.options: rewards\.remote:RemoteReward cannot check them: "),
        ({"url": "http://h", "timeout_s": "60"},
         r"^rewards\.far\.options: rewards\.remote:RemoteReward cannot check them: TypeError: '>'"),
        ({"url": "http://h", "timeout_s": 200, "retries": 2},
         r"^rewards\.far\.timeout_s: 600 s is less than the 601\.5 s that one call may take"),
        ({"url": "http://h", "timeout_s": 0}, "timeout_s: 0 is not above 0"),
        ({"url": "http://h", "retries": -1}, "retries: -1 is below 0"),
    ],
)  # fmt: skip
def test_wrong_options_are_found_before_any_worker(options: dict[str, Any], message: str) -> None:
    """One line that names the option."""
    config = RewardConfig(name="far", factory="rewards.remote:RemoteReward", options=options)
    with pytest.raises(UserError, match=message):
        check_factory(config)
