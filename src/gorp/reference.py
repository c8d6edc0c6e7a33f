"""GORP, slow and literal: one layer at a time, from gradients that the caller supplies.

What the fast path is held to, and what a reader may want to read first. It shares no code with it. A full-rank
layer is kept here in the paper's own form (project the gradient, run Adam, lift the step), which the fast path
replaces by training a core; a LoRA layer is two matrices and a loop. Both variants of ``GORPConfig`` are here.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

GRAM_WIDTH, SKETCH_ROWS, SKETCH_KEPT = 1536, 640, 512
NOISE = 1e-5


class Adam:
    """Adam's direction for one tensor (Kingma and Ba, algorithm 1), without the learning rate."""

    def __init__(self, betas: tuple[float, float] = (0.9, 0.999), eps: float = 1e-8) -> None:
        self.beta1, self.beta2 = betas
        self.eps = eps
        self.t = 0
        self.m: Tensor | None = None
        self.v: Tensor | None = None

    def direction(self, gradient: Tensor) -> Tensor:
        """m_hat / (sqrt(v_hat) + eps) after this gradient; any shape."""
        if self.m is None or self.v is None:
            self.m, self.v = torch.zeros_like(gradient), torch.zeros_like(gradient)
        self.t += 1
        self.m = self.beta1 * self.m + (1 - self.beta1) * gradient
        self.v = self.beta2 * self.v + (1 - self.beta2) * gradient * gradient
        m_hat = self.m / (1 - self.beta1**self.t)
        v_hat = self.v / (1 - self.beta2**self.t)
        return m_hat / (v_hat.sqrt() + self.eps)


class Memory:
    """What a task leaves behind: a sketch of gradient rows (n, d)."""

    def __init__(self) -> None:
        self.rows: list[Tensor] = []

    def add(self, rows: Tensor) -> None:
        """Keep rows; of 640 wider than 1536 keep the top 512 sigma_j v_j^T in their place."""
        self.rows.extend(rows)
        if rows.shape[1] > GRAM_WIDTH and len(self.rows) >= SKETCH_ROWS:
            _, sigma, vh = torch.linalg.svd(torch.stack(self.rows), full_matrices=False)
            self.rows = [sigma[j] * vh[j] for j in range(min(SKETCH_KEPT, len(sigma)))]

    def matrix(self) -> Tensor:
        """K, (n, d)."""
        return torch.stack(self.rows)


def weighted_inputs(inputs: Tensor, delta: Tensor) -> Tensor:
    """Rows w_t x_t (tokens, in): w_t^2 is half 1/n, n tokens having a gradient, half delta_t's share of all norms."""
    sizes = delta.norm(dim=1)
    seen = (sizes > 0).to(sizes)
    weights = 0.5 * seen / seen.sum() + 0.5 * sizes / sizes.sum()
    return torch.diag(weights.sqrt()) @ inputs


def grown_basis(basis: Tensor, rows: Tensor, share: float, of_remainder: bool = False) -> Tensor:
    """S (d, s) with the fewest columns added that make it hold a share of the energy of K's rows (n, d)."""
    basis, rows = basis.double(), rows.double()
    total = rows.norm() ** 2
    free = rows - rows @ basis @ basis.T
    if total == 0 or free.norm() <= NOISE * rows.norm():
        return basis
    _, sigma, vh = torch.linalg.svd(free, full_matrices=False)
    goal = share * (free.norm() ** 2 if of_remainder else total)
    reached = torch.zeros(()) if of_remainder else (rows @ basis).norm() ** 2
    columns: list[Tensor] = []
    for j in range(len(sigma)):
        if reached >= goal or basis.shape[1] + len(columns) == basis.shape[0]:
            break
        columns.append(vh[j])
        reached = reached + sigma[j] ** 2
    return torch.cat([basis, torch.stack(columns).T], dim=1) if columns else basis


class Stride:
    """a = (||X P|| / ||X||) ** damping, with P = I - S S^T and X (n, in) all rows shown so far; 1 before the first."""

    def __init__(self, basis: Tensor, damping: float) -> None:
        self.basis, self.damping = basis, damping
        self.free = self.whole = 0.0

    def show(self, rows: Tensor) -> None:
        """Rows (n, in) that join X; without damping they do not matter."""
        if not self.damping:
            return
        self.free += float((rows - rows @ self.basis @ self.basis.T).square().sum())
        self.whole += float(rows.square().sum())

    @property
    def length(self) -> float:
        """a."""
        return (self.free / self.whole) ** (self.damping / 2) if self.whole else 1.0


