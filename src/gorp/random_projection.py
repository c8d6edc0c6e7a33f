"""Full-rank learning in random directions: W + Z V^T, which needs no gradient of the weight."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from gorp._linalg import orthonormalize, project_out, seeded_normal
from gorp.layers import FullRankLinear


class RandomlyProjectedLinear(FullRankLinear):
    r"""y = (W + Z V^T) x + b, with a core Z (out, k) and V (in, k) drawn at random off the layer's space.

    A random projection of the gradient, dL/dZ = G V, as in GoLore (He et al. 2024, Subspace Optimization for Large
    Language Models with Convergence Guarantees), which shows why: in a small batch the gradient's dominant directions
    are those of its noise and of what all inputs share. Along the latter x is large, so that Adam's steps of Z,
    which are of one size in every coordinate, move the layer's output far for nothing (docs/method.md has the
    measurement). The output side is left whole, as in LoRA, whose A would be V^T held fixed until the next refresh.
    """

    @override
    def lift(self, core_output: Tensor) -> Tensor:
        return core_output

    @override
    def change(self) -> Tensor:
        return self.core @ self.V.mT

    @override
    def width_of(self, side: str) -> int:
        return self.in_features

    @override
    def moment_rows(self, side: str, first_moment: Tensor) -> Tensor:
        return first_moment @ self.V.mT

    @override
    def refresh_at(self, step: int) -> None:
        super().refresh_at(step)
        if step % self.config.refresh_every == 0:
            self.refresh()

    def draw(self, step: int) -> Tensor:
        """What V is made from at a step, (in, k): the same for the same task and step, whatever came before."""
        seed = (self.task_seed * 65537 + step) % 2**63
        return seeded_normal(self.in_features, self.V.shape[1], seed).to(self.V)

    @torch.no_grad()
    def refresh(self) -> None:
        """Merge the core, and choose V anew."""
        self.merge()
        v, basis = self.draw(self.step), self.space.basis.to(self.V)
        for _ in range(2):
            v = orthonormalize(project_out(v.mT, basis).mT)
        self.V = v.contiguous()

    @override
    @torch.no_grad()
    def restart(self, task: int) -> None:
        super().restart(task)
        k = self.fresh_rank()
        self.core.grad = None
        self.core.data = self._zeros(self.out_features, k)
        self.V = self._zeros(self.in_features, k)
        if k:
            self.refresh()
