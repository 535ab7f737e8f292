"""The settings of where the metrics of a run go, besides its metrics.jsonl."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Literal

from pydantic import Field

from policy.base_settings import Ignored, Name, Settings
from policy.errors import UserError
from policy.extras import install_command


class MetricsConfig(Settings):
    """The endpoint for Prometheus, and the other places that get each row of metrics.jsonl."""

    host: str = Field(
        default="127.0.0.1",
        min_length=1,
        description="address at which Prometheus may scrape the run; 0.0.0.0 is every address of"
        " the machine, and the endpoint asks for no password",
    )
    port: int | None = Field(
        default=0, ge=0, le=65535, description="port of the endpoint; 0: a free one, null: none"
    )
    tensorboard: bool = Field(
        default=False, description="write event files into tensorboard/ of the run folder"
    )
    wandb: Literal["online", "offline"] | None = Field(
        default=None,
        description="send the rows to Weights & Biases, or keep them in wandb/ of the run folder",
    )
    trackio: bool = Field(default=False, description="keep the rows in trackio's local database")
    project: Name = Field(
        default="eg-grpo", description="name of the project at Weights & Biases and in trackio"
    )

    def ignored(self) -> Iterator[Ignored]:
        if self.port is None:
            yield Ignored("host", "has no effect without metrics.port", ("port",))
        if self.wandb is None and not self.trackio:
            text = "has no effect without metrics.wandb or metrics.trackio"
            yield Ignored("project", text, ("wandb", "trackio"))

    @property
    def sinks(self) -> tuple[str, ...]:
        """The packages that get the rows."""
        chosen = {"tensorboard": self.tensorboard, "wandb": self.wandb, "trackio": self.trackio}
        return tuple(name for name, wanted in chosen.items() if wanted)


def check_sinks(config: MetricsConfig) -> None:
    """Raise ``UserError`` when the package of a sink is not installed."""
    for name in config.sinks:
        if find_spec(name) is None:
            raise UserError(
                f"metrics.{name}: the package {name} is not installed; install it with:"
                f" {install_command(name)}"
            )
