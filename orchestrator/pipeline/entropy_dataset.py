"""The folder of an analysis: what was drawn and scored for it, so that nothing is done twice.

``samples/NAME/`` holds the groups of one setting. ``setting.json`` says how they were drawn,
``prompt-000.safetensors`` has the trajectories of a prompt (see ``policy.trajectory_files``), and
``prompt-000.REWARD.json`` their scores by one reward. Each of these files is written whole or not
at all. A call that was stopped goes on where it was, prompt by prompt.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter, ValidationError

from evaluation.entropy_samples import Vocabulary
from policy.disk import write_whole, writing
from policy.errors import UserError
from policy.text_files import read_json
from policy.trajectory_files import read_group, write_group
from policy.types import Group, Prompt, RewardFailure, RewardResult, Score
from rewards.config import RewardConfig

_RESULTS = TypeAdapter(tuple[Score | RewardFailure, ...])


@dataclass(frozen=True)
class DrawnAs:
    """How the groups of a setting were drawn: the contents of ``setting.json``."""

    weights: dict[str, str]  # the SHA-256 of each weight file
    template: str
    instruction: str | None
    guidance_scale: float
    temperature: float
    max_cot_tokens: int  # 0 for a setting without CoT
    dtype: str
    seed: int
    cots: int
    images_per_cot: int
    text_vocab_size: int
    num_codes: int
    format: Literal[1] = 1


_DRAWN_AS = TypeAdapter(DrawnAs)


class SettingFolder:
    """The groups of one setting, one for each prompt, by the place of the prompt in its file."""

    def __init__(self, output: Path, name: str, drawn_as: DrawnAs) -> None:
        """Open the setting ``name`` of the analysis ``output``, or begin it.

        Raises ``UserError`` when the groups that lie there were drawn otherwise.
        """
        self.name = name
        self.drawn_as = drawn_as
        self._folder = output / "samples" / name
        file = self._folder / "setting.json"
        if file.exists():
            _check_same(file, drawn_as)
            return
        with writing(file):
            self._folder.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps(asdict(drawn_as), indent=2, ensure_ascii=False) + "\n")

    @property
    def vocabulary(self) -> Vocabulary:
        """What normalises the entropies of this setting."""
        return Vocabulary(self.drawn_as.text_vocab_size, self.drawn_as.num_codes)

    def missing(self, prompts: Sequence[Prompt]) -> list[int]:
        """The places of the prompts whose groups have not been drawn."""
        return [place for place in range(len(prompts)) if not self._group_file(place).exists()]

    def keep(self, place: int, group: Group) -> None:
        """Keep the group of the prompt at ``place``."""
        write_group(self._group_file(place), group)

    def group(self, place: int, prompt: Prompt) -> Group:
        """The group at ``place``. Raises ``UserError`` when it was drawn for another prompt."""
        group = read_group(self._group_file(place))
        if group.prompt != prompt:
            raise UserError(
                f"{self._group_file(place)} is of the prompt {group.prompt.text!r}, and now prompt"
                f" {place + 1} is {prompt.text!r}; give another --output"
            )
        return group

    def results(self, place: int, reward: RewardConfig) -> tuple[RewardResult, ...] | None:
        """The results of a reward for the group at ``place``, or None where there are none.

        Results of the same reward with other options do not count.
        """
        file = self._results_file(place, reward)
        if not file.exists():
            return None
        kept = read_json(file)
        try:
            results = _RESULTS.validate_python(kept["results"])
        except (ValidationError, TypeError, KeyError) as error:
            reason = str(error).splitlines()[0]
            raise UserError(f"{file} is damaged: {reason}") from None
        return results if kept["reward"] == _scored_by(reward) else None

    def keep_results(
        self, place: int, reward: RewardConfig, results: Sequence[RewardResult]
    ) -> None:
        """Keep the results of a reward for the group at ``place``."""
        tree = {
            "reward": _scored_by(reward),
            "results": _RESULTS.dump_python(tuple(results), mode="json"),
        }
        write_whole(self._results_file(place, reward), json.dumps(tree, allow_nan=False) + "\n")

    def _group_file(self, place: int) -> Path:
        return self._folder / f"prompt-{place:03d}.safetensors"

    def _results_file(self, place: int, reward: RewardConfig) -> Path:
        return self._folder / f"prompt-{place:03d}.{reward.name}.json"


def _scored_by(reward: RewardConfig) -> dict[str, Any]:
    return {"factory": reward.factory, "options": reward.options}


def _check_same(file: Path, drawn_as: DrawnAs) -> None:
    try:
        kept = _DRAWN_AS.validate_python(read_json(file))
    except ValidationError as error:
        raise UserError(f"{file} is damaged: {error.errors()[0]['msg']}") from None
    for key, value in asdict(drawn_as).items():
        if (there := getattr(kept, key)) != value:
            here = "other weights" if key == "weights" else f"{key} {there!r} and not {value!r}"
            raise UserError(f"{file}: what lies there was drawn with {here}; give another --output")
