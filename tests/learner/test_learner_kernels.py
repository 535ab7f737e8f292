"""Log-probs and entropies of a linear head, walked in blocks of the vocabulary."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from learner.algorithm import kernels
from learner.algorithm.blocks import COLUMN_UNIT
from policy.distribution import logprob_entropy

pytestmark = [pytest.mark.gpu, pytest.mark.usefixtures("on_gpu")]
PROPERTY = settings(max_examples=40, deadline=None, derandomize=True)
# Scratch 0 makes 7 blocks of the vocabulary below. The gradient of a row of 16 numbers has room for
# the exponentials of all blocks at 8 tokens, of the first 5 at 20, of none at 200.
LAYOUTS = [(8, 0), (20, 0), (200, 0), (20, 5 * 128 * 4 * 20), (8, 2**20)]
VOCABULARY = 6 * COLUMN_UNIT + 37
# The softmax of the logits as they are, where a test says nothing else.
linear_logprob_entropy = partial(
    kernels.linear_logprob_entropy, temperature=1.0, guidance_scale=1.0
)
GUIDED = dict(guidance_scale=5.0, temperature=0.7)


def head(
    tokens: int = 20, vocabulary: int = VOCABULARY, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Hidden states, weight, targets (first and last id among them) and bias."""
    generator = torch.Generator().manual_seed(tokens + vocabulary)
    hidden_ND = torch.randn(tokens, 16, generator=generator)
    weight_VD = torch.randn(vocabulary, 16, generator=generator)
    bias_V = torch.randn(vocabulary, generator=generator)
    target_N = torch.randint(vocabulary, (tokens,), generator=generator)
    target_N[:1], target_N[-1:] = 0, vocabulary - 1
    return hidden_ND.to(dtype), weight_VD.to(dtype), target_N, bias_V.to(dtype)


def plain(
    hidden_ND: Tensor, weight_VD: Tensor, target_N: Tensor, bias_V: Tensor | None
) -> tuple[Tensor, Tensor]:
    """The definition, in float64 and with full logits."""
    bias = None if bias_V is None else bias_V.double()
    logits_NV = torch.nn.functional.linear(hidden_ND.double(), weight_VD.double(), bias)
    logprob_NV = logits_NV.log_softmax(-1)
    entropy_N = -(logprob_NV.exp() * logprob_NV).sum(-1)
    return logprob_NV.gather(1, target_N[:, None])[:, 0], entropy_N


def gradients(function: Any, tensors: list[Tensor], target_N: Tensor, **options: Any) -> list[Any]:
    """Gradients of a sum of log-probs weighed unequally, for those tensors that require one."""
    hidden_ND, weight_VD, bias_V = tensors
    logprob_N, _ = function(hidden_ND, weight_VD, target_N, bias_V, **options)
    weight_N = torch.linspace(-1.0, 2.0, len(target_N), dtype=logprob_N.dtype)
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    return list(torch.autograd.grad((weight_N * logprob_N).sum(), wanted))


@pytest.mark.parametrize(("tokens", "scratch_bytes"), LAYOUTS)
@pytest.mark.parametrize("with_bias", [True, False])
def test_values_are_those_of_the_definition(
    tokens: int, scratch_bytes: int, with_bias: bool
) -> None:
    """Log-probs and entropies to float32 accuracy, for any number of blocks, with a trained weight
    and without."""
    hidden_ND, weight_VD, target_N, bias_V = head(tokens)
    bias = bias_V if with_bias else None
    expected = plain(hidden_ND, weight_VD, target_N, bias)
    logprob_N, entropy_N = linear_logprob_entropy(
        hidden_ND, weight_VD.requires_grad_(), target_N, bias, scratch_bytes=scratch_bytes
    )
    assert entropy_N is not None
    assert logprob_N.dtype == entropy_N.dtype == torch.float32
    torch.testing.assert_close(logprob_N.double(), expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy_N.double(), expected[1], rtol=1e-5, atol=1e-5)
    logprob_only_N, none = linear_logprob_entropy(
        hidden_ND,
        weight_VD.detach(),
        target_N,
        bias,
        with_entropy=False,
        scratch_bytes=scratch_bytes,
    )
    assert none is None
    torch.testing.assert_close(logprob_only_N, logprob_N, rtol=0, atol=1e-6)


