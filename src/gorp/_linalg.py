"""The linear algebra of gradient spaces: pure functions, batched over leading dimensions, random by a given seed only.

Everything computes in the dtype it is given; callers pass fp32 or wider.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

if TYPE_CHECKING:
    from gorp._outer_products import OuterProducts
    from gorp._ranks import MeanOverRanks

    Products = Tensor | OuterProducts | MeanOverRanks

SPARE_COLUMNS = 16
"""Columns the block iteration carries beyond the rank it is asked for (24 in all at rank 8)."""

ROUNDS = 3
"""Rounds of block subspace iteration; from a warm start they catch 99.7% of the exact top-8 energy."""

PROBES = 8
"""Random columns by which the norm of a matrix is estimated that is not formed."""

NOISE = 1e-5
"""A free gradient below this share of the whole gradient is round-off, not signal."""


def project_out(rows: Tensor, basis: Tensor) -> Tensor:
    """Remove from each row what lies in the span of an orthonormal basis: rows (I - S S^T).

    Args:
        rows: (..., n, d).
        basis: S, (..., d, s), orthonormal columns; s may be 0.
    """
    return rows - (rows @ basis) @ basis.mT


def orthonormalize(columns: Tensor) -> Tensor:
    """Orthonormal basis of the span of columns (..., d, k), d >= k; orthonormal input comes back unchanged.

    Columns of zeros become whatever completes the others: the same for the same others.

    QR fixes Q only up to the signs of R's diagonal; turned positive here, so that a column never flips
    under the moments that Adam keeps in its coordinates.
    """
    q, r = torch.linalg.qr(columns)
    signs = torch.where(r.diagonal(dim1=-2, dim2=-1) < 0, -1.0, 1.0).to(q.dtype)
    return q * signs.unsqueeze(-2)


def orthonormalize_off(columns: Tensor, basis: Tensor) -> Tensor:
    """Orthonormal basis of what columns (..., d, k) span off a basis (..., d, s); twice, for round-off's sake.

    No column may lie in the basis: QR would complete the others with axes, which may lie in it, too.
    """
    if basis.shape[-1] == 0:
        return orthonormalize(columns)
    for _ in range(2):
        columns = orthonormalize(project_out(columns.mT, basis).mT)
    return columns


class Dominant(NamedTuple):
    """What a block iteration found of a matrix M (out, in)."""

    u: Tensor  # (out, rank)
    v: Tensor  # (in, rank)
    rows: Tensor  # U^T M, (rank, in), what lies in S included
    block: Tensor  # (in, q), to start from next time


def dominant_subspace(
    matrix: Products, start: Tensor, rank: int, basis: Tensor | None = None, rounds: int = ROUNDS
) -> Dominant:
    """Approximate top singular subspaces of a matrix, or of matrix (I - S S^T), by block subspace iteration.

    Args:
        matrix: (..., out, in), finite; only its products with blocks of q columns are asked for.
        start: (..., in, q), q >= rank; any block of full rank, best the one the last call returned.
        rank: how many dominant directions to reduce to.
        basis: S, (..., in, s), orthonormal columns; None for none.
        rounds: passes over the matrix, at least 1; each multiplies by it once from either side.

    Returns:
        The leading singular vectors within the block, signed so that the largest entry of each column of V is
        positive, U^T matrix, and the whole block. Where the matrix has fewer dominant directions than asked for,
        fixed ones complete them, for round-off would choose others each time, on each rank.
    """
    if basis is None:
        basis = start.new_zeros(*start.shape[:-1], 0)
    free = project_out(start.mT, basis)
    for turn in range(rounds):
        block = free.mT if turn == 0 else orthonormalize(free.mT)  # (..., in, q)
        left = orthonormalize(matrix @ block)  # (..., out, q)
        rows = (matrix.mT @ left).mT  # (..., q, in)
        free = project_out(project_out(rows, basis), basis)
    right = orthonormalize(free.mT)  # (..., in, q): the decomposition is of a matrix (q, q)
    turned, sigma, vh = torch.linalg.svd(free @ right)
    v = right @ vh.mT
    signs = v.gather(-2, v.abs().argmax(dim=-2, keepdim=True)).sign()
    turned, v = turned * signs, v * signs
    is_signal = (sigma > NOISE * sigma[..., :1])[..., None, :rank]
    leading, v_leading = turned[..., :rank] * is_signal, v[..., :rank] * is_signal
    if basis.shape[-1]:
        fixed = seeded_normal(v.shape[-2], rank, 0).to(v, non_blocking=True) / v.shape[-2] ** 0.5
        v_leading = v_leading.where(is_signal, fixed)
    u_columns, v_columns = orthonormalize(left @ leading), orthonormalize_off(v_leading, basis)
    return Dominant(u_columns, v_columns, leading.mT @ rows, v)


def probe(matrix: Products, basis: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Images (out, PROBES) of a few random columns under matrix (I - S S^T), and under matrix.

    Their squared Frobenius norms estimate those of the two matrices: good to a factor of two or so, and to the last bit
    on whether the matrix is zero or not finite.

    Args:
        matrix: (out, in).
        basis: S, (in, s), orthonormal columns.
        seed: of the columns.
    """
    columns = seeded_normal(basis.shape[0], PROBES, seed).to(basis, non_blocking=True) / PROBES**0.5
    free = project_out(project_out(columns.mT, basis), basis).mT
    seen = matrix @ torch.cat([free, columns], dim=1)  # (out, 2 PROBES)
    return seen[:, :PROBES], seen[:, PROBES:]


