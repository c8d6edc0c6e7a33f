"""Layers that learn: what the optimizer asks of each, and the full-rank one, W + U Z V^T."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from gorp._linalg import (
    NOISE,
    SPARE_COLUMNS,
    align,
    dominant_subspace,
    orthonormalize,
    project_out,
    rotation,
    seeded_normal,
)
from gorp._rounding import keep_remainder, read_weight, write_weight
from gorp._taps import input_rows, tap
from gorp.config import GORPConfig
from gorp.space import INPUT, LayerSpace


class LearnedLayer(ABC):
    """A layer under GORP: its trainable factors, and how their gradients and steps stay out of its space.

    Every factor reads one side of the layer's space: LoRA's A and the core Z the input side, LoRA's B the output
    side. ``seen[side]`` holds rows (n, width of the side) that the coming step will add to the side's memory:
    unprojected gradients, or inputs where the memory is ``features`` or ``weighted_features``; ``rows_of_pass`` those
    inputs of a backward pass that has not reached the factor yet. ``stride``, at most 1, multiplies the layer's steps.
    """

    name: str
    config: GORPConfig
    space: LayerSpace
    index: int
    seen: dict[str, Tensor]
    rows_of_pass: list[Tensor]
    stride: Tensor | float = 1.0

    @abstractmethod
    def factors(self) -> dict[str, nn.Parameter]:
        """The trainable tensors, by the side of the space that they read."""

    @abstractmethod
    def effective_weight(self) -> Tensor:
        """The weight (out, in) the layer acts with, in fp32 or wider, factors not merged yet included."""

    @abstractmethod
    def width_of(self, side: str) -> int:
        """Width of the memory rows of one side."""

    @abstractmethod
    def moment_rows(self, side: str, first_moment: Tensor) -> Tensor:
        """Adam's first moment of the factor on one side, as rows (n, width of the side)."""

    @abstractmethod
    def project_step(self, side: str, direction: Tensor) -> Tensor:
        """Adam's direction for the factor on one side, less what the space holds."""

    @abstractmethod
    def merge(self) -> None:
        """Fold the factors into the weight; the function of the layer stays the same."""

    @abstractmethod
    def restart(self, task: int) -> None:
        """Fresh factors for the task of this index, in place, in what the space leaves free. May freeze the layer."""
        self.step = 0
        self.task_seed = (self.config.seed * 1009 + task) * 4093 + self.index
        self.forget_pending()

    def begin_step(self) -> None:
        """Called once before the optimizer updates this layer's factors."""

    def set_stride(self, energy: Tensor) -> None:
        """Before the update: how long this layer's steps are, given how much of what it sees its space leaves free.

        Adam makes full-size steps of a gradient however little protection leaves of it, and along directions that
        old tasks use, too, if less: a layer that sees little new had better move little.

        Args:
            energy: (2,), of the rows that the task has shown so far, what is free and what there is; the rows of
                this step are added in place.
        """
        if INPUT in self.seen:
            rows = self.seen[INPUT]
            energy += torch.stack([self.space.input.project(rows).square().sum(), rows.square().sum()])
        free, whole = energy
        self.stride = torch.where(whole > 0, (free / whole) ** (self.config.damping / 2), 1.0)

    def refresh_at(self, step: int) -> None:
        """Told the count of steps made in this task, before the next forward pass."""
        self.step = step

    def forget_pending(self) -> None:
        """Drop what backward passes left for a step that has been made, or will not be."""
        self.seen.clear()
        self.rows_of_pass.clear()

    def forget_if_cleared(self, side: str) -> None:
        """Before a pass reaches the factor of a side: without a gradient there, the pass is the first of its step."""
        if self.factors()[side].grad is None:
            self.seen.pop(side, None)

    def see_inputs(self, delta: Tensor, inputs: Tensor) -> None:
        """Take down what one use in a backward pass shows of the inputs; delta (..., out), inputs (..., in)."""
        weighted = self.config.memory == "weighted_features"
        seed = (self.task_seed * 65537 + self.step) % 2**63
        self.rows_of_pass.append(input_rows(inputs, delta, weighted, seed))

    def keep_inputs(self, gradient: Tensor) -> None:
        """Hook on the factor that reads them: the inputs of a whole pass join those of the step's other passes."""
        self.forget_if_cleared(INPUT)
        earlier = [self.seen[INPUT]] if INPUT in self.seen else []
        if self.rows_of_pass:
            self.seen[INPUT] = torch.cat([*earlier, *self.rows_of_pass])
            self.rows_of_pass.clear()

    def freeze(self) -> None:
        """Learn no more, now and in later tasks."""
        self.space.frozen = True
        for factor in self.factors().values():
            factor.requires_grad_(False)


