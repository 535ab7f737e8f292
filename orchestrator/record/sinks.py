"""Other places that get the rows of metrics.jsonl: TensorBoard, Weights & Biases and trackio.

Each is a package that may be absent, and is imported when it is used. Failure policy: a sink that
cannot begin ends the run at the start, with ``UserError``. A sink that fails later is left out from
then on, with a warning: the rows are in metrics.jsonl, and a run of days must not end because a
server of metrics is away.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, Self

from policy.errors import UserError
from policy.types import JsonDict

log = logging.getLogger("eg_grpo")

_FINISH_S = 60.0  # in which the rows must have reached W&B's server at the end of a run


class Sink(Protocol):
    """Gets the rows of one run."""

    def step(self, row: JsonDict) -> None:
        """Take the row of a step as it is in metrics.jsonl."""
        ...

    def close(self, failed: bool) -> None:
        """Write what is not written yet, and say whether the run has failed."""
        ...


@dataclass(frozen=True)
class RunOfSinks:
    """What a sink is told of the run when it begins."""

    name: str
    project: str
    folder: Path
    id: str | None  # the same in every attempt of the run; None if the run has no such id
    settings: JsonDict  # with secrets masked


def numbers(row: JsonDict) -> dict[str, float]:
    """The values of a row that can be drawn as a curve, by key, without step and time."""
    return {
        key: float(value)
        for key, value in row.items()
        if isinstance(value, int | float) and key not in ("step", "time")
    }


class TensorBoard:
    """Event files in ``tensorboard/`` of the run folder. A resumed run adds another file."""

    def __init__(self, run: RunOfSinks) -> None:
        from tensorboard.summary import Writer

        self._writer = Writer(str(run.folder / "tensorboard"))

    def step(self, row: JsonDict) -> None:
        for key, value in numbers(row).items():
            self._writer.add_scalar(key, value, row["step"], wall_time=row["time"])
        self._writer.flush()

    def close(self, failed: bool) -> None:
        self._writer.close()


class WandB:
    """A run at Weights & Biases; offline it is kept in ``wandb/`` of the run folder.

    A resumed run goes on with the same run there. Steps are a metric of their own, because W&B
    refuses a step that comes a second time, as it does after a fall back to a checkpoint.
    """

    def __init__(self, run: RunOfSinks, mode: Literal["online", "offline"]) -> None:
        import wandb

        self._run = wandb.init(
            project=run.project,
            name=run.name,
            id=run.id,
            resume="allow" if mode == "online" else None,
            dir=run.folder,
            config=run.settings,
            mode=mode,
            # Without these W&B also sends the command line, which may hold a secret, the state of
            # git and all that is printed, and at the end it waits for its server for ever.
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                save_code=False,
                x_disable_meta=True,
                finish_timeout=_FINISH_S,
            ),
        )
        self._run.define_metric("*", step_metric="step")

    def step(self, row: JsonDict) -> None:
        self._run.log({"step": row["step"], **numbers(row)})

    def close(self, failed: bool) -> None:
        self._run.finish(exit_code=int(failed))  # W&B shows a code other than 0 as a failed run


class Trackio:
    """A run in trackio's local database, in ``TRACKIO_DIR`` or its default folder.

    There a name is a run: a later run of the same name would go on with it.

    What trackio prints goes to standard error: standard output is for the results of a run.
    """

    def __init__(self, run: RunOfSinks) -> None:
        import trackio

        with redirect_stdout(sys.stderr):
            self._run = trackio.init(
                project=run.project,
                name=run.name if run.id is None else f"{run.name}-{run.id[:8]}",
                config=run.settings,
                resume="allow",
                embed=False,
                auto_log_gpu=False,
                auto_log_cpu=False,
            )

    def step(self, row: JsonDict) -> None:
        self._run.log(numbers(row), step=row["step"])

    def close(self, failed: bool) -> None:
        with redirect_stdout(sys.stderr):
            self._run.finish()


class Sinks:
    """The sinks of a run as one, as long as its context lasts. It has none at first."""

    def __init__(self) -> None:
        self._sinks: dict[str, Sink] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close every sink that has not failed. An exception means that the run has failed."""
        failed = kind is not None
        self._all_do(lambda sink: sink.close(failed))

    def begin(self, name: str, make: Callable[[], Sink]) -> None:
        """Add a sink. Raises ``UserError`` that names it when ``make`` fails."""
        try:
            self._sinks[name] = make()
        except Exception as error:  # any of its own kinds
            raise UserError(f"metrics.{name}: {_line(error)}") from error

    def step(self, row: JsonDict) -> None:
        """Give the row to every sink that has not failed."""
        self._all_do(lambda sink: sink.step(row))

    def _all_do(self, what: Callable[[Sink], None]) -> None:
        for name, sink in list(self._sinks.items()):
            try:
                what(sink)
            except Exception as error:  # any of its own kinds
                log.warning("metrics.%s: %s; it gets no more rows", name, _line(error))
                del self._sinks[name]


def _line(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
