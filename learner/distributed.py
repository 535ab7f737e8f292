"""The process group of the ranks, and DeepSpeed's settings.

Failure policy: if a rank died or does not answer, a collective of the others raises within the
group's timeout. The process group cannot be used after that, and its owner ends all ranks.
"""

from __future__ import annotations

import logging
import os
import socket
import warnings
from datetime import timedelta
from typing import Any

import deepspeed
import psutil
import torch
import torch.distributed as dist

from learner.config import BUCKET_ELEMENTS, LearnerConfig
from learner.rank_settings import Place
from policy.base_settings import Dtype

logging.getLogger("DeepSpeed").setLevel(logging.WARNING)


def join(place: Place, config: LearnerConfig) -> torch.device:
    """Join the process group, unless this process is in one already; returns the rank's device."""
    # In each step DeepSpeed calls functions that PyTorch deprecates.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    local_rank = 0 if torch.cuda.device_count() <= 1 else place.rank % torch.cuda.device_count()
    if not dist.is_initialized():
        os.environ.update(
            RANK=str(place.rank),
            LOCAL_RANK=str(local_rank),
            WORLD_SIZE=str(place.world_size),
            MASTER_ADDR=place.address,
            MASTER_PORT=str(place.port),
        )
        if place.one_machine:
            os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
            _meet_on_loopback(place, config)
        else:
            os.environ.setdefault("GLOO_SOCKET_IFNAME", _interface_towards(place.address))
        if config.device == "cpu":
            # DeepSpeed would compile this optional shared-memory transport now.
            deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        deepspeed.init_distributed(
            dist_backend="gloo" if config.device == "cpu" else "nccl",
            timeout=timedelta(seconds=config.timeout_s),
            verbose=False,
        )
    if config.device == "cpu":
        return torch.device("cpu")
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _meet_on_loopback(place: Place, config: LearnerConfig) -> None:
    """Make a process group whose store listens on ``place.address`` alone.

    torch's own rendezvous would listen on every network interface.
    """
    timeout = timedelta(seconds=config.timeout_s)
    listener = None
    if place.rank == 0:
        listener = socket.create_server((place.address, place.port))
    store = dist.TCPStore(
        place.address,
        place.port,
        place.world_size,
        is_master=place.rank == 0,
        timeout=timeout,
        # The store takes the descriptor over and closes it.
        master_listen_fd=None if listener is None else listener.detach(),
    )
    backend = "gloo" if config.device == "cpu" else "nccl"
    dist.init_process_group(
        backend, store=store, rank=place.rank, world_size=place.world_size, timeout=timeout
    )


def _interface_towards(address: str) -> str:
    """The network interface through which this machine reaches ``address``, which may be its own.

    Gloo would take the address that the machine's own name has. That is often a loopback address,
    at which the ranks of other machines cannot be reached.
    """
    family, kind, _, _, target = socket.getaddrinfo(address, 1, type=socket.SOCK_DGRAM)[0]
    with socket.socket(family, kind) as probe:
        probe.connect(target)  # a datagram socket only chooses its own address: nothing is sent
        own = probe.getsockname()[0]
    return next(
        name
        for name, addresses in psutil.net_if_addrs().items()
        if own in {found.address for found in addresses}
    )


def deepspeed_settings(config: LearnerConfig, dtype: Dtype, hidden_size: int) -> dict[str, Any]:
    """DeepSpeed's JSON configuration.

    DeepSpeed asks for batch sizes, but they have no effect: the learner sets the accumulation
    boundaries itself and divides the loss by the counts of the whole batch. At ZeRO 0 the learner
    clips the gradient as well, because DeepSpeed reports no norm there.
    """
    settings: dict[str, Any] = {
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "zero_allow_untested_optimizer": True,
        "gradient_clipping": config.max_grad_norm if config.zero_stage > 0 else 0.0,
        "zero_optimization": {
            "stage": config.zero_stage,
            "overlap_comm": False,
            "reduce_bucket_size": BUCKET_ELEMENTS,
            "allgather_bucket_size": BUCKET_ELEMENTS,
        },
    }
    if config.zero_stage == 3:
        # Norms and biases are not sharded: gathering each of them would take more time than their
        # memory is worth.
        settings["zero_optimization"]["stage3_param_persistence_threshold"] = 10 * hidden_size
    in_cpu_memory = {"device": "cpu", "pin_memory": config.device == "cuda"}
    if config.offload_optimizer:
        settings["zero_optimization"]["offload_optimizer"] = in_cpu_memory
        # DeepSpeed would compile its own AdamW for the CPU now. torch's fused one is used instead.
        settings["zero_force_ds_cpu_optimizer"] = False
    if config.offload_parameters:
        settings["zero_optimization"]["offload_param"] = in_cpu_memory
    if dtype == "bfloat16":
        settings["bf16"] = {"enabled": True}
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
    return settings