class ProjectedLinear(nn.Module, LearnedLayer):
    r"""Linear layer in core form, y = (W + U Z V^T) x + b, of which only the core Z (k, k) is trained.

    Training Z by autograd and Adam is GORP's project, Adam, lift, since dL/dZ = U^T G V (PAPER.md, step 3). Every
    ``refresh_every`` steps U (out, k) and V (in, k) are chosen anew from the gradient of that very step, with V
    orthogonal to the layer's space S, and the old core is merged into W. Choosing happens as soon as a backward
    pass has reached Z, so that clipping sees the gradient of the new core; merging happens at the step.

    The layer's gradient G (out, in) exists within its own backward pass on a refresh step and nowhere else; only
    with ``accumulation_steps`` above 1 it is held until the step, to be summed over the passes.

    Args:
        linear: the layer to replace; its weight and bias are taken over and frozen.
        name: dotted name of the layer in the model.
        config: settings.
        space: what the layer must not overwrite.
        index: number of the layer, which with the task's seeds its start.
        task: index of the task that comes first.
    """

    U: Tensor
    V: Tensor
    start: Tensor

    def __init__(
        self, linear: nn.Linear, name: str, config: GORPConfig, space: LayerSpace, index: int, task: int
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.name, self.config, self.space, self.index = name, config, space, index
        self.weight = linear.weight.requires_grad_(False)
        self.bias = linear.bias
        keep_remainder(self)
        self.core = nn.Parameter(self._zeros(0, 0))
        for buffer in ("U", "V", "start"):
            self.register_buffer(buffer, self._zeros(0, 0))
        self._gradient: Tensor | None = None
        self._chosen: tuple[Tensor, Tensor, Tensor] | None = None
        self.seen: dict[str, Tensor] = {}
        self.rows_of_pass: list[Tensor] = []
        self.core.register_hook(self._project_core_gradient)
        self.core.register_post_accumulate_grad_hook(self._choose_projection)
        self.restart(task)

    def _zeros(self, *shape: int) -> Tensor:
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        return torch.zeros(*shape, dtype=wide, device=self.weight.device)

    @property
    def _exact(self) -> bool:
        return self.config.variant == "exact"

    # forward and backward

    @override
    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight, self.bias)
        if self.space.frozen:
            return y
        core = F.linear(F.linear(F.linear(x.to(self.V.dtype), self.V.mT), self.core), self.U)
        y = y + core.to(y.dtype)
        if self.refresh_due and torch.is_grad_enabled() and self.core.requires_grad:
            return tap(y, x, self.accumulate_gradient)
        return y

    def accumulate_gradient(self, delta: Tensor, inputs: Tensor) -> None:
        """Add delta^T x of one use of the layer in one backward pass; delta (..., out), inputs (..., in)."""
        if self._chosen is not None and self.core.grad is None:
            self._gradient = self._chosen = None  # gradients were cleared without a step
        if self._chosen is not None and self.config.accumulation_steps == 1:
            raise RuntimeError(
                f"{self.name}: a second backward pass before optimizer.step(); "
                "set accumulation_steps in GORPConfig to the number of passes per step"
            )
        wide = self.core.dtype
        gradient = delta.reshape(-1, self.out_features).to(wide).mT @ inputs.reshape(-1, self.in_features).to(wide)
        self._gradient = gradient if self._gradient is None else self._gradient + gradient

    @torch.no_grad()
    def _choose_projection(self, core: Tensor) -> None:
        """Once a backward pass has reached Z on a refresh step: new U, V from G, and Z's gradient U^T G V on them."""
        if self._gradient is None:
            return
        gradient = self._gradient
        self._chosen = self._projection_of(gradient)
        u, v, _ = self._chosen
        rows = u.mT @ gradient  # (k, in)
        core.grad = self._project_core_gradient(rows @ v)
        if self.config.memory == "sketch":
            self.seen[INPUT] = rows
        if self.config.accumulation_steps == 1:
            self._gradient = None

    def _projection_of(self, gradient: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """U, V and the next start block for a gradient G (out, in); the present ones where G has nothing to say."""
        present = (self.U, self.V, self.start)
        basis = self.space.basis.to(gradient)
        free = project_out(gradient, basis) if self._exact else gradient
        size = float(torch.linalg.vector_norm(gradient))
        room = float(torch.linalg.vector_norm(free))
        is_noise = bool(self.config.guard) and room < NOISE * size
        if not (size > 0 and size < float("inf")) or is_noise:
            self.skipped_refreshes += 1
            return present
        k = self.core.shape[0]
        u, v, start = dominant_subspace(free, self.start, k)
        if not self._exact:
            return u, v, start
        if bool(self.U.any()):
            u, v = align(u, self.U), align(v, self.V)
        else:
            u, v = (
                u @ rotation(k, 2 * self.task_seed, u.dtype).to(u),
                v @ rotation(k, 2 * self.task_seed + 1, v.dtype).to(v),
            )
        for _ in range(2):
            v = orthonormalize(project_out(v.mT, basis).mT)
        return u, v, start

    def _project_core_gradient(self, gradient: Tensor) -> Tensor:
        """The paper's P = G' - S S^T G' in core coordinates; in the exact variant V has seen to it."""
        if self._exact:
            return gradient
        return guarded(self.space.input.project(gradient.mT).mT, gradient, self.config)

    # what the optimizer asks

    @override
    def factors(self) -> dict[str, nn.Parameter]:
        return {INPUT: self.core}

    @override
    def width_of(self, side: str) -> int:
        return self.in_features if self._exact else self.core.shape[0]

    @override
    def moment_rows(self, side: str, first_moment: Tensor) -> Tensor:
        return first_moment @ self.V.mT if self._exact else first_moment.mT

    @override
    def project_step(self, side: str, direction: Tensor) -> Tensor:
        return direction

    @override
    def begin_step(self) -> None:
        if self._chosen is None:
            return
        u, v, start = self._chosen
        if u is not self.U:
            self.merge()
            # as a checkpoint will bring them back: another memory layout would round differently
            self.U, self.V, self.start = u.contiguous(), v.contiguous(), start.contiguous()

    @override
    def forget_pending(self) -> None:
        super().forget_pending()
        self._gradient = self._chosen = None

    @override
    def refresh_at(self, step: int) -> None:
        super().refresh_at(step)
        self.refresh_due = step % self.config.refresh_every == 0

    @override
    @torch.no_grad()
    def effective_weight(self) -> Tensor:
        return read_weight(self) + self.U @ self.core @ self.V.mT

    @override
    @torch.no_grad()
    def merge(self) -> None:
        write_weight(self, self.effective_weight())
        self.core.zero_()

    @override
    @torch.no_grad()
    def restart(self, task: int) -> None:
        super().restart(task)
        free = self.in_features - (self.space.input.rank if self._exact else 0)
        k = 0 if self.space.frozen else min(self.config.rank, self.out_features, free)
        if k == 0:
            self.freeze()
        q = min(k + SPARE_COLUMNS, self.in_features, self.out_features)
        self.core.grad = None
        self.core.data = self._zeros(k, k)
        self.U, self.V = self._zeros(self.out_features, k), self._zeros(self.in_features, k)
        self.start = seeded_normal(self.in_features, q, self.task_seed).to(self.U)
        self.refresh_due = True
        self.skipped_refreshes = 0

    @override
    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, rank={self.core.shape[0]}"


def guarded(free: Tensor, whole: Tensor, config: GORPConfig) -> Tensor:
    """A free gradient, or zeros where it is the round-off of a gradient that lies in the space; NaN stays NaN."""
    if not config.guard:
        return free
    signal = torch.linalg.vector_norm(free) >= NOISE * torch.linalg.vector_norm(whole)
    return free * signal
