"""A weight's gradient as it arises, delta^T x, for all who only need its products with a few columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

CHUNK = 1024
"""Rows of a panel of another dtype that are brought to the block's at a time."""

THIN = 2
"""An operation of a product with few columns takes about so many times as long as one of the product that forms G."""


class OuterProducts:
    r"""G = sum_i delta_i^T x_i over the uses i of a layer, (out, in), of which only thin products are formed.

    Stands in for the matrix in ``G @ block``, ``G.mT @ block`` and sums. A product costs n (out + in) operations a
    column, n being the tokens, in place of out in.

    Args:
        panels: per use delta (n, out) and x (n, in), of any dtype; products have the block's.
    """

    def __init__(self, panels: Sequence[tuple[Tensor, Tensor]]) -> None:
        self.panels = tuple(panels)

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        left, right = self.panels[0]
        return left.shape[1], right.shape[1]

    @property
    def mT(self) -> OuterProducts:
        """G^T."""
        return OuterProducts([(right, left) for left, right in self.panels])

    def __matmul__(self, block: Tensor) -> Tensor:
        """G block, (out, q), for a block (in, q)."""
        product = block.new_zeros(self.shape[0], block.shape[1])
        for left, right in self._chunks(block.dtype):
            product.addmm_(left.mT, right @ block)
        return product

    def __add__(self, other: OuterProducts) -> OuterProducts:
        return OuterProducts(self.panels + other.panels)

    def __radd__(self, matrix: Tensor) -> Tensor:
        return self._add_to(matrix.clone())

    def formed(self, dtype: torch.dtype) -> Tensor:
        """G itself, (out, in)."""
        return self._add_to(self.panels[0][0].new_zeros(self.shape, dtype=dtype))

    def _add_to(self, matrix: Tensor) -> Tensor:
        if matrix.dtype is torch.float32 and all(_fit_tensor_cores(left, right) for left, right in self.panels):
            for left, right in self.panels:
                matrix += torch.ops.aten.mm.dtype(left.mT, right, torch.float32)
            return matrix
        for left, right in self._chunks(matrix.dtype):
            matrix.addmm_(left.mT, right)
        return matrix

    def copied(self) -> OuterProducts:
        """The same in memory of its own."""
        return OuterProducts([(left.clone(), right.clone()) for left, right in self.panels])

    @property
    def nbytes(self) -> int:
        """Bytes of the panels."""
        return sum(panel.nbytes for use in self.panels for panel in use)

    def is_cheaper(self, columns: int) -> bool:
        """Whether so many columns, in all products, take less time this way than with G formed first."""
        if all(_fit_tensor_cores(left, right) for left, right in self.panels):
            return False
        (out, width), tokens = self.shape, sum(left.shape[0] for left, _ in self.panels)
        return THIN * tokens * (out + width) * columns < out * width * (tokens + THIN * columns)

    def _chunks(self, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
        for left, right in self.panels:
            rows = max(left.shape[0], 1) if left.dtype is right.dtype is dtype else CHUNK
            for left_part, right_part in zip(left.split(rows), right.split(rows), strict=True):
                yield left_part.to(dtype), right_part.to(dtype)


def _fit_tensor_cores(left: Tensor, right: Tensor) -> bool:
    """Whether left^T right comes in fp32 at the pace of their own, narrower dtype: exact products, summed in fp32."""
    narrow = left.dtype is right.dtype and left.dtype in (torch.bfloat16, torch.float16)
    return narrow and left.is_cuda and hasattr(torch.ops.aten.mm, "dtype")  # torch >= 2.8
