"""inc-lora: a new LoRA for every task, merged into the weights when the task ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from gorp.methods.base import Method
from gorp.methods.plain_lora import PlainLoRA

if TYPE_CHECKING:
    from gorp.tasks import Task


class IncLoRA(PlainLoRA):
    """Every task starts from fresh factors on the merged weights."""

    name = "inc-lora"
    source = "the baseline IncLoRA of Wang et al. 2023, Orthogonal Subspace Learning (EMNLP)"
    keeps = "nothing; each task's factors are merged into the weights"
    costs = "LoRA's"

    def end_task(self, task: Task, index: int) -> None:
        """Merge the task's factors and start them anew."""
        self.merge()

    def weights(self) -> dict[str, Tensor]:
        """The factors, and the weights that earlier ones were merged into."""
        return Method.weights(self)
