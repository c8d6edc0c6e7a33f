"""Weights that lose nothing to bf16: an fp32 value is its bf16 rounding and sixteen bits of remainder.

A bf16 number is the upper half of an fp32 number. Rounded half up, the two halves join again to the very
same fp32 bits, so a weight kept as (bf16, int16) takes as much room as in fp32 and the forward pass reads
only the bf16 part. Many small merges then add up as they would in fp32.
"""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from gorp._shards import own_part, own_rows

REMAINDER = "rounding_remainder"
"""Name of the int16 buffer (out, in) beside a bf16 ``weight``."""

ROWS_AT_A_TIME = 256
"""Rows of a bf16 weight that are joined to fp32 at a time."""


class HasWeight(Protocol):
    """A module with a ``weight`` (out, in)."""

    weight: Tensor

    def register_buffer(self, name: str, tensor: Tensor | None) -> None:
        """As :class:`torch.nn.Module` does."""


STORABLE = (torch.float32, torch.float64, torch.bfloat16)


def split(exact: Tensor) -> tuple[Tensor, Tensor]:
    """fp32 -> (bf16 rounded half up, int16 remainder), the same shape each."""
    bits = exact.view(torch.int32)
    upper = (bits + 0x8000) >> 16
    remainder = bits - (upper << 16)
    return upper.to(torch.int16).view(torch.bfloat16), remainder.to(torch.int16)


def join(rounded: Tensor, remainder: Tensor) -> Tensor:
    """(bf16, int16) -> the fp32 that ``split`` was given, bit for bit."""
    upper = rounded.view(torch.int16).to(torch.int32) << 16
    return (upper + remainder.to(torch.int32)).view(torch.float32)


def keep_remainder(module: HasWeight) -> None:
    """Give a module with a bf16 ``weight`` the buffer that holds what rounding drops; other dtypes need none."""
    if module.weight.dtype is torch.bfloat16:
        module.register_buffer(REMAINDER, torch.zeros_like(module.weight, dtype=torch.int16))


def read_weight(module: HasWeight) -> Tensor:
    """The exact weight (out, in) of a module, in fp32 or wider; a copy only where the weight is bf16.

    Of a weight spread over ranks, the rows of this one.
    """
    weight = own_part(module.weight.detach())
    return join(weight, own_part(getattr(module, REMAINDER))) if weight.dtype is torch.bfloat16 else weight


def add_product(module: HasWeight, left: Tensor, right: Tensor) -> None:
    """Add left @ right, (out, r) times (r, in), to an exact weight in place; a second one is never held.

    Args:
        module: whose weight; of one that is spread over ranks this one's rows change.
        left, right: in the dtype of what `read_weight` gives.
    """
    left = left[own_rows(module.weight)]
    weight = own_part(module.weight.detach())
    if weight.dtype is not torch.bfloat16:
        weight.addmm_(left, right)
        return
    parts = (whole.split(ROWS_AT_A_TIME) for whole in (weight, own_part(getattr(module, REMAINDER)), left))
    for rounded, remainder, left_part in zip(*parts, strict=True):
        for part, new in zip(
            (rounded, remainder), split(join(rounded, remainder).addmm_(left_part, right)), strict=True
        ):
            part.copy_(new)
