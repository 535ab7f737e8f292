"""One evaluation: what is left to draw and to score, and the result once nothing is left."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from evaluation.suites.suite import Item, Scores, columns_of
from orchestrator.pipeline.order import suite_seeds
from orchestrator.record.evaluation_folder import EvaluationFolder
from orchestrator.settings.host import PACKAGES, versions
from orchestrator.settings.suite_inputs import SuiteInputs
from policy.errors import RunFailed
from policy.image_files import image_group, read_image
from policy.types import Group, JsonDict, RewardFailure, RewardResult, Score
from rewards.config import RewardConfig
from rewards.scored_group import ScoredGroup, failure_reasons
from rollout.engine import GenerationRequest


@dataclass
class Evaluation:
    """The parts of an evaluation. A place is the index of an item in ``inputs.items``."""

    inputs: SuiteInputs
    folder: EvaluationFolder
    # Where the images of another model are: a file for each place and index. None draws images.
    given: Mapping[tuple[int, int], Path] | None

    def request(self, place: int) -> GenerationRequest:
        """What is drawn for a place."""
        inputs = self.inputs
        prompt = inputs.items[place].prompt
        seeds = suite_seeds(
            inputs.config.seed, inputs.suite.name, prompt.id, inputs.images_per_prompt
        )
        return GenerationRequest(prompt, seeds)

    def list_prompts(self) -> None:
        """Write which prompt each place has, and the official names of its images."""
        self.folder.list_prompts(self.inputs.listed())

    def to_draw(self) -> list[int]:
        """The places without images."""
        if self.given is not None:
            return []
        drawn = self.folder.drawn()
        return [place for place in range(len(self.inputs.items)) if place not in drawn]

    def keep_drawn(self, place: int, group: Group) -> None:
        """Write the images of a place."""
        trajectories = group.trajectories
        prompt = {"prompt_id": group.prompt.id, "prompt": group.prompt.text}
        drawn = {
            "seeds": [t.seed for t in trajectories],
            "cots": [t.cot_text for t in trajectories],
        }
        self.folder.keep_drawn(place, prompt | drawn, [t.image for t in trajectories])

    def to_score(self, scorer: str) -> dict[int, list[int]]:
        """The images that a scorer still has to judge, or has failed to judge: their indices, for
        each place that has such images."""
        scored, every = self.folder.scored(scorer), range(self.inputs.images_per_prompt)
        left = {
            place: _failed(scored[place]) if place in scored else list(every)
            for place, item in enumerate(self.inputs.items)
            if scorer in item.scorers
        }
        return {place: indices for place, indices in left.items() if indices}

    def scorers_left(self) -> list[RewardConfig]:
        """The scorers that have something left to judge."""
        return [reward for reward in self.inputs.config.rewards if self.to_score(reward.name)]

    def group(self, place: int, indices: Sequence[int]) -> Group:
        """Some images of a place, as a scorer wants them."""
        files = [self._file(place, index) for index in indices]
        images = [read_image(file, "evaluate") for file in files]
        return image_group(self.inputs.items[place].prompt, images)

    def _file(self, place: int, index: int) -> Path:
        return self.folder.image(place, index) if self.given is None else self.given[place, index]

    def finish(self) -> Path:
        """Write ``result.json`` and return its path.

        Raises ``RunFailed`` when an image has no score: a mean over the others would be the mean of
        another set. The reasons are in the file.
        """
        suite = self.inputs.suite
        names = [scorer.name for scorer in self.inputs.config.rewards]
        failures = failure_reasons(self._groups(names))
        values = {} if failures else self._values(names)
        columns = columns_of(suite.columns, values)
        file = self.folder.write_result(
            {
                **self.folder.asked,
                "digests": {name: sorted(self.folder.digests(name)) for name in names},
                "versions": {"python": platform.python_version(), **versions(PACKAGES)},
                "columns": [
                    {**asdict(column), "value": columns[column.name]} for column in suite.columns
                ],
                "values": values,
                **({} if failures else self._per_image(names)),
                "failures": failures,
            }
        )
        if failures:
            reason, count = max(failures.items(), key=lambda failure: failure[1])
            raise RunFailed(
                f"{sum(failures.values())} scores are missing, {count} of them because of {reason};"
                f" {file} has no values"
            )
        return file

    def _values(self, names: Sequence[str]) -> dict[str, dict[str, float]]:
        """The value of each prompt in each stratum; every score is there."""
        values: dict[str, dict[str, float]] = {}
        for item, scores in self._scores(names):
            for stratum, value in self.inputs.suite.measure(item, scores).items():
                if stratum not in self.inputs.left_out:
                    values.setdefault(stratum, {})[item.prompt.id] = value
        return values

    def _per_image(self, names: Sequence[str]) -> JsonDict:
        """What the suite tells of the single images of each prompt; every score is there."""
        if (per_image := self.inputs.suite.per_image) is None:
            return {}
        found = {item.prompt.id: per_image(item, scores) for item, scores in self._scores(names)}
        return {"per_image": found}

    def _scores(self, names: Sequence[str]) -> Iterator[tuple[Item, Scores]]:
        """Each item with its scores; every score is there."""
        scored = {name: self.folder.scored(name) for name in names}
        for place, item in enumerate(self.inputs.items):
            yield item, {name: cast(list[Score], scored[name][place]) for name in item.scorers}

    def _groups(self, names: Sequence[str]) -> list[ScoredGroup]:
        """The newest results of all places."""
        scored = {name: self.folder.scored(name) for name in names}
        return [
            ScoredGroup(
                item.prompt, (), {name: tuple(scored[name][place]) for name in item.scorers}
            )
            for place, item in enumerate(self.inputs.items)
        ]


def _failed(results: Sequence[RewardResult]) -> list[int]:
    """The indices of the images without a score."""
    return [index for index, result in enumerate(results) if isinstance(result, RewardFailure)]
