"""Reads and checks what an evaluation needs, before the first worker starts."""

from __future__ import annotations

import hashlib
import importlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from evaluation.comparison import LIBRARIES, LOCATIONS
from evaluation.suites.suite import Item, Suite
from orchestrator.settings.cluster_address import cluster_address
from orchestrator.settings.host import versions
from orchestrator.settings.input_checks import check_positions
from orchestrator.settings.inputs import read_instruction, verified_policy_folder
from orchestrator.settings.machine import check_device, check_gpus, check_nothing_custom
from orchestrator.settings.resources import reward_role, rollout_role
from orchestrator.settings.suite_config import SuiteConfig, load_suite_config
from policy.checkpoint.generation_defaults import GenerationDefaults, load_defaults
from policy.checkpoint.hub import checkpoint_folder
from policy.checkpoint.loading import check_checkpoint, load_encoder, read_config
from policy.checkpoint.weight_files import weights_sha256
from policy.errors import UserError
from policy.sampling import Sampling
from policy.secrets import masked_tree
from policy.templates import template_named
from policy.types import JsonDict
from rewards.config import RewardConfig
from rewards.factory import check_factory


@dataclass(frozen=True)
class EvaluatedPolicy:
    """The policy that draws: what a rollout worker needs to know of it."""

    named: str  # as the user named it
    model_path: Path
    instruction: str | None
    sampling: Sampling
    digest: str  # of the weights


@dataclass(frozen=True)
class SuiteInputs:
    """Everything that an evaluation starts from; ``policy`` is None if images are given."""

    suite: Suite
    config: SuiteConfig
    items: list[Item]
    policy: EvaluatedPolicy | None
    # Strata that were not asked for. Some prompts may belong to them too.
    left_out: frozenset[str]
    # The place of each prompt in the whole suite, by id: the settings may have left prompts out.
    places: dict[str, int]

    @property
    def images_per_prompt(self) -> int:
        return self.config.images_per_prompt or self.suite.images_per_prompt

    def listed(self) -> Iterator[JsonDict]:
        """Which prompt each place has, and the official names of its images: ``prompts.jsonl``."""
        official, count = self.suite.official_name, self.images_per_prompt
        for place, item in enumerate(self.items):
            yield {
                "place": place,
                "stratum": item.stratum,
                "prompt_id": item.prompt.id,
                "prompt": item.prompt.text,
                "official_names": [official(item, index, count) for index in range(count)]
                if official
                else [],
            }

    def asked(self) -> JsonDict:
        """What is measured and how: everything that a comparison of two results depends on."""
        config, analysed_by = self.config, self.suite.analysed_by
        prompts = [[item.stratum, asdict(item.prompt)] for item in self.items]
        return {
            "suite": self.suite.name,
            "lists": dict(self.suite.lists),
            "prompts": len(self.items),
            "whole": config.prompts is None and config.images_per_prompt is None,
            "prompts_sha256": hashlib.sha256(json.dumps(prompts).encode()).hexdigest(),
            "images_per_prompt": self.images_per_prompt,
            **({} if analysed_by is None else {"analysed_by": dict(analysed_by(config.data))}),
            # Another version may give other scores, and so must not go on with these.
            "versions": versions(LIBRARIES),
            **({} if self.policy is None else self._of_policy(self.policy)),
            "scorers": [
                {
                    "name": reward.name,
                    "factory": reward.factory,
                    "options": masked_tree(_options(reward, located=False)),
                    "not_comparable": not_comparable(reward),
                }
                for reward in config.rewards
            ],
            LOCATIONS: {
                reward.name: masked_tree(_options(reward, located=True))
                for reward in config.rewards
            },
        }

    def _of_policy(self, policy: EvaluatedPolicy) -> JsonDict:
        config = self.config
        template = template_named(config.model.template)
        instruction = policy.instruction or template.default_instruction
        return {
            "model": policy.named,
            "weights": policy.digest,
            "template": template.name,
            "roles": template.turn,
            "cot": config.model.cot,
            "instruction": instruction if config.model.cot else None,
            **asdict(policy.sampling),
            "engine": config.rollout.engine,
            "dtype": config.model.dtype,
            "seed": config.seed,
        }


