"""Sketches: what stands for all the rows that a task has shown of one side of a layer, in bounded room."""

from __future__ import annotations

import math
from functools import reduce

import torch
from torch import Tensor

from gorp._ranks import mean_over_ranks, ranks, rows_of_ranks
from gorp.errors import InputError

GRAM_WIDTH = 1536
"""Widest side whose memory is a whole Gram matrix: a tenth of the time that shrinking rows takes, 2.4 of the room."""

SKETCH_ROWS = 640
SKETCH_KEPT = 512


def sketch(kept: Tensor, rows: Tensor) -> Tensor:
    """Add rows to what stands for all rows seen: their Gram matrix, or where d > GRAM_WIDTH rows that nearly have it.

    Args:
        kept: (d, d), changed in place, or (n, d) with n < SKETCH_ROWS where d > GRAM_WIDTH; (0, d) at first.
        rows: (m, d).

    Returns:
        The same with the rows. Rows that have become too many shrink to their leading sigma_j v_j^T.
    """
    width, rows = kept.shape[1], rows.to(kept)
    if width <= GRAM_WIDTH:
        gram = kept if len(kept) else kept.new_zeros(width, width)
        return gram.addmm_(rows.mT, rows)
    kept = torch.cat([kept, rows])
    if len(kept) < SKETCH_ROWS:
        return kept
    _, left = torch.linalg.eigh(kept @ kept.mT)  # ascending; left^T K = diag(sigma) V^T
    return left[:, -SKETCH_KEPT:].mT.flip(0) @ kept


def sketch_over_ranks(kept: Tensor) -> Tensor:
    """What stands for the rows that all replicas of a data-parallel run have seen, each row for a share of one."""
    if ranks() == 1:
        return kept
    width = kept.shape[1]
    if width <= GRAM_WIDTH:
        return mean_over_ranks([kept if len(kept) else kept.new_zeros(width, width)])[0]
    return reduce(sketch, rows_of_ranks(kept / math.sqrt(ranks())))


def sketch_numbers(width: int) -> int:
    """Most numbers that the sketch of a side of this width holds."""
    return width * width if width <= GRAM_WIDTH else (SKETCH_ROWS - 1) * width


def check_sketch(kept: Tensor) -> None:
    """Refuse what another version kept of a task, before it is taken for a Gram matrix.

    Raises:
        InputError: a side up to GRAM_WIDTH wide that has seen rows has no symmetric matrix.
    """
    if kept.shape[1] > GRAM_WIDTH or not len(kept):
        return
    if len(kept) != kept.shape[1] or not torch.allclose(kept, kept.mT, rtol=1e-3, atol=0.0, equal_nan=True):
        raise InputError(
            f"the optimizer's state holds a sketch {tuple(kept.shape)} of an earlier version of gorp, which is no Gram "
            "matrix; finish the task with that version, or begin the task anew"
        )


def sketched_rows(kept: Tensor) -> Tensor:
    """Rows K (n, d) whose Gram matrix K^T K is that of all rows that a sketch was given, in the order of their energy.

    Args:
        kept: what `sketch` returned.
    """
    if not len(kept) or kept.shape[1] > GRAM_WIDTH or not bool(torch.isfinite(kept).all()):
        return kept
    energies, directions = torch.linalg.eigh(kept.double())
    signal = energies > torch.finfo(kept.dtype).eps * energies[-1]
    return (directions[:, signal] * energies[signal].sqrt()).mT.flip(0).to(kept)
