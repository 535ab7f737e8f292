"""Measures the expected gradient of the entropy bonus, and compares it with what theory predicts.

The bonus b of a token does not depend on which token was drawn. With image tokens drawn from the
guided distribution pi_w and the conditional one, pi, trained, its expected gradient is

    E[b grad log pi(a)] = sum_a pi_w(a) b grad log pi(a) = -b grad KL(pi_w || pi),

summed over high tokens, with pi_w held fixed. At w = 1 it is zero, because pi_w is pi. The right
side is computed exactly on the states that were visited, with the sum over the whole codebook. CoT
tokens are drawn from pi and add nothing to it.

Shape legend: B = trajectories, T = CoT columns then image columns, N = tokens, V = vocabulary,
D = hidden size, K = batches, P = trained parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.experiments.estimates import Estimate, cosine, cross_product, projection
from benchmarks.presets import preset
from learner.algorithm.advantages import group_advantages
from learner.algorithm.bonus import (
    BudgetTerms,
    budget_bonus,
    budget_lambda,
    budget_terms,
    capped_bonus,
)
from learner.algorithm.objective import BatchCounts, aggregation_weights
from learner.algorithm.partition import partition_by_modality
from learner.batch_loss import normalised_entropy
from learner.config import AlgorithmConfig
from learner.micro_batches import MicroBatch, cut_micro_batches, micro_batch, training_trajectories
from learner.shares import TrainingGroup, split_over_ranks
from orchestrator.pipeline.order import derived_seed, step_prompts
from policy.checkpoint.loading import load_encoder, load_policy
from policy.distribution import guide
from policy.prompts import load_prompts
from policy.trajectory_logprobs import trajectory_logprobs
from policy.types import Group
from rollout.config import RolloutConfig
from rollout.engine import GenerationRequest
from rollout.transformers_engine import TransformersEngine
from shapes.rewards import Judgement, judge

PROMPTS, GROUP_SIZE, MICRO_BATCH = 16, 8, 32  # a batch of configs/shapes.yaml
ADVANTAGES, LOW = "advantages", "advantages of low tokens"
PRESETS = ("as-code", "as-paper")
COLUMNS = [
    "term",
    "norm in one batch",
    "squared norm of the expected gradient",
    "projection on that of the advantages",
    "cosine with the prediction",
]


class Meter:
    """Draws batches from a checkpoint at a guidance scale and computes their gradients."""

    def __init__(self, checkpoint: Path, prompt_file: Path, guidance_scale: float) -> None:
        self.policy = load_policy(checkpoint, torch.float32)
        encoder = load_encoder(checkpoint, "shapes")
        self.special = encoder.special
        self.guidance_scale = guidance_scale
        config = RolloutConfig(guidance_scale=guidance_scale, max_cot_tokens=24)
        self.engine = TransformersEngine(self.policy, encoder, config)
        self.prompts = load_prompts(prompt_file)
        self.parameters = [parameter for _, parameter in self.policy.trained_parameters()]
        self.algorithms = {name: AlgorithmConfig(**preset(name)) for name in PRESETS}

    def gradients(self, batches: int, report: Callable[[int], None]) -> dict[str, Tensor]:
        """The gradients of every term, K P, of the objective that is maximised."""
        rows: dict[str, list[Tensor]] = {}
        for number in range(batches):
            for term, gradient_P in self._batch(number).items():
                rows.setdefault(term, []).append(gradient_P)
            report(number + 1)
        return {term: torch.stack(found) for term, found in rows.items()}

    def _batch(self, number: int) -> dict[str, Tensor]:
        items = training_trajectories(split_over_ranks(self._groups(number), 1)[0])
        counts = BatchCounts(sum(i.trajectory.num_tokens for i in items), len(items))
        parts = cut_micro_batches(items, MICRO_BATCH)
        total: dict[str, Tensor] = {}
        # Under "guided" the entropies and the log-probs are those of the distribution sampled from.
        for guided in (False, True) if self.guidance_scale != 1 else (False,):
            tensors = [
                micro_batch(part, self.special, 0, guided, self.policy.device) for part in parts
            ]
            entropies = [self._normalised(batch) for batch in tensors]
            lambdas = self._lambdas(tensors, entropies)
            for batch, entropy_BT in zip(tensors, entropies, strict=True):
                sums = self._sums(batch, entropy_BT, lambdas, counts, guided)
                for term, gradient_P in self._differentiated(sums):
                    total[term] = total.get(term, 0) + gradient_P
        return total

    def _groups(self, number: int) -> list[TrainingGroup]:
        prompts = step_prompts(self.prompts, PROMPTS, 0, number)
        requests = [
            GenerationRequest(
                prompt,
                tuple(derived_seed("gradient", number, place, i) for i in range(GROUP_SIZE)),
            )
            for place, prompt in enumerate(prompts)
        ]
        return [
            TrainingGroup(group, tuple(group_advantages(_rewards(group), 2)))
            for group in self.engine.generate(requests)
        ]

    def _lambdas(self, batches: list[MicroBatch], entropies: list[Tensor]) -> dict[str, float]:
        """lambda_B of the whole batch, for each preset that has one."""
        terms = []
        for batch, entropy_BT in zip(batches, entropies, strict=True):
            low_BT, high_BT = _partition(batch, entropy_BT)
            group = batch.advantage_B, batch.has_variance_B
            terms.append(budget_terms(*group, entropy_BT, batch.mask_BT, low_BT, high_BT))
        whole = BudgetTerms.concatenate(terms)
        return {
            name: budget_lambda(whole, algorithm.kappa, algorithm.aggregation)
            for name, algorithm in self.algorithms.items()
            if "batch" in algorithm.objective().method.needs
        }

    def _normalised(self, batch: MicroBatch) -> Tensor:
        sizes = self.policy.text_vocab_size, self.policy.num_codes
        return normalised_entropy(batch.recorded_entropy_BT, batch, *sizes)

    def _sums(
        self,
        batch: MicroBatch,
        entropy_BT: Tensor,
        lambdas: dict[str, float],
        counts: BatchCounts,
        guided: bool,
    ) -> dict[str, Tensor]:
        """The scalar of every term, whose gradient is the micro-batch's share of the term."""
        w = self.guidance_scale
        if guided:
            found = trajectory_logprobs(self.policy, batch.tokens, 1.0, w)
        else:
            found = trajectory_logprobs(self.policy, batch.tokens, 1.0, w, expected_kernel)
        low_BT, high_BT = _partition(batch, entropy_BT)
        sums = {}
        if not guided:
            weight_BT = aggregation_weights(batch.mask_BT, "token-mean", counts)
            gain_BT = weight_BT * batch.advantage_B[:, None] * found.logprob_BT
            sums = {ADVANTAGES: gain_BT.sum(), LOW: (gain_BT * low_BT).sum()}
        for name, algorithm in self.algorithms.items():
            weight_BT = aggregation_weights(batch.mask_BT, algorithm.aggregation, counts)
            if name in lambdas:
                bonus_BT = budget_bonus(lambdas[name], entropy_BT, batch.has_variance_B)
            else:
                bonus_BT = capped_bonus(batch.advantage_B, entropy_BT, algorithm.cap_factor)
            bonus_BT = weight_BT * high_BT * bonus_BT
            if guided:
                sums[f"{name}, guided"] = (bonus_BT * found.logprob_BT).sum()
            else:
                sums[f"{name}, measured"] = (bonus_BT * found.logprob_BT).sum()
                sums[f"{name}, predicted"] = (bonus_BT * found.entropy_BT).sum()
        return sums

    def _differentiated(self, sums: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        for term, value in sums.items():
            parts = torch.autograd.grad(
                value, self.parameters, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            yield term, torch.cat([part.flatten() for part in parts])


def _partition(batch: MicroBatch, entropy_BT: Tensor) -> tuple[Tensor, Tensor]:
    return partition_by_modality(entropy_BT, batch.cot_mask_BT, batch.image_mask_BT, "both")


def _rewards(group: Group) -> list[float]:
    judged = [judge(item.image, group.prompt) for item in group.trajectories]
    rewards = [result.total for result in judged if isinstance(result, Judgement)]
    if len(rewards) < len(judged):
        raise ValueError(f"{group.prompt.id}: not a prompt of the shapes world")
    return rewards


def expected_kernel(
    hidden_ND: Tensor,
    weight_VD: Tensor,
    target_N: Tensor,
    bias_V: Tensor | None,
    *,
    temperature: float,
    guidance_scale: float,
    twin_ND: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The conditional log-prob of each target, and sum_a pi_w(a) log pi(a) in the entropy's place.

    pi_w has no gradient. CoT tokens, and all tokens at w = 1, have no twin: there pi_w is pi.
    """
    logits_NV = torch.nn.functional.linear(hidden_ND, weight_VD, bias_V)
    with torch.no_grad():
        sampled_NV = logits_NV
        if twin_ND is not None:
            twin_NV = torch.nn.functional.linear(twin_ND, weight_VD, bias_V)
            sampled_NV = guide(logits_NV, twin_NV, guidance_scale)
        sampled_NV = torch.softmax(sampled_NV / temperature, dim=-1)
    logprob_NV = torch.log_softmax(logits_NV / temperature, dim=-1)
    expected_N = (sampled_NV * logprob_NV).sum(dim=-1)
    return logprob_NV.gather(-1, target_N[:, None])[:, 0], expected_N


def rows(gradients: dict[str, Tensor]) -> list[list[str]]:
    """The rows of the table of one checkpoint and guidance scale."""
    advantages_KP = gradients[ADVANTAGES]
    table = []
    terms = dict(gradients)
    for name in PRESETS:
        measured_KP, predicted_KP = (gradients[f"{name}, {k}"] for k in ("measured", "predicted"))
        terms[f"{name}, measured minus predicted"] = measured_KP - predicted_KP
    for term, gradient_KP in terms.items():
        alike = ""
        # At w = 1 the prediction is zero, and has no direction.
        if term.endswith(", measured") and f"{PRESETS[0]}, guided" in gradients:
            alike = _figure(
                cosine(gradient_KP, gradients[f"{term.split(',')[0]}, predicted"]), "+.2f"
            )
        table.append(
            [
                term,
                f"{float(gradient_KP.norm(dim=1).mean()):.4f}",
                _figure(cross_product(gradient_KP, gradient_KP), ".2e"),
                _figure(projection(gradient_KP, advantages_KP), "+.3f"),
                alike,
            ]
        )
    return table


def _figure(estimate: Estimate, form: str) -> str:
    return f"{estimate.value:{form}} ({estimate.error:{form.lstrip('+')}})"


def page_head(batches: int, command: str) -> str:
    """What stands over the tables."""
    return f"""\
# The gradient of the entropy bonus, measured and predicted

`{command}`

The bonus of EG-GRPO does not depend on which token was drawn. With image tokens drawn from the
guided distribution `pi_w` and the conditional distribution `pi` trained, as in the paper, its
expected gradient is that of `-b KL(pi_w || pi)` on tokens of high entropy: guidance is distilled
into the policy. At `w = 1` it is zero: the bonus is a baseline.

Each table has {batches} independent batches of {PROMPTS} prompts x {GROUP_SIZE} images, drawn and
judged at the checkpoint itself, before any training. *measured* is the gradient of the bonus at the
tokens that were drawn. *predicted* is the exact sum over the codebook on the same states,
`b sum_a pi_w(a) grad log pi(a)`. *guided* is the bonus where the guided distribution is trained.

Squared norms and projections are means of inner products of different batches, which have no bias;
a squared norm whose true value is zero may come out negative. In brackets: standard errors
(jackknife over batches). The projection is in units of the expected gradient of the advantages:
-0.3 says that the term undoes 30 % of it.

In the plain world *guided* has a large norm, because the unconditional twin reads the embedding of
the padding token. Pretraining left that embedding at zero, where RMSNorm is steep. The second
checkpoint has learned the embedding.
"""