def check_suite(
    suite: Suite, model: str | None, overrides: list[str], scores: bool = True
) -> SuiteInputs:
    """Read the settings, the prompts and, if one is given, the checkpoint; raises ``UserError``.

    Unless it ``scores``, neither the files of the scorers nor this machine are looked at.
    """
    folder, defaults = None, GenerationDefaults.of("janus-plain", None, _NO_POLICY)
    if model is not None:
        folder = verified_policy_folder(checkpoint_folder(model))
        check_checkpoint(folder)
        defaults = load_defaults(folder)
    config = load_suite_config(suite.name, overrides, asdict(defaults.sampling), defaults.template)
    whole = suite.load(config.data)
    items, left_out = _of_strata(suite, whole, config)
    items = _heads(items, config.prompts)
    known = {reward.name for reward in config.rewards}
    for item in items:
        if missing := set(item.scorers) - known:
            raise UserError(
                f"evaluate {suite.name}: rewards: {item.stratum} is scored by"
                f" {missing.pop()}, which the settings do not have"
            )
    asked = {scorer for item in items for scorer in item.scorers}
    config = config.model_copy(
        update={"rewards": tuple(reward for reward in config.rewards if reward.name in asked)}
    )
    if scores:
        check_scoring(config, config.rewards, draws=model is not None)
    policy = None
    if model is not None and folder is not None:
        policy = _policy(model, folder, config, defaults, items)
    places = {item.prompt.id: place for place, item in enumerate(whole)}
    return SuiteInputs(suite, config, items, policy, left_out, places)


def check_scoring(config: SuiteConfig, scorers: Sequence[RewardConfig], draws: bool) -> None:
    """Raise ``UserError`` when one of the scorers cannot be built, or a private cluster would lack
    what they, or the rollout workers if it ``draws``, ask for. The roles take turns."""
    for reward in scorers:
        if not reward.runtime_env.pip:  # else perhaps only its workers can import it
            check_factory(reward)
    if cluster_address(config.cluster.address) is not None:
        return
    roles = [reward_role(reward) for reward in scorers]
    if draws:
        check_device(config.rollout.device, "rollout.device")
        roles.insert(0, rollout_role(config.rollout))
    for role in roles:
        check_nothing_custom(role)
        check_gpus(len(role.names) * role.each.gpus, f"{role.key}: its workers")


# Sampling of an evaluation that draws nothing: the settings want values, and nothing reads them.
_NO_POLICY = Sampling(guidance_scale=1.0, temperature=1.0, max_cot_tokens=1)


def not_comparable(reward: RewardConfig) -> str:
    """Why the scores of a reward differ from those of the suite's authors; empty if they do not."""
    if (found := _class_of(reward)) is None:
        return "its class is known to its workers alone, and with it whether it is comparable"
    return str(getattr(found, "not_comparable", ""))


def _options(reward: RewardConfig, located: bool) -> JsonDict:
    """The options that say where the scorer finds something, or all others.

    Its class names the first in ``locations``: files whose content the digest covers, and the
    address of a server. They do not decide what a score is.
    """
    names = getattr(_class_of(reward), "locations", ())
    return {name: value for name, value in reward.options.items() if (name in names) == located}


def _class_of(reward: RewardConfig) -> Any:
    """The class of a reward; None if only its workers can import it."""
    module, name = reward.factory.split(":")
    try:
        return getattr(importlib.import_module(module), name)
    except ImportError:
        if not reward.runtime_env.pip:
            raise
        return None


def _policy(
    named: str, folder: Path, config: SuiteConfig, defaults: GenerationDefaults, items: list[Item]
) -> EvaluatedPolicy:
    instruction = defaults.instruction
    if config.model.instruction is not None:
        instruction = read_instruction(config.model.instruction)
    sampling = config.rollout.sampling
    if not config.model.cot:
        sampling = replace(sampling, max_cot_tokens=0)
    encoder = load_encoder(folder, config.model.template, instruction)
    check_positions(
        read_config(folder),
        encoder,
        [item.prompt for item in items],
        sampling.max_cot_tokens,
        "rollout.max_cot_tokens",
    )
    return EvaluatedPolicy(named, folder, instruction, sampling, weights_sha256(folder))


def _of_strata(
    suite: Suite, items: list[Item], config: SuiteConfig
) -> tuple[list[Item], frozenset[str]]:
    """The prompts of the strata that are asked for, and the other strata."""
    known = dict.fromkeys(stratum for item in items for stratum in (item.stratum, *item.also))
    for stratum in config.strata or ():
        if stratum not in known:
            raise UserError(f"strata: {suite.name} has no {stratum!r}, only {', '.join(known)}")
    asked = set(config.strata or known)
    chosen = [item for item in items if asked & {item.stratum, *item.also}]
    return chosen, frozenset(known) - asked


def _heads(items: list[Item], count: int | None) -> list[Item]:
    """The first ``count`` items of each stratum, in the order of the suite."""
    strata = dict.fromkeys(item.stratum for item in items)
    chosen = {
        id(item)
        for stratum in strata
        for item in islice((item for item in items if item.stratum == stratum), count)
    }
    return [item for item in items if id(item) in chosen]
