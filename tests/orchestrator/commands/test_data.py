"""`eg-grpo data fetch` as a whole, with small files of our own behind a server on loopback."""

from __future__ import annotations

import errno
import hashlib
import json
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from evaluation.leaks import find_leaks, load_validation
from evaluation.public_files import PUBLIC_FILES, TRAINING, PublicFile
from orchestrator.cli import main
from orchestrator.settings.input_checks import check_inputs
from orchestrator.settings.run_config import load_config
from policy.errors import UserError
from policy.prompts import load_prompts

ROOT = Path(__file__).parents[3]
ROWS = [
    {"prompt": f"a photo of {n} red circles", "nouns": ["circle"], "task_type": "numeracy"}
    for n in range(130)
]
FILES = {
    TRAINING.path: "".join(json.dumps(row) + "\n" for row in ROWS),
    "t2i_compbench/shape_val.txt": "a blue cube\nA photo of 7  red circles. \n",
    "wise_legacy/science.json": json.dumps(
        [{"Prompt": "ice"}, {"Prompt": "a photo of 0 red circles"}]
    ),
    "t2i_compbench_2023/shape_val.txt": "a photo of 9 red circles\n",
    "wise_verified/science.json": json.dumps([{"Prompt": "A photo of 1 red circles."}]),
    "geneval/metadata.jsonl": '{"tag": "counting", "prompt": "a photo of 3 red circles"}\n',
}


class Handler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The command's table points at files in this folder."""
    folder = tmp_path / "public"
    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    files = []
    for path, text in FILES.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
        digest = hashlib.sha256(text.encode()).hexdigest()
        url = f"http://127.0.0.1:{http.server_port}/{path}"
        files.append(PublicFile(path, url, len(text), digest))
    monkeypatch.setattr("orchestrator.commands.data.PUBLIC_FILES", tuple(files))
    Thread(target=http.serve_forever, args=(0.05,), daemon=True).start()
    yield folder
    http.shutdown()
    http.server_close()


