"""Full-rank learning in random directions: W + Z V^T, which needs no gradient of the weight."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from gorp._linalg import NOISE, orthonormalize, project_out, seeded_normal
from gorp.layers import FullRankLinear
from gorp.space import INPUT


class RandomlyProjectedLinear(FullRankLinear):
    r"""y = (W + Z V^T) x + b, with a core Z (out, k) and V (in, k) drawn at random off the layer's space.

    A random projection of the gradient, dL/dZ = G V, as in GoLore (He et al. 2024, Subspace Optimization for Large
    Language Models with Convergence Guarantees), for in a small batch the gradient's dominant directions are those
    of its noise. They are also those that all inputs share, along which x is large, so that Adam's steps of Z, of one
    size in every coordinate, move the layer's output far (measured in docs/method.md). The output side is left whole,
    as in LoRA, whose A would be V^T held fixed until the next refresh. Adam's moments are kept as they are when V
    is drawn anew.
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
        raise NotImplementedError("a moment in random directions tells nothing of the task's; GORPConfig refuses it")

    @override
    def project_step(self, side: str, direction: Tensor) -> Tensor:
        """The direction, or zeros where the inputs lie in the space, so that what V^T x shows is round-off."""
        if not self.config.guard or INPUT not in self.seen:
            return direction
        rows = self.seen[INPUT]
        signal = torch.linalg.vector_norm(self.space.input.project(rows)) >= NOISE * torch.linalg.vector_norm(rows)
        return direction * signal

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
