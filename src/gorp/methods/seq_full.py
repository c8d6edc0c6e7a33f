"""seq-full: every parameter of the model learns task after task, with nothing to protect what it learnt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn

from gorp.methods.base import Method
from gorp.space import GradientSpace
from gorp.targets import linear_names


class SeqFull(Method):
    """AdamW on all parameters, at ``training.lr``.

    Parameters are held in fp32 whatever they were loaded in, since steps that small get lost in bf16; autocast
    (``training.precision: bf16``) is the way to compute faster.
    """

    name = "seq-full"
    source = "full fine-tuning on one task after the other, the SeqFT of the literature"
    keeps = "nothing"
    costs = "a gradient and two moments for every parameter, all in fp32; a checkpoint is a whole model"

    def attach(self, model: nn.Module, space: GradientSpace | None = None) -> None:
        """Let everything learn, in fp32."""
        self.model = model.float().requires_grad_(True)
        self._layers = linear_names(model)

    def layer_names(self) -> Sequence[str]:
        """All linear layers, in the order of the model; embeddings, norms and biases learn, too."""
        return self._layers

    def effective_weights(self) -> dict[str, Tensor]:
        """The weights themselves."""
        layers = {name: cast(nn.Linear, self.model.get_submodule(name)) for name in self._layers}
        return {name: layer.weight.detach().clone() for name, layer in layers.items()}

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW over all parameters; one that is tied to another counts once."""
        training = self.config.training
        return torch.optim.AdamW(self.model.parameters(), lr=training.lr, weight_decay=training.weight_decay)

    def weights(self) -> dict[str, Tensor]:
        """The whole model; a tied weight under each of its names."""
        return dict(self.model.state_dict())
