"""LoRA layers under GORP: peft's factors B A, started and moved in what the spaces leave free."""

from __future__ import annotations

import math
from typing import cast

import torch
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from typing_extensions import override

from gorp._injection import ADAPTER
from gorp._linalg import seeded_normal
from gorp._precision import without_autocast
from gorp._weights import HasWeight, keep_remainder
from gorp.config import GORPConfig
from gorp.learned_layer import LearnedLayer, guarded
from gorp.space import INPUT, OUTPUT, LayerSpace


class LoRALayer(LearnedLayer):
    """W + c B A with A (r, in), B (out, r), c = alpha / r, held by a peft layer.

    With S the input and R the output space, exact: A starts in the complement of S and B at 0; gradients are
    projected as they arrive, so clipping and Adam see what is left, and Adam's directions once more. Hence
    (B A) S = 0 and R^T (B A) = 0 always. In the paper: one space on the left of either factor,
    gradients alone are projected.

    Args:
        module: peft's layer, already in the model.
        name: dotted name of the layer in the model.
        config: settings.
        space: what the layer must not overwrite.
        index: number of the layer, which with the task's seeds its start.
        task: index of the task that comes first.
    """

    def __init__(
        self, module: PeftLinear, name: str, config: GORPConfig, space: LayerSpace, index: int, task: int
    ) -> None:
        self.module, self.name, self.config, self.space, self.index = module, name, config, space, index
        self.base = cast(nn.Linear, module.get_base_layer())
        self.A = cast(nn.Parameter, module.lora_A[ADAPTER].weight)  # (r, in)
        self.B = cast(nn.Parameter, module.lora_B[ADAPTER].weight)  # (out, r)
        self.scaling = float(module.scaling[ADAPTER])
        keep_remainder(self.base)
        for side, factor in self.factors().items():
            factor.register_hook(lambda gradient, side=side: self._receive(side, gradient))
        self.seen: dict[str, Tensor] = {}
        self.rows_of_pass: list[Tensor] = []
        self.restart(task)

    def _as_rows(self, side: str, factor: Tensor) -> Tensor:
        """A factor-shaped tensor as rows in the space of its side: A is (r, in) as it is, B (out, r) is turned."""
        flip = (side == OUTPUT) if self.config.variant == "exact" else True
        return factor.mT if flip else factor

    def _project(self, side: str, factor: Tensor) -> Tensor:
        space = self.space.side(side)
        if space is None or not space.rank:
            return factor
        return self._as_rows(side, space.project(self._as_rows(side, factor)))

    @without_autocast
    def _receive(self, side: str, gradient: Tensor) -> Tensor:
        """Hook on a factor: remember the gradient as it came, pass on what the space leaves of it."""
        if self.remembers_gradients(side) and self.space.side(side) is not None:
            self.forget_if_cleared(side)
            rows = self._as_rows(side, gradient.detach())
            self.seen[side] = self.seen[side] + rows if side in self.seen else rows.clone()
        free = guarded(self._project(side, gradient), gradient, self.config)
        if self.tally is not None:
            self.tally.count_gradient(free, gradient)
        return free

    @override
    def factors(self) -> dict[str, nn.Parameter]:
        return {INPUT: self.A, OUTPUT: self.B}

    @override
    def width_of(self, side: str) -> int:
        return self._as_rows(side, self.factors()[side]).shape[1]

    @override
    def moment_rows(self, side: str, first_moment: Tensor) -> Tensor:
        return self._as_rows(side, first_moment)

    @override
    def project_step(self, side: str, direction: Tensor) -> Tensor:
        return self._project(side, direction) if self.config.project_step else direction

    @property
    @override
    def holder(self) -> HasWeight:
        return self.base

    @override
    def change(self) -> tuple[Tensor, Tensor]:
        return self.scaling * self.B, self.A

    @override
    def clear_change(self) -> None:
        self.B.zero_()

    @override
    @torch.no_grad()
    def restart(self, task: int) -> None:
        super().restart(task)
        r, width = self.A.shape
        start = _kaiming(r, width, self.task_seed).to(self.A)
        if self.config.null_space_start and self.config.variant == "exact":
            start = _null_space_start(start, self.space)
        self.A.copy_(start)
        self.clear_change()
        if self.space.frozen or not bool(self.A.any()):
            self.freeze()


def _kaiming(rows: int, width: int, seed: int) -> Tensor:
    """peft's start of A: entries of standard deviation 1 / sqrt(3 in), here normal and from a seed of its own."""
    return seeded_normal(rows, width, seed) / math.sqrt(3 * width)


def _null_space_start(start: Tensor, space: LayerSpace) -> Tensor:
    """A0 (I - S S^T), rescaled to the norm of A0; zeros where S holds everything."""
    if space.input.rank >= space.input.width:
        return torch.zeros_like(start)
    norm = torch.linalg.vector_norm(start)
    free = space.input.project(space.input.project(start.double()))
    return (free * (norm / torch.linalg.vector_norm(free))).to(start)
