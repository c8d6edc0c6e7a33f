"""galore: full fine-tuning of linear layers whose gradients are projected to a small rank for Adam."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn

from gorp.errors import InputError
from gorp.methods.base import Method, MethodOptions
from gorp.space import GradientSpace
from gorp.targets import block_layers, check_untied, find_layers


class GaLore(Method):
    """Zhao et al. 2024 by the released package, galore-torch: one task after the other, at ``training.lr``.

    Only the targets learn; embeddings, norms, biases and heads, which the paper trains by Adam beside them, stay
    frozen as in the other methods. Every task begins with new projections and moments. The model is held in fp32, since
    steps that small get lost in bf16.
    """

    name = "galore"
    source = "Zhao et al. 2024, GaLore: Memory-Efficient LLM Training by Gradient Low-Rank Projection (ICML)"
    keeps = "nothing"
    costs = "a gradient for every weight, moments of the rank alone, an SVD of each gradient now and then"

    class Options(MethodOptions):
        """Names in the package: ``refresh_every`` is update_proj_gap."""

        targets: list[str] | None = Field(
            None,
            min_length=1,
            description="layers that learn; every linear layer of the blocks, attention and MLP, if not given",
        )
        rank: int = Field(
            8, ge=1, description="rank that gradients are projected to; a smaller layer's own size caps it"
        )
        refresh_every: int = Field(
            200, ge=1, description="steps between new projections, each by an SVD of the gradient"
        )
        scale: float = Field(0.25, gt=0, description="factor on the step that is projected back")

    def attach(self, model: nn.Module, space: GradientSpace | None = None) -> None:
        """Let the targets' weights learn, in fp32.

        Raises:
            InputError: the package is not installed, or a target matches no layer.
        """
        try:
            from gorp.methods._galore_optimizer import ResumableGaLoreAdamW
        except ImportError as error:
            raise InputError(f"method 'galore' needs galore-torch ({error}): pip install gorp-cl[galore]") from None
        self._optimizer_class = ResumableGaLoreAdamW
        targets, key = self.options.targets, "options.targets"
        names = find_layers(model, targets, key) if targets else block_layers(model, key)
        check_untied(model, names)
        self.model = model.float().requires_grad_(False)
        self._layers = {name: cast(nn.Linear, model.get_submodule(name)) for name in names}
        for layer in self._layers.values():
            layer.weight.requires_grad_(True)

    def layer_names(self) -> Sequence[str]:
        """The targets, in the order of the model."""
        return list(self._layers)

    def effective_weights(self) -> dict[str, Tensor]:
        """The weights themselves."""
        return {name: layer.weight.detach().clone() for name, layer in self._layers.items()}

    def optimizer(self) -> torch.optim.Optimizer:
        """The package's AdamW, all targets in one group."""
        training, options = self.config.training, self.options
        group = {
            "params": [layer.weight for layer in self._layers.values()],
            "rank": options.rank,
            "update_proj_gap": options.refresh_every,
            "scale": options.scale,
            "proj_type": "std",
        }
        return self._optimizer_class(
            [group], lr=training.lr, weight_decay=training.weight_decay, no_deprecation_warning=True
        )
