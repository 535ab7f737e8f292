"""The two controllers of a run with entropy control, from step to step and in checkpoints.

Every rank has the same state, because it follows from the metrics of the whole batch.
"""

from __future__ import annotations

import json
import math
from collections.abc import Container
from dataclasses import asdict
from pathlib import Path

from learner.algorithm.methods.entropy_control import Controller, EntropyCredit
from learner.config import EntropyControlConfig
from policy.errors import UserError
from policy.text_files import read_json

FILE = "entropy_control.json"  # in a checkpoint folder


class EntropyControllers:
    """The controllers of CoT and image tokens."""

    def __init__(self, config: EntropyControlConfig, vocab_sizes: tuple[int, int]) -> None:
        self._config = config
        self._nats = math.log(vocab_sizes[0]), math.log(vocab_sizes[1])
        self.cot, self.image = Controller(), Controller()

    def credit(self, cot_tokens: int, image_tokens: int) -> EntropyCredit:
        """What the next step adds to token advantages, by the tokens of its whole batch."""
        tokens = cot_tokens + image_tokens
        return EntropyCredit(
            self.cot.alpha * tokens / max(cot_tokens, 1),
            self.image.alpha * tokens / max(image_tokens, 1),
            *self._nats,
        )

    def metrics(self) -> dict[str, float]:
        """The coefficients, under their names in a metrics row."""
        return {"entropy_control/cot": self.cot.alpha, "entropy_control/image": self.image.alpha}

    def move(self, cot_entropy: float, image_entropy: float) -> None:
        """Follow a step whose batch had these mean entropies, normalised."""
        config, (cot_nats, image_nats) = self._config, self._nats
        common = config.learning_rate, config.limit
        self.cot = self.cot.moved(cot_entropy * cot_nats, config.cot_target, *common)
        self.image = self.image.moved(image_entropy * image_nats, config.image_target, *common)

    def save(self, folder: Path) -> None:
        """Write the state into a checkpoint folder."""
        state = {"cot": asdict(self.cot), "image": asdict(self.image)}
        (folder / FILE).write_text(json.dumps(state, indent=1) + "\n", encoding="utf-8")

    def load(self, folder: Path, verified: Container[str]) -> None:
        """Read the state of a checkpoint whose ``verified`` files have the digests of its manifest.

        Raises ``UserError`` when it is not among them.
        """
        if FILE not in verified:
            raise UserError(
                f"checkpoint {folder} has no {FILE}: it is of a run without"
                " algorithm.entropy_control"
            )
        state = read_json(folder / FILE)
        self.cot, self.image = Controller(**state["cot"]), Controller(**state["image"])
