"""n-lora: a new LoRA for every task whose update is kept sparse, so that the updates of tasks seldom collide."""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor

from gorp._injection import ADAPTER
from gorp._precision import without_autocast
from gorp.encoding import Batch
from gorp.methods.base import MethodOptions
from gorp.methods.inc_lora import IncLoRA


class NLoRA(IncLoRA):
    """Yang et al. 2025: the L1 norm of what a task adds to the weights, whatever the shape of the layer.

    Their scripts weigh it by 0.4. On the sum over all entries of all layers, as here, that drowns the task's own loss:
    on the built-in model and stream nothing is learnt. The default lets tasks be learnt there; tune it.
    """

    name = "n-lora"
    source = "Yang et al. 2025, Is Parameter Collision Hindering Continual Learning in LLMs? (COLING)"
    keeps = "nothing; each task's sparse update is merged into the weights"
    costs = "LoRA's, and for the penalty a matrix of the size of each layer's weight a step"

    class Options(MethodOptions):
        """Weight of the penalty."""

        sparsity: float = Field(
            1e-5, ge=0, description="weight of the sum of absolute values of the task's weight change"
        )

    @without_autocast
    def penalty(self, batch: Batch, logits: Tensor) -> Tensor:
        """Sparsity * sum over layers of ||(alpha / rank) B A||_1."""
        total = logits.new_zeros((), dtype=torch.float32)
        for layer in self._layers.values():
            A, B = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight
            total = total + (layer.scaling[ADAPTER] * (B @ A)).abs().sum()
        return self.options.sparsity * total
