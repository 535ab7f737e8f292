"""How much of Ray's object store a run needs."""

from __future__ import annotations

from orchestrator.settings.model_size import WEIGHT_BYTES, ModelSize
from orchestrator.settings.run_config import RunConfig

WEIGHT_VERSIONS = 3  # in the object store at once: two are kept, one is being sent
OBJECT_BYTES = 64 * 1024  # upper bound for a trajectory without its pixels


def object_store_bytes(size: ModelSize, config: RunConfig, weights: bool = True) -> int:
    """Bytes of the weight versions and of the trajectories that are there at a time.

    A host that runs neither rollout workers nor learner ranks gets no ``weights``.

    These are the trajectories of all steps that ``max_staleness`` lets be in flight, and those of
    one evaluation. At staleness 0 an evaluation falls between two steps. This is an upper bound.
    When the third weight version arrives, the trajectories of the step have already left the object
    store.
    """
    samples = config.trajectories_per_step * (config.max_staleness + 1)
    if config.data.evaluation:
        evaluation = config.evaluation.prompts * config.evaluation.samples_per_prompt
        samples = samples + evaluation if config.max_staleness else max(samples, evaluation)
    versions = WEIGHT_VERSIONS if weights and config.learner_ranks else 0
    lora = config.learner.lora
    sent = size.lora(lora.rank, lora.target_modules) if lora else size.trained
    version_bytes = sent * WEIGHT_BYTES[config.model.dtype]
    return versions * version_bytes + samples * (3 * size.image_size**2 + OBJECT_BYTES)
