"""LoRA without protection, the ground of the plain methods: one pair of factors per layer, learnt by AdamW."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from gorp._injection import ADAPTER, inject_lora
from gorp._weights import add_product, read_weight
from gorp.backbones import default_targets
from gorp.errors import InputError
from gorp.methods.base import Method
from gorp.space import GradientSpace
from gorp.targets import check_dtype, find_layers


class PlainLoRA(Method):
    """W + (alpha / rank) B A on every target layer; a subclass says what happens between tasks."""

    on_quantized = True
    _layers: dict[str, Any]  # peft's layers

    def attach(self, model: nn.Module, space: GradientSpace | None = None) -> None:
        """Inject the factors into the target layers and freeze everything else."""
        lora = self.config.lora
        self._layers = inject_lora(model, self.targets(model), lora.rank, lora.alpha, lora.dropout)
        self.model = model

    def targets(self, model: nn.Module) -> list[str]:
        """Dotted names of the layers that are to learn.

        Raises:
            InputError: the configured ones do not fit the model.
        """
        lora = self.config.lora
        names = find_layers(model, lora.targets or default_targets(model)[0], "lora.targets")
        for name in names:
            linear = cast(nn.Linear, model.get_submodule(name))
            check_dtype(name, linear)
            _check_rank(name, linear, lora.rank)
        return names

    def layer_names(self) -> Sequence[str]:
        """The targets, in the order of the model."""
        return list(self._layers)

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW over all factors."""
        training = self.config.training
        factors = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return torch.optim.AdamW([{"params": factors}], lr=training.lr, weight_decay=training.weight_decay)

    def effective_weights(self) -> dict[str, Tensor]:
        """W + (alpha / rank) B A."""
        return {
            name: torch.addmm(read_weight(layer.get_base_layer()), *_change(layer)).cpu()
            for name, layer in self._layers.items()
        }

    def weights(self) -> dict[str, Tensor]:
        """The factors alone: without a merge nothing else changes."""
        return {name: value for name, value in super().weights().items() if ".lora_" in name}

    def merge(self) -> None:
        """W += (alpha / rank) B A, then start the factors anew: A at random, B = 0."""
        for layer in self._layers.values():
            add_product(layer.get_base_layer(), *_change(layer))
            layer.reset_lora_parameters(ADAPTER, init_lora_weights=True)


def _check_rank(name: str, layer: nn.Linear, rank: int) -> None:
    most = min(layer.in_features, layer.out_features)
    if rank > most:
        raise InputError(f"lora.rank: {rank} is above the size of layer {name}; accepted: 1 to {most}")


@torch.no_grad()
def _change(layer: Any) -> tuple[Tensor, Tensor]:
    """The factors of (alpha / rank) B A, (out, r) and (r, in), fp32."""
    return layer.scaling[ADAPTER] * layer.lora_B[ADAPTER].weight, layer.lora_A[ADAPTER].weight.detach()
