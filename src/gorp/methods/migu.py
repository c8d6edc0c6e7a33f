"""migu: one LoRA for all tasks, of which in each step only the units with the largest outputs learn."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from gorp._injection import ADAPTER
from gorp._ranks import mean_over_ranks
from gorp.encoding import Batch
from gorp.methods.base import MethodOptions
from gorp.methods.seq_lora import SeqLoRA
from gorp.space import GradientSpace

if TYPE_CHECKING:
    from gorp.tasks import Task


class MIGU(SeqLoRA):
    """Du et al. 2024: masks on the gradients of A's rows and of B's rows, by the sizes of their own outputs.

    As in the released code, the first task is learnt by all units, the mask is that of the whole batch of a step, and
    gradients alone are masked, before they are clipped: a unit left out still moves by AdamW's momentum. A token's
    outputs are made to sum to 1 before they are added up, as in the paper; the code adds them as they are. It can also
    mask B by the output of the whole layer, and clusters of units together; here each unit stands for itself. Units of
    equal size at the threshold all learn, so that a B of zeros can.
    """

    name = "migu"
    source = "Du et al. 2024, Unlocking Continual Learning Abilities in Language Models (EMNLP Findings)"
    keeps = "nothing; which units learn is read off the batch at hand"
    costs = "LoRA's, and a second copy of its gradients"

    class Options(MethodOptions):
        """How many units learn."""

        threshold: float = Field(
            0.7, ge=0, lt=1, description="share of the units of A, and of B, that stay out of a step"
        )

    def attach(self, model: nn.Module, space: GradientSpace | None = None) -> None:
        """As for LoRA, every factor watched by a mask of its own."""
        super().attach(model, space)
        self._masks = [
            OutputMask(factor, self.options.threshold)
            for layer in self._layers.values()
            for factor in (layer.lora_A[ADAPTER], layer.lora_B[ADAPTER])
        ]

    def begin_task(self, task: Task, index: int) -> None:
        """Masks are off in the first task."""
        for mask in self._masks:
            mask.is_on = index > 0

    def prepare(self, batch: Batch) -> Batch:
        """Where no gradient is held yet a new step begins: outputs of the last one no longer count."""
        for mask in self._masks:
            if mask.factor.weight.grad is None:
                mask.forget()
        return batch


class OutputMask:
    """Zeroes the gradient rows of a factor's units whose outputs are small over all passes of a step.

    Args:
        factor: linear, without bias; its weight (units, in) gets hooks.
        threshold: share of the units left out.
    """

    def __init__(self, factor: nn.Linear, threshold: float) -> None:
        self.factor, self.threshold, self.is_on = factor, threshold, False
        self.forget()
        factor.register_forward_hook(self._see)
        factor.weight.register_hook(self._add)
        factor.weight.register_post_accumulate_grad_hook(self._mask)

    def forget(self) -> None:
        """Begin a new step."""
        self._sizes: Tensor | float = 0.0  # (units,) summed over tokens
        self._gradient: Tensor | float = 0.0  # (units, in) summed over passes, unmasked

    def _see(self, factor: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if self.is_on and factor.training:
            self._sizes = self._sizes + unit_sizes(output.detach())

    def _add(self, gradient: Tensor) -> None:
        if self.is_on:
            self._gradient = self._gradient + gradient.detach()

    def _mask(self, weight: Tensor) -> None:
        if self.is_on and isinstance(self._sizes, Tensor):
            (sizes,) = mean_over_ranks([self._sizes])
            weight.grad = self._gradient * large_units(sizes, self.threshold)[:, None]


def unit_sizes(outputs: Tensor) -> Tensor:
    """Absolute outputs (..., units), made to sum to 1 for each token, summed over tokens: (units,), fp32.

    Padding counts as any token, as in the released code.
    """
    return F.normalize(outputs.float().abs().flatten(0, -2), p=1, dim=-1).sum(dim=0)


def large_units(sizes: Tensor, threshold: float) -> Tensor:
    """Which units (units,) reach the quantile ``threshold`` of sizes."""
    return sizes >= torch.quantile(sizes, threshold)
