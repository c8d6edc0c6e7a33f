"""Held-out inputs of single layers: what a layer sees on a task, kept to measure later how that task is disturbed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor, nn

ROWS_PER_LAYER = 256


@torch.inference_mode()
def collect_inputs(
    model: nn.Module,
    layer_names: Sequence[str],
    batches: Iterable[Mapping[str, Tensor]],
    rows_per_batch: int = 8,
    rows_per_layer: int = ROWS_PER_LAYER,
) -> dict[str, Tensor]:
    """Inputs of layers on some batches, evenly spread over the positions.

    Args:
        model: called as ``model(**batch)`` for its layers' inputs alone, in evaluation mode.
        layer_names: dotted names.
        batches: without padding, hence best of a single row.
        rows_per_batch: positions kept of each batch and layer.
        rows_per_layer: most rows kept of a layer.

    Returns:
        Per layer (n, in), fp32, on the CPU, n at most ``rows_per_layer``.
    """
    kept: dict[str, list[Tensor]] = {name: [] for name in layer_names}

    def keep(name: str, inputs: Tensor) -> None:
        rows = inputs.detach().reshape(-1, inputs.shape[-1])
        positions = torch.linspace(0, len(rows) - 1, min(rows_per_batch, len(rows)), device=rows.device).round().long()
        kept[name].append(rows[positions].float().cpu())

    handles = [
        model.get_submodule(name).register_forward_pre_hook(lambda _, inputs, name=name: keep(name, inputs[0]))
        for name in layer_names
    ]
    was_training = model.training
    model.train(False)
    try:
        for batch in batches:
            model(**batch, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
        model.train(was_training)
    return {name: torch.cat(rows)[:rows_per_layer].clone() for name, rows in kept.items() if rows}
