"""Full-rank learning in random directions: W + Z V^T, which needs no gradient of the weight."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from gorp._linalg import orthonormalize_off, seeded_normal
from gorp.full_rank_linear import FullRankLinear
from gorp.learned_layer import is_signal
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
    def core_rows(self, k: int) -> int:
        return self.out_features

    @override
    def lift(self, core_output: Tensor) -> Tensor:
        return core_output

    @override
    def change(self) -> tuple[Tensor, Tensor]:
        return self.core, self.V.mT

    @override
    def width_of(self, side: str) -> int:
        return self.in_features

    @override
    def moment_rows(self, side: str, first_moment: Tensor) -> Tensor:
        raise NotImplementedError("a moment in random directions tells nothing of the task's; GORPConfig refuses it")

    @override
    def project_step(self, side: str, direction: Tensor) -> Tensor:
        """The direction, or zeros where the inputs lie in the space, so that what V^T x shows is round-off."""
        if INPUT not in self.seen or not (self.config.guard or self.tally):
            return direction
        rows = self.seen[INPUT]
        free = self.space.input.project(rows)
        if self.tally is not None:  # of the gradient itself, which is not formed, nothing is known
            self.tally.count_gradient(free, rows)
        return direction * is_signal(free, rows) if self.config.guard else direction

    @override
    def refresh_at(self, step: int) -> None:
        super().refresh_at(step)
        if self.refreshes_at(step):
            self.merge()
            self.choose_projection()

    def draw(self, step: int) -> Tensor:
        """What V is made from at a step, (in, k): the same for the same task and step, whatever came before."""
        return seeded_normal(self.in_features, self.V.shape[1], self.seed_at(step)).to(self.V)

    @torch.no_grad()
    def choose_projection(self) -> None:
        """V for the steps from this one on, the core being zero."""
        self.V = orthonormalize_off(self.draw(self.step), self.space.basis.to(self.V)).contiguous()

    @override
    @torch.no_grad()
    def restart(self, task: int) -> None:
        super().restart(task)
        if not self.space.frozen:
            self.choose_projection()