def test_agrees_with_the_plain_function_of_policy() -> None:
    """Rollout and learner read the same numbers off a distribution."""
    hidden_ND, weight_VD, target_N, _ = head()
    expected = logprob_entropy(hidden_ND @ weight_VD.T, target_N)
    torch.testing.assert_close(
        linear_logprob_entropy(hidden_ND, weight_VD, target_N), expected, rtol=1e-5, atol=1e-5
    )


@pytest.mark.parametrize(("tokens", "scratch_bytes"), LAYOUTS)
@pytest.mark.parametrize(
    "trained", ["hwb", "hw", "h", "w", "b", "hb"], ids=lambda letters: f"trained={letters}"
)
def test_gradients_are_exact(tokens: int, scratch_bytes: int, trained: str) -> None:
    """Relative error of each gradient under 1e-5 against autograd through full float64 logits,
    whichever of hidden, weight and bias is trained and whichever blocks were kept."""
    hidden_ND, weight_VD, target_N, bias_V = head(tokens)
    tensors = [hidden_ND, weight_VD, bias_V]
    for letter, tensor in zip("hwb", tensors, strict=True):
        tensor.requires_grad_(letter in trained)
    got = gradients(linear_logprob_entropy, tensors, target_N, scratch_bytes=scratch_bytes)
    for one, other in zip(got, gradients(plain, tensors, target_N), strict=True):
        assert (one - other).norm() <= 1e-5 * other.norm()


@pytest.mark.parametrize("frozen_head", [True, False])
def test_gradcheck(frozen_head: bool) -> None:
    """Finite differences in float64, over two blocks of which none is kept."""
    hidden_ND, weight_VD, target_N, bias_V = head(3, COLUMN_UNIT + 2, torch.float64)
    hidden_ND.requires_grad_()
    weight_VD.requires_grad_(not frozen_head)
    bias_V.requires_grad_(not frozen_head)

    def logprob(*tensors: Tensor) -> Tensor:
        hidden, weight, bias = tensors
        return linear_logprob_entropy(hidden, weight, target_N, bias, scratch_bytes=0)[0]

    assert torch.autograd.gradcheck(logprob, (hidden_ND, weight_VD, bias_V), fast_mode=True)


@pytest.mark.parametrize(("tokens", "scratch_bytes"), LAYOUTS)
def test_graph_can_be_used_twice(tokens: int, scratch_bytes: int) -> None:
    """The first backward pass uses up what was kept, and leaves its gradients alone afterwards."""
    hidden_ND, weight_VD, target_N, _ = head(tokens)
    trained = (hidden_ND.requires_grad_(), weight_VD.requires_grad_())
    total = linear_logprob_entropy(*trained, target_N, scratch_bytes=scratch_bytes)[0].sum()
    first = torch.autograd.grad(total, trained, retain_graph=True)
    unchanged = [gradient.clone() for gradient in first]
    second = torch.autograd.grad(total, trained)
    for one, before, other in zip(first, unchanged, second, strict=True):
        assert torch.equal(one, before)
        assert torch.equal(one, other)


def test_entropy_carries_no_gradient() -> None:
    """No gradient flows through h, and nothing is recorded where gradients are off."""
    hidden_ND, weight_VD, target_N, _ = head()
    hidden_ND.requires_grad_()
    logprob_N, entropy_N = linear_logprob_entropy(hidden_ND, weight_VD, target_N)
    assert entropy_N is not None
    assert logprob_N.requires_grad
    assert not entropy_N.requires_grad
    with torch.no_grad():
        assert not linear_logprob_entropy(hidden_ND, weight_VD, target_N)[0].requires_grad


@PROPERTY
@given(
    tokens=st.integers(0, 5),
    vocabulary=st.sampled_from([1, 2, 127, 128, 129, 300]),
    scale=st.sampled_from([0.0, 1.0, 40.0]),
    shift=st.sampled_from([-1e3, 0.0, 1e3]),
    scratch_bytes=st.sampled_from([0, 2000, None]),
)
def test_extremes(
    tokens: int, vocabulary: int, scale: float, shift: float, scratch_bytes: int | None
) -> None:
    """No token, one id, uniform and certain distributions, a maximum that moves between blocks,
    logits of any offset: finite, log-probs <= 0, entropies within [0, log V]."""
    hidden_ND, weight_VD, target_N, bias_V = head(tokens, vocabulary)
    bias_V = bias_V + shift
    hidden_ND = (scale * hidden_ND).requires_grad_()
    weight_VD.requires_grad_()
    logprob_N, entropy_N = linear_logprob_entropy(
        hidden_ND, weight_VD, target_N, bias_V, scratch_bytes=scratch_bytes
    )
    assert entropy_N is not None
    logprob_N.sum().backward()
    expected = plain(hidden_ND, weight_VD, target_N, bias_V)
    torch.testing.assert_close(logprob_N.double(), expected[0], rtol=1e-5, atol=2e-3)
    torch.testing.assert_close(entropy_N.double(), expected[1], rtol=1e-3, atol=2e-3)
    assert (logprob_N <= 1e-3).all()
    assert (entropy_N >= 0).all()
    assert (entropy_N <= torch.tensor(float(vocabulary)).log() + 1e-5).all()
    assert hidden_ND.grad is not None
    assert weight_VD.grad is not None
    assert hidden_ND.grad.isfinite().all()
    assert weight_VD.grad.isfinite().all()


