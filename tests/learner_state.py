"""What a learner rank holds besides the live weights, as tests read it out of DeepSpeed."""

from __future__ import annotations

from typing import Any

import torch


def optimizer_and_masters(rank: Any) -> tuple[torch.optim.Optimizer, list[torch.Tensor]]:
    """torch's AdamW, and the weights that it updates."""
    engine = rank._model._engine
    optimizer = getattr(engine.optimizer, "optimizer", engine.optimizer)
    masters = [p for group in optimizer.param_groups for p in group["params"]]
    masters += getattr(engine.optimizer, "fp32_partitioned_groups_flat", [])  # ZeRO 3's
    return optimizer, masters


def full_state(rank: Any) -> dict[str, torch.Tensor]:
    """Master weights, averages and step of every trained parameter; every rank must call it."""
    from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

    engine = rank._model._engine
    found = {}
    for name, parameter in rank._model._policy.named_parameters():
        if not parameter.requires_grad:
            continue
        if engine.zero_optimization_stage() == 0:
            state = engine.optimizer.state[parameter]
            values = (parameter.detach(), state["exp_avg"], state["exp_avg_sq"])
        else:
            values = (
                safe_get_full_fp32_param(parameter),
                safe_get_full_optimizer_state(parameter, "exp_avg"),
                safe_get_full_optimizer_state(parameter, "exp_avg_sq"),
            )
        for kind, value in zip(("master", "exp_avg", "exp_avg_sq"), values, strict=True):
            found[f"{name}/{kind}"] = value.clone()
    optimizer, _ = optimizer_and_masters(rank)
    found["step"] = torch.stack([state["step"] for state in optimizer.state.values()])
    return found
