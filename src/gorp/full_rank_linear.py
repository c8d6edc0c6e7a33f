"""Full-rank layers, of which a small core learns at a time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from gorp._weights import HasWeight, keep_remainder
from gorp.config import GORPConfig
from gorp.learned_layer import LearnedLayer
from gorp.space import INPUT, LayerSpace


class FullRankLinear(nn.Module, LearnedLayer):
    """Linear layer W x + b all of whose directions may learn within a task, k of them at a time.

    Trained is a core Z, which reads V^T x; V (in, k) has orthonormal columns, orthogonal to the layer's space S, so
    that no step of Z is felt there. Every ``refresh_every`` steps Z is merged into W and V chosen anew: in all layers
    at once, or with ``stagger_refresh`` by turns, a T-th of them at a step.

    Args:
        linear: the layer to replace; its weight and bias are taken over and frozen.
        name: dotted name of the layer in the model.
        config: settings.
        space: what the layer must not overwrite.
        index: number of the layer, which with the task's seeds its start.
        task: index of the task that comes first.
    """

    V: Tensor

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
        self.register_buffer("V", self._zeros(0, 0))
        self.seen: dict[str, Tensor] = {}
        self.rows_of_pass: list[Tensor] = []
        self.register_load_state_dict_pre_hook(_make_room)  # type: ignore[no-untyped-call]  # torch
        self.prepare()
        self.restart(task)

    def prepare(self) -> None:
        """Buffers and hooks of the form, once, before the first task."""

    def refreshes_at(self, step: int) -> bool:
        """Whether V is chosen anew for the step after so many; staggered, layers take turns once the task has begun."""
        turn = self.index if self.config.stagger_refresh else 0
        return step == 0 or (step + turn) % self.config.refresh_every == 0

    @abstractmethod
    def core_rows(self, k: int) -> int:
        """Rows of Z where V has k columns."""

    @abstractmethod
    def lift(self, core_output: Tensor) -> Tensor:
        """What Z V^T x (..., rows of Z) is at the layer's output, (..., out)."""

    def _zeros(self, *shape: int) -> Tensor:
        wide = torch.promote_types(self.weight.dtype, torch.float32)
        return torch.zeros(*shape, dtype=wide, device=self.weight.device)

    @override
    def forward(self, x: Tensor) -> Tensor:
        y = F.linear(x, self.weight, self.bias)
        if self.space.frozen:
            return y
        core = self.lift(F.linear(F.linear(x.to(self.V.dtype), self.V.mT), self.core))
        return y + core.to(y.dtype)

    @override
    def factors(self) -> dict[str, nn.Parameter]:
        return {INPUT: self.core}

    @override
    def project_step(self, side: str, direction: Tensor) -> Tensor:
        return direction

    @property
    @override
    def holder(self) -> HasWeight:
        return self

    @override
    def clear_change(self) -> None:
        self.core.zero_()

    @override
    @torch.no_grad()
    def restart(self, task: int) -> None:
        """k is the rank, or what is free if that is less; at 0 the layer freezes."""
        super().restart(task)
        free = self.in_features - (self.space.input.rank if self.config.variant == "exact" else 0)
        k = 0 if self.space.frozen else min(self.config.rank, self.out_features, free)
        if k == 0:
            self.freeze()
        self.core.grad = None
        self.make_room(k)

    def make_room(self, k: int) -> None:
        """Have factors of k directions, all zero."""
        self.core.data = self._zeros(self.core_rows(k), k)
        self.V = self._zeros(self.in_features, k)

    @override
    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, rank={self.V.shape[1]}"


def _make_room(module: FullRankLinear, state: Mapping[str, Tensor], prefix: str, *_: Any) -> None:
    """A saved layer may have learnt in more directions, or fewer: its space was another then."""
    saved = state.get(f"{prefix}V")
    if saved is not None and saved.ndim == 2 and saved.shape[1] != module.V.shape[1]:
        module.make_room(saved.shape[1])
