"""o-lora: a new LoRA for every task, kept away from the input directions of all earlier ones by a penalty."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor, nn

from gorp._injection import ADAPTER
from gorp._precision import without_autocast
from gorp.encoding import Batch
from gorp.methods.base import MethodOptions
from gorp.methods.inc_lora import IncLoRA
from gorp.space import GradientSpace

if TYPE_CHECKING:
    from gorp.tasks import Task


class OLoRA(IncLoRA):
    """Wang et al. 2023, with the penalties of their released code.

    Earlier factors stay frozen on top of W there; here they are merged into W when their task ends, which is the same
    function, and their A's are kept for the penalty. The paper's Eq. 7 sums squares of A_t A_i^T, the code absolute
    values; taken is the code's, to which the published weight of 0.5 belongs. So too for ``l2``: norms, not squares.
    """

    name = "o-lora"
    source = "Wang et al. 2023, Orthogonal Subspace Learning for Language Model Continual Learning (EMNLP Findings)"
    keeps = "the A of every earlier task, for the penalty; their updates are merged into the weights"
    costs = "LoRA's, and a product of A with all earlier A's a step; what is kept grows by A's size each task"

    class Options(MethodOptions):
        """Weights of the two penalties."""

        orthogonality: float = Field(0.5, ge=0, description="weight of the overlap of A with the A of earlier tasks")
        l2: float = Field(0.0, ge=0, description="weight of the norms of the task's own A and B")

    def attach(self, model: nn.Module, space: GradientSpace | None = None) -> None:
        """As for LoRA, with no earlier task."""
        super().attach(model, space)
        self.earlier_A = {  # (tasks * rank, in) a layer
            name: layer.lora_A[ADAPTER].weight.detach()[:0].clone() for name, layer in self._layers.items()
        }

    @without_autocast
    def penalty(self, batch: Batch, logits: Tensor) -> Tensor:
        """Orthogonality * sum of |A A_i^T| over layers and earlier tasks i, plus l2 * (||A|| + ||B||) over layers."""
        total = logits.new_zeros((), dtype=torch.float32)
        for name, layer in self._layers.items():
            A, B = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
            total = total + self.options.orthogonality * overlap(A, self.earlier_A[name])
            total = total + self.options.l2 * (torch.linalg.vector_norm(A) + torch.linalg.vector_norm(B))
        return total

    def end_task(self, task: Task, index: int) -> None:
        """Keep the task's A's, then merge."""
        for name, layer in self._layers.items():
            self.earlier_A[name] = torch.cat([self.earlier_A[name], layer.lora_A[ADAPTER].weight.detach()])
        super().end_task(task, index)

    def state(self) -> dict[str, Tensor]:
        """``<layer>.earlier_A`` (tasks * rank, in)."""
        return {f"{name}.earlier_A": value for name, value in self.earlier_A.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put the earlier A's back."""
        self.earlier_A = {
            name: state[f"{name}.earlier_A"].to(earlier.device) for name, earlier in self.earlier_A.items()
        }


def overlap(A: Tensor, earlier: Tensor) -> Tensor:
    """Sum of |A E^T| over all pairs of rows of A (r, in) and of the earlier factors E (n, in); 0 if there are none."""
    return (A @ earlier.mT).abs().sum()
