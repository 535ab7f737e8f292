"""The pretended GPU refuses what CUDA refuses and allows what CUDA allows."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from pretend_gpu import GPU, made_on_gpu, pretend_gpu
from torch import Tensor

CPU = torch.arange(6.0).view(2, 3)


@pytest.mark.parametrize(
    "mixed",
    [
        lambda gpu: gpu + CPU,
        lambda gpu: gpu.add_(CPU),
        lambda gpu: torch.where(CPU > 1, gpu, 0.0),
        lambda gpu: gpu @ CPU.T,
        lambda gpu: torch.cat([gpu, CPU]),
        lambda gpu: torch.stack([gpu.sum(), torch.tensor(1.0)]),
        lambda gpu: torch.nn.functional.linear(CPU, gpu),
        lambda gpu: CPU[gpu[0].long().clamp(max=1)],
        lambda gpu: gpu.index_put_((torch.tensor([0]),), CPU[:1]),
    ],
)
def test_two_devices_in_one_operation_raise(mixed: Callable[[Tensor], Tensor]) -> None:
    with pretend_gpu(), pytest.raises(RuntimeError, match="tensors on"):
        mixed(CPU.to("cuda"))


@pytest.mark.parametrize(
    "mixed",
    [
        lambda gpu: gpu * torch.tensor(2.0),
        lambda gpu: gpu[torch.tensor([1, 0])],
        lambda gpu: gpu[[1, 0]],
        lambda gpu: gpu.masked_fill(gpu > 3, 0.0),
        lambda gpu: torch.zeros(2, 3, device="cuda").copy_(CPU),
        lambda gpu: torch.cat([gpu, gpu.new_zeros(1, 3)]),
    ],
)
def test_what_cuda_allows_stays_on_the_gpu(mixed: Callable[[Tensor], Tensor]) -> None:
    """With the numbers of the CPU."""
    with pretend_gpu():
        gpu = mixed(CPU.to("cuda"))
        assert gpu.device == GPU
        there = gpu.cpu()
        with pytest.raises((TypeError, RuntimeError)):
            gpu.numpy()
    assert there.device.type == "cpu"


def test_gradients_and_views_live_there_too() -> None:
    with pretend_gpu():
        layer = torch.nn.Linear(3, 2, device="cuda")
        layer(CPU.to("cuda")).sum().backward()
        assert layer.weight.grad is not None
        assert layer.weight.grad.device == GPU
        base = torch.zeros(2, 3, device="cuda")
        base.view(-1)[4:] = 7.0
        assert base.tolist() == [[0, 0, 0], [0, 7, 7]]


def test_tensors_are_made_on_the_gpu_where_no_device_is_given() -> None:
    """With the CPU's numbers, and leaves as there: a test of the CPU runs on a GPU as it is."""
    expected = torch.randn(3, generator=torch.Generator().manual_seed(0))
    with pretend_gpu(), made_on_gpu():
        made = torch.randn(3, generator=torch.Generator().manual_seed(0), requires_grad=True)
        assert made.device == GPU
        assert torch.zeros(2, device="cpu").device.type == "cpu"
        (made * torch.tensor([1.0, 2.0, 3.0])).sum().backward()
        assert made.grad is not None
        assert made.grad.tolist() == [1.0, 2.0, 3.0]
        numbers = made.detach().cpu()
    assert torch.equal(numbers, expected)
