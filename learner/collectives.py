"""Values that ranks exchange, and full tensors of sharded parameters.

A process without a process group counts as a group of one rank, and does not need DeepSpeed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

GATHER_BYTES = 512 * 2**20  # full tensors that are gathered at a time, unless one alone is larger

T = TypeVar("T")
# ``gathered`` or ``undivided``
Read = Callable[[Iterable[tuple[str, nn.Parameter]]], Iterator[tuple[str, Tensor]]]


class PeerLost(Exception):
    """A collective failed, because another rank died or does not answer."""


@contextmanager
def peers_watched() -> Iterator[None]:
    """Turn the error of a collective in the block into ``PeerLost``.

    Collectives raise ``RuntimeError``, and so does torch when it cannot write a file. This tells
    the two apart.
    """
    try:
        yield
    except RuntimeError as error:
        # Gloo has no type of its own, but begins with the name of its source file.
        if isinstance(error, dist.DistError) or "/gloo/" in str(error):
            raise PeerLost(str(error)) from error
        raise


def exchange(value: T) -> list[T]:
    """The values of all ranks, in the order of ranks. Every rank must call it."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return [value]
    values: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def gathered(parameters: Iterable[tuple[str, nn.Parameter]]) -> Iterator[tuple[str, Tensor]]:
    """Full tensors of parameters, whether sharded or not; every rank must exhaust it.

    Sharded parameters are gathered in groups of bounded size, and copied to the CPU.
    """
    for part in _groups(parameters):
        if not any(hasattr(parameter, "ds_id") for _, parameter in part):
            yield from ((name, parameter.detach()) for name, parameter in part)
            continue
        import deepspeed  # imported here, because only DeepSpeed's parameters get here

        with deepspeed.zero.GatheredParameters([parameter for _, parameter in part]):
            full = [(name, parameter.detach().to("cpu", copy=True)) for name, parameter in part]
        yield from full


def undivided(parameters: Iterable[tuple[str, nn.Parameter]]) -> Iterator[tuple[str, Tensor]]:
    """Tensors without data that have the names, shapes and types of those ``gathered`` yields."""
    for name, parameter in parameters:
        shape = getattr(parameter, "ds_shape", parameter.shape)
        yield name, torch.empty(shape, dtype=parameter.dtype, device="meta")


def _groups(
    parameters: Iterable[tuple[str, nn.Parameter]],
) -> Iterator[list[tuple[str, nn.Parameter]]]:
    part: list[tuple[str, nn.Parameter]] = []
    size = 0
    for name, parameter in parameters:
        count = getattr(parameter, "ds_numel", parameter.numel())
        if part and size + count * parameter.element_size() > GATHER_BYTES:
            yield part
            part, size = [], 0
        part.append((name, parameter))
        size += count * parameter.element_size()
    if part:
        yield part