def guided(
    conditional_ND: Tensor,
    twin_ND: Tensor,
    weight_VD: Tensor,
    bias_V: Tensor,
    target_N: Tensor,
) -> tuple[Tensor, Tensor]:
    """The guided and tempered distribution by its formula, with full logits."""
    w, temperature = GUIDED["guidance_scale"], GUIDED["temperature"]
    c, u = (features_ND @ weight_VD.T + bias_V for features_ND in (conditional_ND, twin_ND))
    logprob_NV = ((u + w * (c - u)) / temperature).log_softmax(-1)
    entropy_N = -(logprob_NV.exp() * logprob_NV).sum(-1).detach()
    return logprob_NV.gather(1, target_N[:, None])[:, 0], entropy_N


@pytest.mark.parametrize(("tokens", "scratch_bytes"), LAYOUTS)
@pytest.mark.parametrize(
    ("dtype", "gradient_error"), [(torch.float32, 1e-5), (torch.bfloat16, 1e-2)]
)
@pytest.mark.parametrize("trained", ["ct", "c", "t", "ctwb", "cw", "tb", "w"])
def test_the_guided_distribution(
    tokens: int,
    scratch_bytes: int,
    dtype: torch.dtype,
    gradient_error: float,
    trained: str,
) -> None:
    """w = 5 and T = 0.7 in blocks: log-probs, entropies and the gradient of whatever is trained
    (conditional, twin, weight, bias) against autograd through full float64 logits of the same
    numbers. In bfloat16 the values are as exact as in float32."""
    conditional_ND, weight_VD, target_N, bias_V = head(tokens, dtype=dtype)
    tensors = [0.3 * conditional_ND, 0.3 * conditional_ND.flip(0), weight_VD, bias_V]
    exact = [tensor.double() for tensor in tensors]
    for letter, *both in zip("ctwb", tensors, exact, strict=True):
        for tensor in both:
            tensor.requires_grad_(letter in trained)
    conditional_ND, twin_ND, weight_VD, bias_V = tensors
    logprob_N, entropy_N = linear_logprob_entropy(
        conditional_ND,
        weight_VD,
        target_N,
        bias_V,
        twin_ND=twin_ND,
        scratch_bytes=scratch_bytes,
        **GUIDED,
    )
    assert entropy_N is not None
    expected = guided(*exact, target_N)
    torch.testing.assert_close(logprob_N.double(), expected[0], rtol=1e-5, atol=2e-5)
    torch.testing.assert_close(entropy_N.double(), expected[1], rtol=1e-5, atol=2e-5)
    grad_N = torch.linspace(-1.0, 2.0, tokens, dtype=torch.float64)
    (grad_N * logprob_N).sum().backward()
    (grad_N * expected[0]).sum().backward()
    for tensor, other in zip(tensors, exact, strict=True):
        if other.grad is None:
            assert tensor.grad is None
        else:
            assert tensor.grad is not None
            assert tensor.grad.dtype == dtype
            assert (tensor.grad.double() - other.grad).norm() <= gradient_error * other.grad.norm()


def test_guided_gradcheck() -> None:
    """Finite differences in float64, of twin and temperature too, over two blocks."""
    hidden_ND, weight_VD, target_N, bias_V = head(3, COLUMN_UNIT + 2, torch.float64)
    tensors = [hidden_ND, hidden_ND.flip(0).clone(), weight_VD, bias_V]

    def logprob(*inputs: Tensor) -> Tensor:
        hidden, twin, weight, bias = inputs
        return linear_logprob_entropy(
            hidden, weight, target_N, bias, twin_ND=twin, scratch_bytes=0, **GUIDED
        )[0]

    inputs = tuple(tensor.requires_grad_() for tensor in tensors)
    assert torch.autograd.gradcheck(logprob, inputs, fast_mode=True)


