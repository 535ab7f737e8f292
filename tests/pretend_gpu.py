"""A GPU that is none: tensors that live on the CPU and say that they are on ``cuda:0``.

Where there is no GPU, it shows what would break on one for the mistake most easily made: mixing
devices. Operations run on the CPU, so numbers must equal those of the CPU; one whose tensors are
said to be on two devices raises, with the exceptions that CUDA makes. Kernels, memory and speed
are not shown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

from rollout import graphed_steps

GPU = torch.device("cuda", 0)
_SHELL = torch.device("lazy", 0)  # what torch's C++ sees: for CUDA it would look for a driver
aten = torch.ops.aten
_INDEXED = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default}
_COLLECTIVES = dist.distributed_c10d.__name__
# Lists of tensors that one kernel reads: a scalar on the CPU is no exception there.
_STRICT = {aten.cat.default, aten.stack.default}


class OnGpu(Tensor):
    """A tensor said to be on the GPU; its numbers are in ``numbers``, on the CPU."""

    numbers: Tensor

    @staticmethod
    def __new__(cls, numbers: Tensor) -> OnGpu:
        # Under inference_mode torch cannot make an inference tensor that is a view of another.
        with torch.inference_mode(False):
            shell = Tensor._make_wrapper_subclass(
                cls,
                numbers.shape,
                strides=numbers.stride(),
                storage_offset=numbers.storage_offset(),
                dtype=numbers.dtype,
                device=_SHELL,
            )
        shell.numbers = numbers
        return shell

    device = property(lambda self: GPU)  # type: ignore[assignment]
    is_cuda = property(lambda self: True)  # type: ignore[assignment]
    is_cpu = property(lambda self: False)  # type: ignore[assignment]

    def __repr__(self, **_: Any) -> str:
        return f"OnGpu({self.numbers})"

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


@contextmanager
def pretend_gpu() -> Iterator[None]:
    """Within it ``device="cuda"`` works. It has no graphs: what is recorded runs as written."""
    with mock.patch.object(graphed_steps, "recorded", lambda step: step), _Numbered(), _Made():
        yield


@contextmanager
def a_gpu() -> Iterator[None]:
    """Within it ``device="cuda"`` works: on the GPU of this machine, or on the pretended one."""
    with nullcontext() if torch.cuda.is_available() else pretend_gpu():
        yield


@contextmanager
def made_on_gpu() -> Iterator[None]:
    """Within it tensors are made on the GPU, where no device is given.

    With the numbers of the CPU, whose generators the tests use.
    """
    with _Moved():
        yield


class _Moved(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        if func not in _device_constructors() or kwargs.get("device") is not None:
            return made
        return made.detach().to("cuda").requires_grad_(made.requires_grad)


class _Numbered(TorchFunctionMode):
    """``cuda`` becomes ``cuda:0``: torch would ask CUDA for the current device."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        args, kwargs = _mapped(_numbered, (args, kwargs or {}))
        kwargs.pop("pin_memory", None)  # only CUDA can pin
        # These read or write memory themselves, where they know the tensor's class.
        if func is Tensor.tolist:
            return args[0].cpu().tolist()
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") == GPU:
            return func(*args, **kwargs | {"device": "cpu"}).to(GPU)
        if func is Tensor.__getitem__ and isinstance(args[1], list):
            args = (args[0], torch.tensor(args[1]))
        if func == Tensor.data.__set__ and isinstance(args[0], OnGpu):  # as DeepSpeed moves weights
            args[0].numbers = args[1].numbers
        if getattr(func, "__module__", None) == _COLLECTIVES:  # gloo has the numbers
            args, kwargs = _mapped(_numbers_of, (args, kwargs))
        return func(*args, **kwargs)


def _numbered(value: Any) -> Any:
    if isinstance(value, str | torch.device) and str(value) in ("cuda", "cuda:0"):
        return GPU
    return value


class _Made(TorchDispatchMode):
    # With this key torch does not look for CUDA when a tensor is made on a GPU.
    _mode_key = torch._C._TorchDispatchModeKey.FAKE

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


def _numbers_of(value: Any) -> Any:
    return value.numbers if isinstance(value, OnGpu) else value


def _on_cpu(value: Any) -> Any:
    return torch.device("cpu") if isinstance(value, torch.device) else value


def _mapped(change: Callable[[Any], Any], value: Any) -> Any:
    """``change`` of every value in tuples, lists and dicts. torch's own tree_map, which knows other
    containers too, took most of the time of a test on the pretended GPU."""
    if isinstance(value, dict):
        return {key: _mapped(change, item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        items = [_mapped(change, item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)
    return change(value)


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    leaves: list[Any] = []
    _mapped(leaves.append, (args, kwargs))
    tensors = [leaf for leaf in leaves if isinstance(leaf, Tensor)]
    said = {t.device for t in _together(func, args, tensors) if t.dim() > 0 or func in _STRICT}
    if len(said) > 1:
        raise RuntimeError(f"{func}: tensors on {said}")
    # Where the result shall be: a keyword but under inference_mode, or where the tensors are.
    targets = [leaf for leaf in leaves if isinstance(leaf, torch.device)]
    if targets:
        gpu = targets[0].type in (GPU.type, _SHELL.type)
        args, kwargs = _mapped(_on_cpu, (args, kwargs))
    else:
        gpu = any(isinstance(t, OnGpu) for t in tensors)
    if func is aten._fused_sdp_choice.default:
        return 0  # the formula: fused kernels have names of their own on a GPU
    inner_args, inner_kwargs = _mapped(_numbers_of, (args, kwargs))
    if func is aten.mm.dtype:  # a product of 16 bits into float32 exists on GPUs only
        left, right, dtype = inner_args
        result = left.to(dtype) @ right.to(dtype)
    else:
        result = func(*inner_args, **inner_kwargs)
    if not gpu:
        return result
    result = _mapped(lambda leaf: OnGpu(leaf) if isinstance(leaf, Tensor) else leaf, result)
    if targets:
        return result
    return return_and_correct_aliasing(func, args, kwargs, result)


def _together(func: Any, args: Any, tensors: list[Tensor]) -> list[Tensor]:
    """The tensors that must be on one device."""
    if func is aten.copy_.default:
        return []
    if func in _INDEXED:  # a tensor on a GPU may be indexed from the CPU, not the other way round
        indices = [index for index in args[1] if isinstance(index, OnGpu)]
        return [args[0], *indices, *args[2:3]]
    return tensors
