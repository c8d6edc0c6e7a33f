"""zero-shot: the base model as it is, the floor that every method is measured against."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gorp.methods.base import Method
from gorp.space import GradientSpace

if TYPE_CHECKING:
    from gorp.tasks import Example, Task


class ZeroShot(Method):
    """Learns nothing: one stage without a step, in which the base model is scored."""

    name = "zero-shot"
    source = "the floor: the base model, not trained at all"
    keeps = "nothing"
    costs = "nothing but the evaluation"
    learns_jointly = True
    on_quantized = True

    def attach(self, model: nn.Module, space: GradientSpace | None = None) -> None:
        """Freeze everything."""
        self.model = model.requires_grad_(False)

    def layer_names(self) -> Sequence[str]:
        """None."""
        return ()

    def effective_weights(self) -> dict[str, Tensor]:
        """None."""
        return {}

    def optimizer(self) -> torch.optim.Optimizer:
        """An optimizer of a single frozen number, as none can be made of nothing."""
        return torch.optim.SGD([nn.Parameter(torch.zeros(()), requires_grad=False)])

    def training_rows(self, task: Task, index: int) -> Sequence[Example]:
        """None."""
        return ()
