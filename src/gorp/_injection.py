"""peft's LoRA factors, put beside layers of a model in place, whatever form those are held in."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from gorp._quantized import StackedLinear, is_quantized, ready_to_learn

ADAPTER = "default"
"""peft's name of the factors."""


def inject_lora(model: nn.Module, names: Sequence[str], rank: int, alpha: float, dropout: float) -> dict[str, Any]:
    """Put factors on layers of a model, in place, and freeze everything else.

    Args:
        model: the base model.
        names: dotted names of linear layers.
        rank: r of the factors A (r, in) and B (out, r), which are fp32 or wider.
        alpha: scale times rank, W + (alpha / rank) B A.
        dropout: on the input of A.

    Returns:
        peft's layers by name. What tasks merge into a quantised one is stacked beside it (`StackedLinear`).
    """
    settings = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # type: ignore[arg-type]  # peft takes any number
        lora_dropout=dropout,
        target_modules=list(names),
    )
    ready_to_learn(model)
    inject_adapter_in_model(settings, model, ADAPTER)
    model.requires_grad_(False)
    layers: dict[str, Any] = {name: model.get_submodule(name) for name in names}
    for layer in layers.values():
        wide = torch.promote_types(layer.base_layer.weight.dtype, torch.float32)
        for factor in (layer.lora_A[ADAPTER], layer.lora_B[ADAPTER]):
            factor.to(wide).requires_grad_(True)
        if is_quantized(layer.base_layer):
            layer.base_layer = StackedLinear(layer.base_layer)
    return layers


def holder(module: nn.Module) -> Any:
    """The module whose weight a layer that learns changes: peft's base layer, or the module itself."""
    return getattr(module, "base_layer", module)
