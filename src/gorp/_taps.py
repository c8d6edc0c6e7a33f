"""What a backward pass shows of a linear layer: its inputs x and the gradient delta of the loss at its output."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from gorp._linalg import random_signs

Receiver = Callable[[Tensor, Tensor], None]
"""Called in the backward pass with delta (..., out) and the inputs (..., in)."""

ROWS_PER_USE = 32
"""Rows that stand in a layer's memory for its inputs in one use of the layer in one backward pass."""


class _Tap(torch.autograd.Function):
    """Identity on a layer's output; x passes through ``save_for_backward``, so checkpointing and saved-tensor hooks
    see it."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, inputs: Tensor, receive: Receiver) -> Tensor:
        ctx.save_for_backward(inputs)
        ctx.receive = receive
        return output.detach()  # not a view: what comes next may work in place

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        (delta,) = grads
        (inputs,) = ctx.saved_tensors
        ctx.receive(delta, inputs)
        return delta, None, None


@torch.compiler.disable  # type: ignore[untyped-decorator]  # torch
def tap(output: Tensor, inputs: Tensor, receive: Receiver) -> Tensor:
    """A layer's output, unchanged, whose gradient is shown to ``receive`` on the way back, beside the inputs.

    A compiled model has a break here: what receives is Python that keeps what it is shown.
    """
    tapped: Tensor = _Tap.apply(output, inputs, receive)  # type: ignore[no-untyped-call]  # torch
    return tapped


def weighed_inputs(inputs: Tensor, delta: Tensor, weighted: bool) -> Tensor:
    r"""The inputs of a layer in one use of it in one backward pass, each token's times the root of its weight.

    Their Gram matrix is :math:`\sum_t w_t x_t x_t^T`. Of the n tokens whose output the loss sees
    (padding is none of them) each weighs 1/n; or, ``weighted``, half of that and half its share of the gradient,
    :math:`\tfrac12 / n + \tfrac12 \|\delta_t\| / \sum_s \|\delta_s\|`. A change D of the layer moves the loss by
    :math:`\sum_t \delta_t^T D x_t`, so inputs count by what hangs on them. The even half is for inputs whose gradient
    is small because the answer is sure already. The weights add up to 1: every use and every pass counts the same.

    Args:
        inputs: x, (..., in).
        delta: gradient of the loss at the layer's output, (..., out).
        weighted: weigh by the gradient.

    Returns:
        (tokens, in), fp32 or wider.
    """
    wide = torch.promote_types(inputs.dtype, torch.float32)
    rows = inputs.detach().reshape(-1, inputs.shape[-1]).to(wide)
    sizes = torch.linalg.vector_norm(delta.detach().reshape(-1, delta.shape[-1]).to(wide), dim=1)
    weights = _shares((sizes > 0).to(wide))
    if weighted:
        weights = (weights + _shares(sizes)) / 2
    return rows * weights.sqrt()[:, None]


def input_rows(inputs: Tensor, delta: Tensor, weighted: bool, seed: int) -> Tensor:
    """A few rows that stand for `weighed_inputs`: each of those is added to one of them with a random sign.

    Their Gram matrix is the same in expectation.

    Args:
        inputs, delta, weighted: as of `weighed_inputs`.
        seed: of the signs.

    Returns:
        (n, in), fp32 or wider; n is ROWS_PER_USE, or the number of tokens if that is smaller.
    """
    rows = weighed_inputs(inputs, delta, weighted)
    if len(rows) <= ROWS_PER_USE:
        return rows
    rows = rows * random_signs(len(rows), seed).to(rows, non_blocking=True)[:, None]
    return F.pad(rows, (0, 0, 0, -len(rows) % ROWS_PER_USE)).view(-1, ROWS_PER_USE, rows.shape[-1]).sum(dim=0)


def _shares(sizes: Tensor) -> Tensor:
    """Sizes (n,) over their sum; zeros where all of them are."""
    return sizes / sizes.sum().clamp_min(torch.finfo(sizes.dtype).tiny)