@pytest.mark.parametrize("tokens", [8, 20, 200])
@pytest.mark.parametrize("frozen_head", [True, False])
def test_bfloat16_inputs_are_summed_in_float32(frozen_head: bool, tokens: int) -> None:
    """Of bfloat16 numbers the log-probs and entropies are exact to float32 accuracy (bfloat16
    logits would be off by 0.03); gradients come in bfloat16."""
    hidden_ND, weight_VD, target_N, bias_V = head(tokens, dtype=torch.bfloat16)
    hidden_ND.requires_grad_()
    weight_VD.requires_grad_(not frozen_head)
    expected = plain(hidden_ND, weight_VD, target_N, bias_V)
    logprob_N, entropy_N = linear_logprob_entropy(hidden_ND, weight_VD, target_N, bias_V)
    assert entropy_N is not None
    torch.testing.assert_close(logprob_N.double(), expected[0], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(entropy_N.double(), expected[1], rtol=1e-5, atol=1e-5)
    tensors = [hidden_ND, weight_VD, bias_V]
    for one, other in zip(
        gradients(linear_logprob_entropy, tensors, target_N, scratch_bytes=0),
        gradients(plain, tensors, target_N),
        strict=True,
    ):
        assert one.dtype == torch.bfloat16
        assert (one.double() - other).norm() <= 0.01 * other.norm()


def test_bad_input_is_refused() -> None:
    """A target outside the vocabulary would otherwise get the log-prob of a logit 0."""
    hidden_ND, weight_VD, target_N, _ = head()
    for bad in (-1, VOCABULARY):
        target_N[3] = bad
        with pytest.raises(IndexError, match=str(VOCABULARY)):
            linear_logprob_entropy(hidden_ND, weight_VD, target_N)
    with pytest.raises(ValueError, match="bfloat16"):
        linear_logprob_entropy(hidden_ND.bfloat16(), weight_VD, target_N.clamp(0, 1))
    with pytest.raises(ValueError, match=r"twin is torch\.bfloat16"):
        linear_logprob_entropy(
            hidden_ND, weight_VD, target_N.clamp(0, 1), twin_ND=hidden_ND.bfloat16()
        )
    with pytest.raises(ValueError, match="without the twin"):
        linear_logprob_entropy(hidden_ND, weight_VD, target_N.clamp(0, 1), guidance_scale=5.0)


class LargestTensor(TorchDispatchMode):
    """Remembers the largest tensor that any operation inside produced."""

    elements = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, tuple | list) else [out]:
            if isinstance(value, Tensor):
                self.elements = max(self.elements, value.untyped_storage().nbytes() // 4)
        return out


class Products(TorchDispatchMode):
    """Counts the matrix products of the operations inside."""

    count = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        self.count += func._schema.name in ("aten::mm", "aten::addmm", "aten::addmm_")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize(("tokens", "kept"), [(8, 7), (20, 5), (200, 0)])
def test_logits_are_computed_once_where_the_gradient_has_room(tokens: int, kept: int) -> None:
    """Of each of 7 blocks: its logits, its share of two gradients, and logits again if not kept."""
    hidden_ND, weight_VD, target_N, _ = head(tokens)
    trained = (hidden_ND.requires_grad_(), weight_VD.requires_grad_())
    with Products() as products:
        linear_logprob_entropy(*trained, target_N, scratch_bytes=0)[0].sum().backward()
    assert products.count == 7 * 3 + (7 - kept)


@pytest.mark.parametrize("trained", [True, False])
@pytest.mark.parametrize("distribution", [{}, GUIDED])
def test_logits_of_all_tokens_never_exist(trained: bool, distribution: dict[str, float]) -> None:
    """With little scratch no operation, forward or backward, makes anything of the logits' size
    but the weight and its gradient (V D elements); guided or not."""
    tokens = 200
    hidden_ND, weight_VD, target_N, bias_V = head(tokens)
    hidden_ND.requires_grad_()
    weight_VD.requires_grad_(trained)
    with LargestTensor() as largest:
        logprob_N, _ = linear_logprob_entropy(
            hidden_ND,
            weight_VD,
            target_N,
            bias_V,
            scratch_bytes=0,
            twin_ND=hidden_ND.detach().flip(0) if distribution else None,
            **distribution,
        )
        logprob_N.sum().backward()
    assert largest.elements == max(tokens * COLUMN_UNIT, weight_VD.numel())
    assert largest.elements < tokens * VOCABULARY / 4
