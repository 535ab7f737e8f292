"""LoRA (arXiv 2106.09685) on the policy's language model: y = (W + scale B A) x with W frozen.

peft makes the layers and defines the files. This module adds three things that a learner needs.
With the adapter switched off, the policy is the KL reference. The factors A and B are what rollout
workers are sent. Merged weights under the checkpoint's own names are what a checkpoint holds.
Merging copies one layer at a time and never changes the live weights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional

from learner.collectives import Read, gathered
from learner.config import LoraConfig
from learner.rank_settings import ADAPTER_NOTE
from policy.checkpoint.hub import hub_revision
from policy.checkpoint.loading import is_original
from policy.janus import JanusPolicy
from policy.low_rank import DOWN, SCALE, UP, merge

_NAME = "default"  # the adapter's name in peft, which is part of its parameters' names
_NOTE = (
    "The base of this adapter, {base}, is in the original format, which transformers and peft do"
    " not load. Use the merged model (eg-grpo export without --adapter), or put the adapter on the"
    " same base in transformers' format (deepseek-community/Janus-Pro-*).\n"
)
_BASE, _DOWN, _UP = ".base_layer.weight", f".lora_A.{_NAME}.weight", f".lora_B.{_NAME}.weight"


class Adapter:
    """The adapter of one policy. Only the adapter's parameters are trained."""

    def __init__(self, policy: JanusPolicy, config: LoraConfig, base: Path, seed: int) -> None:
        """Put an adapter into ``policy``. B starts at 0; A is drawn at random from ``seed``.

        The adapter's files name ``base`` as the checkpoint that they belong to. If it lies in the
        Hub's cache, they give the Hub's name and commit, because a path in the cache means nothing
        on another machine.
        """
        import peft  # imported here, because training without an adapter does not need it
        from peft.tuners.lora import LoraLayer

        self._policy = policy
        self._scale = config.scale
        self._base = base
        name, commit = hub_revision(base) or (str(base), None)
        self._peft_config = peft.LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,  # type: ignore[arg-type]  # peft only divides it
            # The path is given because the vision model has layers of the same names.
            target_modules=r"model\.language_model\.layers\.\d+\.(self_attn|mlp)\."
            + f"({'|'.join(config.target_modules)})",
            base_model_name_or_path=name,
            revision=commit,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            peft.inject_adapter_in_model(self._peft_config, policy.model, _NAME)
        policy.eval()
        self._layers: list[Any] = [m for m in policy.modules() if isinstance(m, LoraLayer)]

    # Forward passes without the adapter, and with merged weights

    @contextmanager
    def off(self) -> Iterator[None]:
        """Compute with the base alone. peft's own switch would turn off gradients as well."""
        with self._forward(lambda layer: layer.base_layer.__call__):
            yield

    @contextmanager
    def merged(self) -> Iterator[None]:
        """Compute as rollout workers do, with merged weights; only for passes without gradient.

        In 16 bits, merged weights and an adapter beside its base round differently.
        """
        with self._forward(lambda layer: partial(self._merged_linear, layer)):
            yield

    @contextmanager
    def _forward(self, of_layer: Callable[[Any], Callable[[Tensor], Tensor]]) -> Iterator[None]:
        for layer in self._layers:
            layer.forward = of_layer(layer)
        try:
            yield
        finally:
            for layer in self._layers:
                del layer.forward

    def _merged_linear(self, layer: Any, x: Tensor) -> Tensor:
        base, down, up = layer.base_layer, layer.lora_A[_NAME], layer.lora_B[_NAME]
        return functional.linear(
            x, merge(base.weight, down.weight, up.weight, self._scale), base.bias
        )

    # Iterators of tensors. Every rank must read them to the end, because ranks gather together.

    def merged_tensors(
        self, parameters: Iterable[tuple[str, nn.Parameter]], device: torch.device
    ) -> Iterator[tuple[str, Tensor]]:
        """Full merged tensors of the policy's parameters, under the checkpoint's names.

        They are merged on ``device``, so that they are bitwise the weights that ``merged`` uses.
        """
        named = list(parameters)
        factors = dict(gathered(item for item in named if item[0].endswith((_DOWN, _UP))))
        for name, tensor in gathered(item for item in named if item[0] not in factors):
            stem = name.removesuffix(_BASE)
            if stem == name:
                yield name, tensor
                continue
            down, up = factors[stem + _DOWN].to(device), factors[stem + _UP].to(device)
            yield f"{stem}.weight", merge(tensor.to(device), down, up, self._scale)

    def factors(self, read: Read = gathered) -> Iterator[tuple[str, Tensor]]:
        """What a ``policy.low_rank.Receiver`` needs to merge the same weights."""
        yield SCALE, torch.tensor(self._scale, dtype=torch.float64)
        for name, tensor in read(self._trained()):
            kind = _DOWN if name.endswith(_DOWN) else _UP
            stem = name.removesuffix(kind)
            yield f"{stem}.weight{DOWN if kind == _DOWN else UP}", tensor

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Full tensors of the adapter alone, under the names that peft's files have."""
        for name, tensor in gathered(self._trained()):
            yield f"base_model.model.{name.replace(f'.{_NAME}.', '.')}", tensor

    def _trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        return (item for item in self._policy.model.named_parameters() if item[1].requires_grad)

    def write(self, folder: Path, tensors: dict[str, Tensor]) -> None:
        """Write what ``peft.PeftModel.from_pretrained`` reads: weights and configuration.

        If transformers and peft cannot load the base, a note beside them says so.
        """
        folder.mkdir(exist_ok=True)
        contiguous = {name: tensor.cpu().contiguous() for name, tensor in tensors.items()}
        save_file(contiguous, folder / "adapter_model.safetensors", {"format": "pt"})
        self._peft_config.save_pretrained(str(folder))
        if is_original(self._base):
            note = _NOTE.format(base=self._peft_config.base_model_name_or_path)
            (folder / ADAPTER_NOTE).write_text(note, encoding="utf-8")
