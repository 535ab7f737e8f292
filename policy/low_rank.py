"""Weights of low rank (LoRA, arXiv 2106.09685): W + scale B A, merged where they are served.

A learner that trains an adapter sends A, B and the scale alone. A receiver keeps each adapted W in
host memory, because the next merge starts from W again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from policy.weights import WeightBuckets, check_fit, checksum, load_into, unpack

# The factors of a parameter are sent under its own name with these endings.
DOWN, UP = ".lora_A", ".lora_B"
SCALE = "lora_scale"


@torch.no_grad()
def merge(base: Tensor, down: Tensor, up: Tensor, scale: float) -> Tensor:
    """W + scale B A in W's type, computed in float32. Where B is 0 it is exactly W.

    W is (out, in), A is (rank, in), B is (out, rank).
    """
    return torch.addmm(base.float(), up.float(), down.float(), alpha=scale).to(base.dtype)


class Receiver:
    """Loads what a learner sends into parameters: full tensors, or an adapter's factors."""

    def __init__(self, movable: bool = False) -> None:
        """``movable`` says that a parameter on the host may get other memory: nobody else holds a
        view of it."""
        self._movable = movable
        self._base: dict[str, Tensor] = {}  # by name of the parameter, on the host

    def check_fit(self, parameters: Iterable[tuple[str, Tensor]], weights: WeightBuckets) -> None:
        """Raise ``ValueError`` that names a tensor which is missing, unknown or does not fit."""
        if not _is_low_rank(weights):
            check_fit(parameters, weights)
            return
        targets = dict(parameters)
        shapes = {slot.name: slot.shape for slot in weights.slots}
        for name in shapes.keys() - {SCALE}:
            if _parameter_of(name) not in targets:
                raise ValueError(f"weight {name} is unknown")
        for name in _adapted(weights):
            for factor in (name + DOWN, name + UP):
                if factor not in shapes:
                    raise ValueError(f"weight {factor} is missing")
            outputs, inputs = targets[name].shape
            rank = shapes[name + DOWN][0]
            for factor, shape in ((DOWN, (rank, inputs)), (UP, (outputs, rank))):
                if (found := shapes[name + factor]) != shape:
                    raise ValueError(f"weight {name}{factor} has shape {found}, not {shape}")

    @torch.no_grad()
    def load(self, parameters: Iterable[tuple[str, Tensor]], weights: WeightBuckets) -> str:
        """Copy or merge the weights into the parameters; returns the checksum of what was sent.

        A factor's W is the value that the parameter had before the first factors came. Everything
        is checked before the first change, see ``check_fit``.
        """
        targets = dict(parameters)
        if not _is_low_rank(weights):
            self._base.clear()
            return load_into(targets.items(), weights)
        self.check_fit(targets.items(), weights)
        sent = dict(unpack(weights))
        scale = float(sent[SCALE])
        for name in _adapted(weights):
            live = targets[name]
            if name not in self._base:
                self._base[name] = self._set_aside(live)
            base, down, up = (
                tensor.to(live.device) for tensor in (self._base[name], *_factors(sent, name))
            )
            live.copy_(merge(base, down, up, scale))
        return checksum(weights)

    def _set_aside(self, live: Tensor) -> Tensor:
        """The present value of a parameter in host memory. It stays when the parameter changes.

        If the parameter may move, it does, and its old memory is the base. These may be pages of
        the checkpoint's file, which all processes of the machine share until somebody writes.
        """
        if not (self._movable and live.is_cpu):
            return live.detach().to("cpu", copy=True)
        base = live.detach()
        live.data = torch.empty_like(live)
        return base


def _is_low_rank(weights: WeightBuckets) -> bool:
    return any(slot.name == SCALE for slot in weights.slots)


def _adapted(weights: WeightBuckets) -> Iterator[str]:
    """Names of the parameters that the factors belong to, each once, in the order sent."""
    return iter(dict.fromkeys(_parameter_of(s.name) for s in weights.slots if s.name != SCALE))


def _parameter_of(factor: str) -> str:
    return factor.removesuffix(DOWN).removesuffix(UP)


def _factors(sent: dict[str, Tensor], name: str) -> tuple[Tensor, Tensor]:
    return sent[name + DOWN], sent[name + UP]
