"""inc-lora: a new LoRA for every task, merged into the weights when the task ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from gorp._weights import keep_remainder
from gorp.methods.base import Method
from gorp.methods.plain_lora import PlainLoRA
from gorp.space import GradientSpace
from gorp.targets import check_untied

if TYPE_CHECKING:
    from gorp.tasks import Task


class IncLoRA(PlainLoRA):
    """Every task starts from fresh factors on the merged weights."""

    name = "inc-lora"
    source = "the baseline IncLoRA of Wang et al. 2023, Orthogonal Subspace Learning (EMNLP)"
    keeps = "nothing; each task's factors are merged into the weights"
    costs = "LoRA's"

    def targets(self, model: nn.Module) -> list[str]:
        """As for LoRA, none of them tied to another, which a merge would change."""
        names = super().targets(model)
        check_untied(model, names)
        return names

    def attach(self, model: nn.Module, space: GradientSpace | None = None) -> None:
        """As for LoRA; with each bf16 weight goes what rounding drops, for every task is merged into it."""
        super().attach(model, space)
        for layer in self._layers.values():
            keep_remainder(layer.get_base_layer())

    def end_task(self, task: Task, index: int) -> None:
        """Merge the task's factors and start them anew."""
        self.merge()

    def weights(self) -> dict[str, Tensor]:
        """The factors, and the weights that earlier ones were merged into."""
        return Method.weights(self)
