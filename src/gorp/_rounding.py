"""Weights that lose nothing to bf16: an fp32 value is its bf16 rounding and sixteen bits of remainder.

A bf16 number is the upper half of an fp32 number. Rounded half up, the two halves join again to the very
same fp32 bits, so a weight kept as (bf16, int16) takes as much room as in fp32 and the forward pass reads
only the bf16 part. Many small merges then add up as they would in fp32.
"""

from __future__ import annotations

import torch
from torch import Tensor

REMAINDER = "rounding_remainder"
"""Name of the int16 buffer (out, in) beside a bf16 ``weight``."""

ROWS_AT_A_TIME = 256
"""Rows of a bf16 weight that are joined to fp32 at a time: what a CPU's cache holds; an accelerator takes more."""

NUMBERS_AT_A_TIME = 2**22
"""Numbers that an accelerator joins at a time: enough that calling it costs little beside them."""


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


def add_to_halves(rounded: Tensor, remainder: Tensor, left: Tensor, right: Tensor) -> None:
    """Add left @ right, fp32, to the fp32 that two halves (out, in) join to, in place; a whole one is never held."""
    count = ROWS_AT_A_TIME if rounded.device.type == "cpu" else max(1, NUMBERS_AT_A_TIME // right.shape[1])
    for upper, lower, rows in zip(*(whole.split(count) for whole in (rounded, remainder, left)), strict=True):
        for half, new in zip((upper, lower), split(join(upper, lower).addmm_(rows, right)), strict=True):
            half.copy_(new)
