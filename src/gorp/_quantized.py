"""Layers held in 4 or 8 bits by bitsandbytes: what tasks change is kept beside the weight, which takes no merge.

Added to codes, a product would be rounded to their grid: what a task learnt would be lost in part, and what the
rounding adds would act on every input direction, protected or not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
import torch.nn.functional as F
from peft.utils.integrations import dequantize_bnb_weight
from torch import Tensor, nn


class StackedLinear(nn.Module):
    """y = W x + b + L (R x) with W frozen in 4 or 8 bits, and L (out, n), R (n, in) what all tasks added to it.

    The stacks are fp32 and grow by the rank of what is added, n = 0 at first. Where n would pass the smaller side of
    the layer they are replaced by their product, beside an identity: they never take more than twice a weight in fp32.

    Args:
        quantized: bitsandbytes' layer.
    """

    left: Tensor
    right: Tensor

    def __init__(self, quantized: nn.Linear) -> None:
        super().__init__()
        self.in_features, self.out_features = quantized.in_features, quantized.out_features
        self.quantized = quantized
        device = quantized.weight.device
        self.register_buffer("left", torch.zeros(self.out_features, 0, device=device))
        self.register_buffer("right", torch.zeros(0, self.in_features, device=device))
        self.register_load_state_dict_pre_hook(_make_room)  # type: ignore[no-untyped-call]  # torch

    @property
    def weight(self) -> Tensor:
        """The codes of W, in the shape that bitsandbytes keeps them in."""
        return self.quantized.weight

    @property
    def bias(self) -> Tensor | None:
        """As in ``nn.Linear``."""
        return self.quantized.bias

    def forward(self, x: Tensor) -> Tensor:
        """Compute y (..., out) of x (..., in); the stacks' part of it in fp32, but under autocast."""
        y: Tensor = self.quantized(x)
        if not len(self.right):
            return y
        return y + F.linear(F.linear(x.to(self.right.dtype), self.right), self.left).to(y.dtype)

    @torch.no_grad()
    def exact_weight(self) -> Tensor:
        """W + L R, (out, in), fp32, a copy."""
        return dequantized(self.quantized).addmm_(self.left, self.right)

    @torch.no_grad()
    def append(self, left: Tensor, right: Tensor) -> None:
        """Add left @ right, (out, r) times (r, in), fp32, to what the layer acts with; zeros take no room."""
        if not bool(left.any()):
            return
        self.left, self.right = torch.cat([self.left, left], dim=1), torch.cat([self.right, right])
        smaller = min(self.out_features, self.in_features)
        if len(self.right) > smaller:
            product = (self.left.double() @ self.right.double()).to(self.left)
            identity = torch.eye(smaller).to(product)
            self.left, self.right = (identity, product) if smaller == self.out_features else (product, identity)


def _make_room(module: nn.Module, state: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
    """Before a state is loaded: stacks of as many columns as there."""
    for name in ("left", "right"):
        if (saved := state.get(prefix + name)) is not None:
            setattr(module, name, torch.empty_like(getattr(module, name)).resize_(saved.shape))


def is_quantized(module: nn.Module) -> bool:
    """Whether a layer's weight is held as codes."""
    weight = getattr(module, "weight", None)
    return isinstance(module, nn.Linear) and isinstance(weight, Tensor) and not weight.is_floating_point()


def quantized_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    """The layers held in 4 or 8 bits, with their dotted names."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear) and is_quantized(module):
            yield name, module


def dequantized(linear: nn.Linear) -> Tensor:
    """The weight (out, in) that the codes of a quantised layer stand for, fp32, a copy."""
    weight: Tensor = dequantize_bnb_weight(cast(nn.Parameter, linear.weight), state=getattr(linear, "state", None))
    return weight.detach().to(torch.float32)


def scale_bytes(linear: nn.Linear) -> int:
    """Bytes that bitsandbytes keeps of a quantised layer beside its codes and bias."""
    counted = sum(tensor.nbytes for tensor in (*linear.parameters(), *linear.buffers()))
    return sum(tensor.nbytes for tensor in linear.state_dict().values()) - counted


def ready_to_learn(model: nn.Module) -> None:
    """Have others let a model with quantised layers be trained, and leave their codes as they are.

    transformers trains it only with an adapter of its own making. And on some CPUs bitsandbytes packs 4 bits anew at
    the first evaluation: with coarser scales, so that the base is another one from there on, and no way for gradients.
    """
    for _, layer in quantized_layers(model):
        model._hf_peft_config_loaded = True  # type: ignore[assignment]
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False
