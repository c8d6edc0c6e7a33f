"""The weight of a linear layer, in whichever form it is held: read exactly, and added to."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from gorp._quantized import StackedLinear
from gorp._rounding import REMAINDER, add_to_halves, join
from gorp._shards import own_part, own_rows

STORABLE = (torch.float32, torch.float64, torch.bfloat16)


class HasWeight(Protocol):
    """A module with a ``weight`` (out, in), or one whose weight stands for such."""

    @property
    def weight(self) -> Tensor:
        """The weight as it is stored."""

    def register_buffer(self, name: str, tensor: Tensor | None) -> None:
        """As `torch.nn.Module` does."""


def keep_remainder(module: HasWeight) -> None:
    """Give a module with a bf16 ``weight`` the buffer that holds what rounding drops; other dtypes need none."""
    if module.weight.dtype is torch.bfloat16:
        module.register_buffer(REMAINDER, torch.zeros_like(module.weight, dtype=torch.int16))


def read_weight(module: HasWeight) -> Tensor:
    """The exact weight (out, in) of a module, in fp32 or wider; a copy only where the weight is narrower than that.

    Of a weight spread over ranks, the rows of this one.
    """
    if isinstance(module, StackedLinear):
        return module.exact_weight()
    weight = own_part(module.weight.detach())
    if weight.dtype is not torch.bfloat16:
        return weight
    remainder: Tensor | None = getattr(module, REMAINDER, None)
    return weight.float() if remainder is None else join(weight, own_part(remainder))


def add_product(module: HasWeight, left: Tensor, right: Tensor) -> None:
    """Add left @ right, (out, r) times (r, in), to the weight in place; a quantised layer keeps them beside it.

    Nothing is lost but where a weight is bf16 and has no remainder.

    Args:
        module: whose weight; of one that is spread over ranks this one's rows change.
        left, right: in the dtype of what `read_weight` gives.
    """
    if isinstance(module, StackedLinear):
        module.append(left, right)
        return
    left = left[own_rows(module.weight)]
    weight = own_part(module.weight.detach())
    remainder: Tensor | None = getattr(module, REMAINDER, None)
    if weight.dtype is not torch.bfloat16:
        weight.addmm_(left, right)
    elif remainder is None:
        weight.copy_(weight.float().addmm_(left, right))
    else:
        add_to_halves(weight, own_part(remainder), left, right)