class ReferenceFullRank:
    """W (out, in) under full-rank GORP: every T steps U, V anew; P = U^T G V; W <- W - lr a U Adam(P) V^T.

    Args:
        weight: W at the start of the task.
        basis: S; exact: (in, s), the paper: (k, s).
        rank: k.
        lr: learning rate.
        start: block (in, q) the first subspace iteration starts from.
        turns: fixed rotations (k, k) for the first U and V.
        variant: "exact" or "paper".
        refresh_every: T.
        damping: exponent of the stride a, 0 in the paper.
    """

    def __init__(
        self,
        weight: Tensor,
        basis: Tensor,
        rank: int,
        lr: float,
        start: Tensor,
        turns: tuple[Tensor, Tensor],
        variant: str = "exact",
        refresh_every: int = 10,
        damping: float = 0.0,
    ) -> None:
        self.weight, self.basis, self.rank, self.lr = weight.clone(), basis, rank, lr
        self.start, self.turns, self.variant, self.refresh_every = start, turns, variant, refresh_every
        self.adam = Adam()
        self.memory = Memory()
        self.stride = Stride(basis, damping)
        self.U: Tensor | None = None
        self.V: Tensor | None = None

    def step(self, gradient: Tensor) -> None:
        """One step from the gradient G (out, in) of the whole weight."""
        if self.adam.t % self.refresh_every == 0:
            self._refresh(gradient)
        assert self.U is not None
        assert self.V is not None
        projected = self.U.T @ gradient @ self.V
        if self.variant == "paper":
            projected = projected - self.basis @ self.basis.T @ projected
        lr = self.lr * self.stride.length
        self.weight = self.weight - lr * self.U @ self.adam.direction(projected) @ self.V.T

    def _refresh(self, gradient: Tensor) -> None:
        off = torch.eye(gradient.shape[1], dtype=gradient.dtype)
        if self.variant == "exact":
            off = off - self.basis @ self.basis.T
        free = gradient @ off
        block = self.start
        for _ in range(3):
            block = torch.linalg.qr(free.T @ torch.linalg.qr(free @ block).Q).Q
        left = torch.linalg.qr(free @ block).Q
        p, sigma, qh = torch.linalg.svd(left.T @ free, full_matrices=False)
        signs = torch.stack([row[row.abs().argmax()].sign() for row in qh])  # make each row's largest entry positive
        u, self.start = (left @ p) * signs, qh.T * signs
        real = (sigma > NOISE * sigma[0])[: self.rank]
        found = u[:, : self.rank] * real
        u, v = self._completed(found), self._completed(self._off(self.start[:, : self.rank] * real))
        if self.variant == "exact":
            u = u @ self._turn(u, self.U, self.turns[0])
            v = v @ self._turn(v, self.V, self.turns[1])
            v = off @ v
            p, _, qh = torch.linalg.svd(v, full_matrices=False)
            v = p @ qh  # the orthonormal matrix nearest to V
        self.U, self.V = u, v
        seen = u.T @ found @ found.T @ gradient
        self.memory.add(seen)
        self.stride.show(seen)

    def _off(self, columns: Tensor) -> Tensor:
        """Directions off S, fixed random ones in place of columns of zeros; as they are where S is empty."""
        if self.variant == "paper" or not self.basis.shape[1]:
            return columns
        fixed = torch.randn(columns.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
        columns = torch.where((columns == 0).all(dim=0), fixed, columns)
        for _ in range(2):
            columns = self._completed(columns - self.basis @ (self.basis.T @ columns))
        return columns

    @staticmethod
    def _completed(columns: Tensor) -> Tensor:
        """Fixed directions in place of columns of zeros, which the gradient does not determine."""
        q, r = torch.linalg.qr(columns)
        return q * torch.where(r.diagonal() < 0, -1.0, 1.0)

    @staticmethod
    def _turn(new: Tensor, old: Tensor | None, first: Tensor) -> Tensor:
        if old is None:
            return first
        p, _, qh = torch.linalg.svd(new.T @ old)
        return p @ qh

    def end_task(self, share: float) -> Tensor:
        """The basis that the next task must leave alone."""
        if self.variant == "paper":
            assert self.adam.m is not None
            return grown_basis(self.basis, self.adam.m.T, share, of_remainder=True)
        return grown_basis(self.basis, self.memory.matrix(), share)


class ReferenceRandomFullRank:
    """W (out, in) learning in random directions: every T steps V anew; W <- W - lr Adam(G V) V^T.

    Args:
        weight: W at the start of the task.
        basis: S, (in, s).
        lr: learning rate.
        draw: the columns (in, k) that V is made from at a step.
        refresh_every: T.
    """

    def __init__(
        self, weight: Tensor, basis: Tensor, lr: float, draw: Callable[[int], Tensor], refresh_every: int = 10
    ) -> None:
        self.weight, self.basis, self.lr, self.draw, self.refresh_every = weight.clone(), basis, lr, draw, refresh_every
        self.adam = Adam()
        self.V = weight.new_zeros(weight.shape[1], 0)

    def step(self, gradient: Tensor) -> None:
        """One step from the gradient G (out, in) of the whole weight."""
        if self.adam.t % self.refresh_every == 0:
            self.V = self._free_and_orthonormal(self.draw(self.adam.t))
        self.weight = self.weight - self.lr * self.adam.direction(gradient @ self.V) @ self.V.T

    def _free_and_orthonormal(self, columns: Tensor) -> Tensor:
        """Gram and Schmidt's, beginning with S, each column cleared twice."""
        kept = list(self.basis.T)
        for column in columns.T:
            for vector in kept * 2:
                column = column - vector * (vector @ column)
            kept.append(column / column.norm())
        return torch.stack(kept[self.basis.shape[1] :], dim=1)


class ReferenceLoRA:
    """W + c B A under GORP, A (r, in), B (out, r).

    Exact: with P = I - S S^T and Q = I - R R^T, A <- A - lr a Adam(G_A P) P and B <- B - lr a Q Adam(Q G_B).
    Paper: A <- A - lr Adam(G_A - S S^T G_A) with S (r, s) on the left, likewise B with R (out, r_s).

    Args:
        A: start of A, in exact in the complement of S.
        B: start of B, zeros.
        basis: S. output_basis: R.
        lr: learning rate.
        variant: "exact" or "paper".
        damping: exponent of the stride a, 0 in the paper.
    """

    def __init__(
        self,
        A: Tensor,
        B: Tensor,
        basis: Tensor,
        output_basis: Tensor,
        lr: float,
        variant: str = "exact",
        damping: float = 0.0,
    ) -> None:
        self.A, self.B, self.lr, self.variant = A.clone(), B.clone(), lr, variant
        self.basis, self.output_basis = basis, output_basis
        self.adam_A, self.adam_B = Adam(), Adam()
        self.memory, self.output_memory = Memory(), Memory()
        self.stride = Stride(basis, damping)

    def _free_A(self, matrix: Tensor) -> Tensor:
        if self.variant == "paper":
            return matrix - self.basis @ (self.basis.T @ matrix)
        return matrix - (matrix @ self.basis) @ self.basis.T

    def _free_B(self, matrix: Tensor) -> Tensor:
        return matrix - self.output_basis @ (self.output_basis.T @ matrix)

    def step(self, gradient_A: Tensor, gradient_B: Tensor) -> None:
        """One step from the gradients of both factors."""
        self.memory.add(gradient_A)
        self.stride.show(gradient_A)
        self.output_memory.add(gradient_B.T)
        direction_A = self.adam_A.direction(self._free_A(gradient_A))
        direction_B = self.adam_B.direction(self._free_B(gradient_B))
        if self.variant == "exact":
            direction_A, direction_B = self._free_A(direction_A), self._free_B(direction_B)
        lr = self.lr * self.stride.length
        self.A = self.A - lr * direction_A
        self.B = self.B - lr * direction_B

    def end_task(self, share: float) -> tuple[Tensor, Tensor]:
        """The bases S and R that the next task must leave alone."""
        if self.variant == "paper":
            assert self.adam_A.m is not None
            assert self.adam_B.m is not None
            return (
                grown_basis(self.basis, self.adam_A.m.T, share, of_remainder=True),
                grown_basis(self.output_basis, self.adam_B.m.T, share, of_remainder=True),
            )
        return (
            grown_basis(self.basis, self.memory.matrix(), share),
            grown_basis(self.output_basis, self.output_memory.matrix(), share),
        )