def test_fetch_writes_checks_and_lists_the_leaks(
    served: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Files as published, a cut through the training file, and the leaks by place."""
    output = tmp_path / "data"
    assert main(["data", "fetch", "--output", str(output)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("downloaded") == len(FILES)
    for path, text in FILES.items():
        assert (output / path).read_text() == text
    assert [p.text for p in load_prompts(output / "seen.jsonl")] == [
        row["prompt"] for row in ROWS[::2][:64]
    ]
    assert "5 of 7 validation prompts are also training prompts" in printed
    for leak in (
        "t2i_compbench/shape_val.txt:2  A photo of 7  red circles.",
        "t2i_compbench_2023/shape_val.txt:1  a photo of 9 red circles",
        "geneval/metadata.jsonl:1  a photo of 3 red circles",
        "wise_legacy/science.json:2  a photo of 0 red circles",
        "wise_verified/science.json:1  A photo of 1 red circles.",
    ):
        assert leak in printed

    for path in FILES:
        (served / path).unlink()  # the second run must not need them
    assert main(["data", "fetch", "--output", str(output)]) == 0
    assert "downloaded" not in capsys.readouterr().out


def test_a_failed_fetch_is_one_line(
    served: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 2, the address and the status."""
    (served / "t2i_compbench/shape_val.txt").unlink()
    assert main(["data", "fetch", "--output", str(tmp_path / "data")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "shape_val.txt: HTTP status 404" in error


def test_a_cut_through_the_training_file_is_whole_or_not_there(
    served: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The disk fills while seen.jsonl is written: one line, no such file, and the next run has it.

    A part of it would be trusted ever after.
    """
    output = tmp_path / "data"
    assert main(["data", "fetch", "--output", str(output)]) == 0
    (output / "seen.jsonl").unlink()

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("os.fsync", full)
        assert main(["data", "fetch", "--output", str(output)]) == 2
    assert "seen.jsonl cannot be written: No space left on device" in capsys.readouterr().err
    assert not [file for file in output.iterdir() if "seen" in file.name]
    assert main(["data", "fetch", "--output", str(output)]) == 0
    assert len(load_prompts(output / "seen.jsonl")) == 64


def test_the_table_is_pinned_and_complete() -> None:
    """Every address names a commit by all its 40 digits; places differ."""
    assert len({file.path for file in PUBLIC_FILES}) == len(PUBLIC_FILES) == 25
    for file in PUBLIC_FILES:
        commit = file.url.removeprefix("https://raw.githubusercontent.com/").split("/")[2]
        assert len(commit) == 40
        assert int(commit, 16)
        assert len(file.sha256) == 64


def test_leaks_ignore_case_spaces_and_the_period(tmp_path: Path) -> None:
    """And nothing else: another word is another prompt. Where training repeats a prompt, each of
    its rows is named, so that dropping leaves none."""
    training = tmp_path / "train.jsonl"
    training.write_text(
        '{"prompt": "A red cube.", "task_type": "shape"}\n'
        '{"prompt": "a green cube", "task_type": "shape"}\n'
        '{"prompt": "a red cube", "task_type": "shape"}\n'
    )
    validation = tmp_path / "val.txt"
    validation.write_text("a blue cube\n\na  RED cube\n")
    (leak,) = find_leaks(load_prompts(training), load_validation(validation))
    assert leak.validation.place == "val.txt:3"
    assert [prompt.id for prompt in leak.training] == ["train:1", "train:3"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("val.txt", b"\xef\xbb\xbfa red cube\r\na blue cube\n"),
        ("val.txt", b"a blue cube\n\xef\xbb\xbfa red cube\n"),  # two files joined
        ("val.txt", "a blue\x85cube\na red cube\u200b".encode()),
        ("val.jsonl", b'\xef\xbb\xbf{"prompt": "a  red cube"}\r\n\n{"prompt": "a blue cube"}\n'),
        ("val.json", b'\xef\xbb\xbf[{"Prompt": "\\ufeffa red cube"}, {"Prompt": "a blue cube"}]'),
    ],
)
def test_what_an_editor_adds_hides_no_leak(tmp_path: Path, name: str, content: bytes) -> None:
    """Neither a byte-order mark, before the first prompt or any other, nor what cannot be seen."""
    training = tmp_path / "train.jsonl"
    training.write_text('{"prompt": "a red cube", "task_type": "color"}\n')
    (tmp_path / name).write_bytes(content)
    validation = load_validation(tmp_path / name)
    assert len(validation) == 2
    (leak,) = find_leaks(load_prompts(training), validation)
    assert "red" in leak.validation.text


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        (
            "twice.json",
            b'[{"Prompt": "a",\n "Prompt": "b"}]',
            r"twice\.json:2: key 'Prompt' is",
        ),
        ("half.json", b'[{"Prompt": "\\ud83d"}]', r"half\.json:1: \[0\]\.Prompt holds half"),
        ("none.txt", None, "does not exist"),
        ("empty.txt", b"\n \n", "holds no prompt"),
        ("bytes.txt", b"a\nb\xff", r"bytes\.txt:2: byte 0xff is not UTF-8"),
        ("rows.json", b"[]", "holds no prompt"),
        ("rows.json", b"{}", "expected a JSON list of objects with a Prompt"),
        ("rows.json", b'[{"Prompt": "a"}, {"prompt": "a"}]', "item 2 is not an object with a Pro"),
        ("rows.json", b'[{"Prompt": 3}]', "item 1 is not an object with a Prompt that is text"),
        ("rows.json", b'["a"]', "item 1 is not an object with a Prompt"),
        ("rows.csv", b"a\n", r"expected \*\.txt, one prompt a line, \*\.json, .*, or \*\.jsonl"),
        (
            "rows.jsonl",
            b'{"prompt": "a"}\n{"Prompt": "a"}',
            r"jsonl:2 is not an object with a prom",
        ),
        ("rows.jsonl", b'{"prompt": 3}', r"jsonl:1 is not an object with a prompt that is text"),
        ("rows.jsonl", b'["a"]', r"jsonl:1 is not an object with a prompt"),
        ("rows.jsonl", b'{"prompt": "a"}\n{', r"rows\.jsonl:2: not JSON"),
        ("rows.json", b"{", r"rows\.json:1: not JSON"),
    ],
)
def test_a_broken_validation_file_is_named(
    tmp_path: Path, name: str, content: bytes | None, reason: str
) -> None:
    """One line with the file, and with the item if it is one of a list."""
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=reason) as caught:
        load_validation(tmp_path / name)
    assert name in str(caught.value)


def test_training_keeps_or_drops_the_leaks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One setting; a prompt that is dropped keeps the others' ids."""
    monkeypatch.chdir(ROOT)
    training = tmp_path / "train.jsonl"
    training.write_text("".join(json.dumps(row) + "\n" for row in ROWS[:3]))
    validation = tmp_path / "val.txt"
    validation.write_text("A photo of 1 red circles\n")
    overrides = [f"data.train={training}", f"data.validation=[{validation}]"]
    config = str(ROOT / "configs" / "shapes.yaml")
    kept = check_inputs(load_config(Path(config), overrides))
    dropped = check_inputs(load_config(Path(config), [*overrides, "data.leaks=drop"]))
    assert [prompt.id for prompt in kept.prompts] == ["train:1", "train:2", "train:3"]
    assert [prompt.id for prompt in dropped.prompts] == ["train:1", "train:3"]
    assert len(kept.leaks) == len(dropped.leaks) == 1
    validation.write_text("".join(row["prompt"] + "\n" for row in ROWS[:3]))
    with pytest.raises(UserError, match=r"data\.leaks: every prompt of"):
        check_inputs(load_config(Path(config), [*overrides, "data.leaks=drop"]))
