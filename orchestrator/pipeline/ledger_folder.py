"""The ledger of a run folder: which Redis has it, and what the folder remembers of it.

``ledger.json`` in the run folder has the run's id, its last epoch, and the address of the Redis
without secrets. ``ledger/`` has the data if the run starts that Redis itself.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pydantic import BaseModel, ValidationError

from orchestrator.pipeline.ledger import Ledger, LedgerLost, superseded
from orchestrator.pipeline.ledger_connection import (
    LedgerConnection,
    answers,
    make_wish,
    read_ledger,
    runs_at,
)
from orchestrator.pipeline.ledger_server import own_server
from orchestrator.pipeline.ledger_view import LedgerView
from orchestrator.settings.ledger_config import LedgerConfig
from policy.disk import write_whole
from policy.errors import UserError
from policy.secrets import without_login
from policy.text_files import read_json
from rewards.cache import check_redis

_FILE, _DATA = "ledger.json", "ledger"


@contextmanager
def open_ledger(
    config: LedgerConfig, folder: Path, waiting: Callable[[str], None]
) -> Iterator[Ledger]:
    """Take over the ledger of the run in ``folder``, and start a Redis for it if none is named.

    A server of our own ends with the block. Raises ``UserError`` when a Redis is named and does not
    answer, when none is named and none can be started, and when the ledger is another run's.
    """
    url = _named(config)
    revive: Callable[[], None] | None = None
    with ExitStack() as stack:
        own = url is None
        if url is None:
            server = stack.enter_context(own_server(folder / _DATA, waiting))
            url, revive = server.url, server.revive
        memory = _Memory(folder, url, own)
        yield Ledger.take(
            url,
            memory.run,
            memory.epoch,
            waiting,
            config.timeout_s,
            memory.remember,
            revive,
            memory.taken,
            memory.newest,
        )


def go_on_from(ledger: Ledger, step: int, say: Callable[[str], None]) -> None:
    """Have the ledger go on after ``step`` steps, those of the checkpoint that a run resumes from.

    A ledger that knows fewer steps has lost its data while no driver lived. It is begun anew.
    """
    try:
        ledger.fall_back(step)
    except LedgerLost as lost:
        say(f"{lost}; the ledger is begun anew at step {step}")
        ledger.rebuild(step)


def read_run(folder: Path) -> LedgerView:
    """The ledger of the run in ``folder``, whether the run goes on or has ended.

    A Redis whose URL has a password is asked when REDIS_URL names it. Raises ``UserError`` when the
    folder has no ledger, or its Redis does not answer.
    """
    saved = _Saved.read(folder)
    if saved is None:
        raise UserError(f"{folder} has no ledger: {_FILE} is missing")
    if saved.own:
        try:
            return read_ledger(saved.address, saved.run)
        except UserError:  # the run has ended, or is on another machine
            return read_ledger_folder(folder)
    return read_ledger(saved.url, saved.run)


def ask_driver(
    folder: Path, asked_by: str, wanted: Mapping[str, int], timeout_s: float = 30.0
) -> str:
    """Ask the driver of the run in ``folder`` for other numbers of workers; returns the wish's id.

    Raises ``UserError`` when the folder has no ledger, or when the run has started its Redis itself
    and that one does not answer. Raises ``RunFailed`` when another Redis does not answer.
    """
    saved = _Saved.read(folder)
    if saved is None:
        raise UserError(f"{folder} has no ledger: {_FILE} is missing")
    if saved.own and not answers(saved.url):
        raise UserError(
            f"{folder}: the run's own Redis does not answer: the run has ended, or its driver is on"
            " another machine"
        )
    connection = LedgerConnection(saved.url, saved.run, lambda text: None, timeout_s, None)
    return make_wish(connection, saved.run, asked_by, wanted)


def read_ledger_folder(folder: Path) -> LedgerView:
    """The ledger in the data of a run's own server, read by another server from a copy of them.

    Raises ``UserError`` when the folder has no such data, or they cannot be read.
    """
    saved = _Saved.read(folder)
    found = list((folder / _DATA).glob("appendonly*"))
    if saved is None or not found:
        raise UserError(f"{folder} has no ledger")
    with tempfile.TemporaryDirectory(prefix="eg-grpo-") as copied:
        data = Path(copied) / _DATA
        data.mkdir()
        for entry in found:
            copy = shutil.copytree if entry.is_dir() else shutil.copy
            copy(entry, data / entry.name)
        with own_server(data, lambda text: None) as server:
            return read_ledger(server.url, saved.run)


class _Saved(BaseModel):
    """``ledger.json``."""

    run: str  # the id of the run
    epoch: int  # the last one that a driver has asked for
    taken: int  # the last one that Redis has acknowledged
    address: str  # of the Redis, without its login
    own: bool  # whether the run starts that Redis itself
    folder: Path  # of the run, to notice a copy

    @property
    def url(self) -> str:
        """The address, with its password if REDIS_URL has it."""
        named = os.environ.get("REDIS_URL", "")
        return named if without_login(named) == self.address else self.address

    @classmethod
    def read(cls, folder: Path) -> _Saved | None:
        """What the folder remembers; None if it has had no ledger."""
        file = folder / _FILE
        if not file.is_file():
            return None
        try:
            return cls.model_validate(read_json(file))
        except ValidationError as error:
            problem = error.errors()[0]
            key = ".".join(map(str, problem["loc"]))
            raise UserError(f"{file}: damaged: {key}: {problem['msg']}") from None


class _Memory:
    """Reads and writes ``ledger.json``."""

    def __init__(self, folder: Path, url: str, own: bool) -> None:
        self._folder = folder.absolute()
        saved, self._own = _Saved.read(folder), own
        self._address = without_login(url)
        self.run = saved.run if saved else uuid.uuid4().hex
        self.epoch, self.taken = (saved.epoch, saved.taken) if saved else (0, 0)
        if own:
            self._check_data(runs_at(url) - {self.run})
        elif saved is not None:
            self._check_no_copy(saved)

    def remember(self, asked: int, taken: int) -> None:
        """Write both epochs. Raises ``Superseded`` when another driver was here since."""
        saved = _Saved.read(self._folder)
        if saved is not None and saved.epoch > (asked if taken == asked else asked - 1):
            raise superseded(self.run, saved.epoch, taken)
        fresh = _Saved(
            run=self.run,
            epoch=asked,
            taken=taken,
            address=self._address,
            own=self._own,
            folder=self._folder,
        )
        write_whole(self._folder / _FILE, fresh.model_dump_json(indent=1) + "\n")

    def newest(self) -> int:
        """The last epoch that a driver has asked for."""
        saved = _Saved.read(self._folder)
        return 0 if saved is None else saved.epoch

    def _check_data(self, others: set[str]) -> None:
        if others:
            raise UserError(
                f"{self._folder / _DATA} has the ledger of another run, {', '.join(others)}, and"
                f" {_FILE} does not name it. Delete {_DATA}/ to begin a new ledger"
            )

    def _check_no_copy(self, saved: _Saved) -> None:
        """Two folders with one ledger would take each other's groups."""
        if saved.folder == self._folder:
            return
        other = _Saved.read(saved.folder)
        if other is not None and other.run == self.run:
            raise UserError(
                f"{self._folder / _FILE}: this is the ledger of another run, {saved.folder}, of"
                f" which this folder is a copy. Delete {_FILE} to begin a new ledger"
            )


def _named(config: LedgerConfig) -> str | None:
    """The URL of the Redis that the settings or REDIS_URL name; it answers."""
    key, url = "ledger.url", config.url
    if url is None:
        key, url = "REDIS_URL", os.environ.get("REDIS_URL") or None
    if url is not None:
        check_redis(url, key)
    return url
