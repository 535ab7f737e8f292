"""Imports the modules that every part needs, once. The processes of the parts are forks of it.

Nothing here may touch CUDA, because CUDA does not work in a fork.
"""

import peft  # noqa: F401
import torch  # noqa: F401
from transformers import (  # noqa: F401
    JanusForConditionalGeneration,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

import benchmarks.gpu_check.models
import benchmarks.learner_task
import benchmarks.torch_model  # noqa: F401
import rollout.transformers_engine  # noqa: F401