def align(new: Tensor, old: Tensor) -> Tensor:
    """Turn a basis within its own span as near as possible to another (orthogonal Procrustes).

    Args:
        new, old: (..., d, k); new has orthonormal columns.
    """
    u, _, vh = torch.linalg.svd(new.mT @ old)
    return new @ (u @ vh)


def rotation(size: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """A fixed orthogonal matrix (size, size): the same for the same seed on every machine's CPU."""
    return orthonormalize(seeded_normal(size, size, seed, dtype))


def seeded_normal(rows: int, columns: int, seed: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """Standard normal matrix (rows, columns) drawn on the CPU from its own generator."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, columns, generator=generator, dtype=torch.float64).to(dtype)


def random_signs(count: int, seed: int) -> Tensor:
    """Entries -1 or 1 (count,), drawn on the CPU from their own generator."""
    generator = torch.Generator().manual_seed(seed)
    return 2.0 * torch.randint(0, 2, (count,), generator=generator, dtype=torch.uint8) - 1


def energy_rank(energies: Tensor, target: float, held: float = 0.0) -> int:
    """Fewest leading entries whose sum, added to what is held, reaches a target. 0 is a valid answer.

    Args:
        energies: (n,), squared singular values, descending.
        target: energy to reach, in the same unit.
        held: energy already accounted for.
    """
    missing = target - held
    if missing <= 0 or energies.numel() == 0:
        return 0
    reached = energies.cumsum(0) >= missing
    return int(reached.int().argmax()) + 1 if bool(reached.any()) else energies.numel()


def extend_basis(basis: Tensor, rows: Tensor, share: float, of_remainder: bool = False) -> tuple[Tensor, Tensor]:
    """Columns that make a basis hold a share of the energy of some rows (GPM's rule, on the total).

    With K the rows and Khat = K (I - S S^T) = U diag(sigma) V^T, the fewest columns j of V with
    ||K S||^2 + sum_j sigma_j^2 >= share ||K||^2. Computed in fp64.

    Args:
        basis: S, (d, s), orthonormal columns.
        rows: K, (n, d), finite.
        share: energy to hold, 0 to 1.
        of_remainder: hold the share of ||Khat||^2 instead (the paper's rule).

    Returns:
        New columns (d, a), orthonormal and orthogonal to the basis, and their energies (a,) as shares of ||K||^2.
    """
    wide, held = rows.double(), basis.double()
    free = project_out(project_out(wide, held), held)
    total = float(wide.square().sum())
    remainder = float(free.square().sum())
    if total == 0.0 or remainder <= (NOISE**2) * total:
        return basis.new_zeros(basis.shape[0], 0), basis.new_zeros(0)
    _, sigma, vh = torch.linalg.svd(free, full_matrices=False)
    energies = sigma.square()
    if of_remainder:
        count = energy_rank(energies, share * remainder)
    else:
        count = energy_rank(energies, share * total, held=total - remainder)
    count = min(count, basis.shape[0] - basis.shape[1])
    columns = vh[:count].mT
    columns = orthonormalize(project_out(columns.mT, held).mT) if count else columns
    return columns.to(basis.dtype), (energies[:count] / total).to(basis.dtype)
