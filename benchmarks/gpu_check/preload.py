"""What every part needs, imported once for all: the processes of the parts begin as its copies.

Nothing here may touch CUDA, which does not survive a copy of a process.
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
