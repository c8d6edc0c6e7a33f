"""Inputs of single layers: rows kept to measure later how a task is disturbed, and covariances of all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gorp.evaluation import evaluating

ROWS_PER_LAYER = 256


def collect_inputs(
    model: nn.Module,
    layer_names: Sequence[str],
    batches: Iterable[Mapping[str, Any]],
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

    def keep(name: str, rows: Tensor) -> None:
        positions = torch.linspace(0, len(rows) - 1, min(rows_per_batch, len(rows)), device=rows.device).round().long()
        kept[name].append(rows[positions].float().cpu())

    show_inputs(model, layer_names, batches, keep)
    return {name: torch.cat(rows)[:rows_per_layer].clone() for name, rows in kept.items() if rows}


def input_covariances(
    model: nn.Module, layer_names: Sequence[str], batches: Iterable[Mapping[str, Tensor]]
) -> dict[str, Tensor]:
    """Uncentred covariances X^T X of the inputs X, rows (n, in), of layers over all positions of some batches.

    Args:
        model, layer_names, batches: as for `collect_inputs`.

    Returns:
        Per layer (in, in), summed and not averaged, fp32 or wider, on the layer's device; a layer not called has none.
    """
    sums: dict[str, Tensor] = {}

    def add(name: str, rows: Tensor) -> None:
        wide = rows.to(torch.promote_types(rows.dtype, torch.float32))
        product = wide.mT @ wide
        sums[name] = sums[name] + product if name in sums else product

    show_inputs(model, layer_names, batches, add)
    return sums


@torch.no_grad()
def show_inputs(
    model: nn.Module,
    layer_names: Sequence[str],
    batches: Iterable[Mapping[str, Tensor]],
    see: Callable[[str, Tensor], None],
) -> None:
    """Call ``see`` with a layer's name and its inputs (n, in), for every layer and batch.

    Args:
        model, layer_names, batches: as for `collect_inputs`.
        see: called once for every use of a layer.
    """
    handles = [
        model.get_submodule(name).register_forward_pre_hook(
            lambda _, inputs, name=name: see(name, inputs[0].detach().reshape(-1, inputs[0].shape[-1]))
        )
        for name in layer_names
    ]
    try:
        with evaluating(model):
            for batch in batches:
                model(**batch)
    finally:
        for handle in handles:
            handle.remove()
