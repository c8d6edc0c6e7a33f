"""Full-rank layers in their core form W + U Z V^T, whose directions are those of the gradient."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from gorp._linalg import (
    NOISE,
    PROBES,
    ROUNDS,
    SPARE_COLUMNS,
    Dominant,
    align,
    dominant_subspace,
    orthonormalize_off,
    probe,
    project_out,
    rotation,
    seeded_normal,
)
from gorp._outer_products import OuterProducts
from gorp._precision import without_autocast
from gorp._ranks import MeanOverRanks, mean_over_ranks, ranks
from gorp._taps import tap
from gorp.full_rank_linear import FullRankLinear
from gorp.learned_layer import guarded
from gorp.space import INPUT


class ProjectedLinear(FullRankLinear):
    r"""Core form, y = (W + U Z V^T) x + b, with a core Z (k, k).

    Training Z by autograd and Adam is GORP's project, Adam, lift, since dL/dZ = U^T G V (docs/method.md). At a
    refresh U (out, k) and V (in, k) are chosen from the gradient of that very step. Choosing happens as soon as a
    backward pass has reached Z, so that clipping sees the gradient of the new core; merging happens at the step.

    A refresh needs a few thin products with the layer's gradient G (out, in), not G. They are taken of the inputs, kept
    for the backward pass on refresh steps, and of the gradient at the output; where forming G first takes less
    time, it exists within the layer's own backward pass and nowhere else. With ``accumulation_steps`` above 1
    what the passes of a refresh step showed is held until the last of them, in the form that is smaller; or the last
    alone is looked at (``refresh_passes``), and its gradient taken for that of all. A step of fewer passes chooses at
    the step itself: what clips or rescales gradients has seen the old core's then, and the new one's is scaled as that
    was; but in a task's first step, where the old one's is zero, it is left as it is.
    """

    U: Tensor
    start: Tensor

    @override
    def prepare(self) -> None:
        for buffer in ("U", "start"):
            self.register_buffer(buffer, self._zeros(0, 0))
        self._gradient: Tensor | OuterProducts | None = None
        self._passes = self._gradient_pass = 0  # finished ones, and the last one that the gradient is of
        self._accumulated = self._zeros(0, 0)
        self._chosen: Dominant | None = None
        self.core.register_hook(self._project_core_gradient)
        self.core.register_post_accumulate_grad_hook(self._end_pass)

    @property
    def _exact(self) -> bool:
        return self.config.variant == "exact"

    # forward and backward

    @override
    def core_rows(self, k: int) -> int:
        return k

    @override
    def lift(self, core_output: Tensor) -> Tensor:
        return F.linear(core_output, self.U)

    @override
    def change(self) -> tuple[Tensor, Tensor]:
        return self.U @ self.core, self.V.mT

    @override
    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        learns = torch.is_grad_enabled() and self.core.requires_grad
        return tap(y, x, self.accumulate_gradient) if self.refresh_due and learns else y

    def accumulate_gradient(self, delta: Tensor, inputs: Tensor) -> None:
        """Add delta^T x of one use of the layer in one backward pass; delta (..., out), inputs (..., in)."""
        if self._passes and self.core.grad is None:
            self._forget_passes()  # gradients were cleared without a step
        if self._passes == self.config.accumulation_steps:
            raise RuntimeError(
                f"{self.name}: backward pass {self._passes + 1} before optimizer.step(); "
                "set accumulation_steps in GORPConfig to the number of passes per step "
                "(under re-entrant checkpointing, each segment that uses the layer is one)"
            )
        if self.config.refresh_passes == "last" and self._gradient_pass < self._passes:
            self._gradient, self._gradient_pass = None, self._passes
        use = OuterProducts(
            [(delta.detach().reshape(-1, self.out_features), inputs.detach().reshape(-1, self.in_features))]
        )
        earlier = self._gradient
        gradient = use if earlier is None else earlier + use
        if isinstance(gradient, OuterProducts):
            if not self._stays_in_panels(gradient):
                gradient = gradient.formed(self.core.dtype)
            elif self._passes_to_come:  # held while the caller may fill its buffers again
                gradient = use.copied() if earlier is None else earlier + use.copied()
        self._gradient = gradient

    @property
    def _passes_to_come(self) -> bool:
        """Whether the pass at hand is not the last one of its step."""
        return self._passes + 1 < self.config.accumulation_steps

    def _stays_in_panels(self, gradient: OuterProducts) -> bool:
        """Whether G is best left as delta and x until the projection is chosen."""
        if self.config.refresh_from != "cheapest":
            return self.config.refresh_from == "activations"
        if self._passes_to_come or (self._passes and self.config.refresh_passes == "all"):
            return gradient.nbytes <= self.weight.numel() * self.core.element_size()
        return gradient.is_cheaper(2 * ROUNDS * self.start.shape[1] + 2 * PROBES)

    @without_autocast
    @torch.no_grad()
    def _end_pass(self, core: Tensor) -> None:
        """Once a backward pass has reached Z on a refresh step: the last of them gives Z's gradient on new U and V."""
        if self._gradient is None:
            return
        self._passes += 1
        if self._passes == self.config.accumulation_steps:
            core.grad = self._choose_projection(self._gradient)
        elif core.grad is not None:
            self._accumulated = core.grad.clone()

    def _choose_projection(self, gradient: Tensor | OuterProducts) -> Tensor:
        """Set U, V for the coming step by G, which is let go, and tell Z's gradient U^T G V on them."""
        whole = MeanOverRanks(gradient) if ranks() > 1 else gradient
        self._chosen, self._gradient = self._projection_of(whole), None
        if self.config.refresh_passes == "last":  # which stands for the sum of all
            self._chosen = self._chosen._replace(rows=self._chosen.rows * self._passes)
        if self.remembers_gradients(INPUT):
            self.seen[INPUT] = self._chosen.rows
        return self._project_core_gradient(self._chosen.rows @ self._chosen.v)

    def _projection_of(self, gradient: Tensor | OuterProducts | MeanOverRanks) -> Dominant:
        """New directions for a gradient G (out, in); the present ones where G has nothing to say."""
        basis = self.space.basis.to(self.start) if self._exact else self.start[:, :0]
        images = probe(gradient, basis, self.seed_at(self.step))
        norms = [torch.linalg.vector_norm(part) for part in (*images, self.U)]
        free, whole, former = torch.stack(norms).tolist()  # the host waits once
        is_noise = self.config.guard and free < NOISE * whole
        if not 0 < whole < float("inf") or is_noise:
            self.skipped_refreshes += 1
            found = Dominant(self.U, self.V, (gradient.mT @ self.U).mT, self.start)
        else:
            found = self._turned(dominant_subspace(gradient, self.start, self.core.shape[0], basis), basis, former > 0)
        if self.tally is not None:
            free_rows = project_out(found.rows, basis)
            self.tally.count_refresh(images[0], free_rows, found.u, found.rows @ found.v)
            if self._exact:
                self.tally.count_gradient(*images)
        return found

    def _turned(self, found: Dominant, basis: Tensor, has_former: bool) -> Dominant:
        """What was found, turned onto the present U and V, so that Adam's moments fit; at first by fixed rotations."""
        if not self._exact:
            return found
        k = self.core.shape[0]
        if has_former:
            u, v = align(found.u, self.U), align(found.v, self.V)
        else:
            u, v = (
                side @ rotation(k, 2 * self.task_seed + i, side.dtype).to(side)
                for i, side in enumerate((found.u, found.v))
            )
        return Dominant(u, orthonormalize_off(v, basis), (u.mT @ found.u) @ found.rows, found.block)

    @without_autocast
    def _project_core_gradient(self, gradient: Tensor) -> Tensor:
        """The paper's P = G' - S S^T G' in core coordinates; in the exact variant V has seen to it."""
        if self._exact:
            return gradient
        free = guarded(self.space.input.project(gradient.mT).mT, gradient, self.config)
        if self.tally is not None:
            self.tally.count_gradient(free, gradient)
        return free

    @override
    def make_room(self, k: int) -> None:
        super().make_room(k)
        self.U = self._zeros(self.out_features, k)
        self.start = self._zeros(self.in_features, min(k + SPARE_COLUMNS, self.in_features, self.out_features))

    # what the optimizer asks

    @override
    def width_of(self, side: str) -> int:
        return self.in_features if self._exact else self.core.shape[0]

    @override
    def moment_rows(self, side: str, first_moment: Tensor) -> Tensor:
        return first_moment @ self.V.mT if self._exact else first_moment.mT

    @override
    def begin_step(self) -> None:
        if self._passes and self._gradient is not None:  # fewer than accumulation_steps
            (accumulated,) = mean_over_ranks([self._accumulated])
            clipped = torch.linalg.vector_norm(self.core.grad) / torch.linalg.vector_norm(accumulated)
            self.core.grad = self._choose_projection(self._gradient) * clipped.nan_to_num(1.0, posinf=1.0)
        chosen = self._chosen
        if chosen is None or chosen.u is self.U:
            return
        self.merge()
        self._has_no_directions = False
        # as a checkpoint will bring them back: another memory layout would round differently
        self.U, self.V, self.start = (part.contiguous() for part in (chosen.u, chosen.v, chosen.block))

    @override
    def forget_pending(self) -> None:
        super().forget_pending()
        self._forget_passes()

    def _forget_passes(self) -> None:
        """Drop what backward passes of a refresh step showed."""
        self._gradient, self._chosen = None, None
        self._passes = self._gradient_pass = 0

    @override
    def refresh_at(self, step: int) -> None:
        super().refresh_at(step)
        self.refresh_due = self._has_no_directions or self.refreshes_at(step)

    @override
    @torch.no_grad()
    def resume_at(self, step: int) -> None:
        self._has_no_directions = not bool(self.U.any())
        super().resume_at(step)

    @override
    @torch.no_grad()
    def restart(self, task: int) -> None:
        super().restart(task)
        self.start = seeded_normal(self.in_features, self.start.shape[1], self.task_seed).to(self.U)
        self.refresh_due = self._has_no_directions = True
        self.skipped_refreshes = 0
