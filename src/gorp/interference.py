"""What a task did to the earlier ones, measured from weights alone: leak, drift and coverage per layer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from gorp._injection import holder
from gorp._shards import whole
from gorp.report.record import LayerMeter
from gorp.space import GradientSpace

RELATIVE_BOUND = 1e-5
ROUNDING_BOUND = 4 * torch.finfo(torch.float32).eps


def leak(change: Tensor, basis: Tensor) -> float:
    """||D S||, the part of a weight change D (out, in) that acts on protected directions S (in, s); in fp64."""
    return float(torch.linalg.vector_norm(change.double() @ basis.to(change.device).double()))


def leak_bound(change: Tensor, weight: Tensor) -> float:
    """1e-5 ||D|| + 4 eps ||W||: what round-off of fp32 arithmetic may leave of an exact projection."""
    return RELATIVE_BOUND * _norm(change) + ROUNDING_BOUND * _norm(weight)


def drift(change: Tensor, inputs: Tensor) -> float:
    """||D X|| / (||D|| ||X||) for held-out inputs X, rows (n, in): 0 is undisturbed, 1 the worst that D could do."""
    scale = _norm(change) * _norm(inputs)
    return _norm(inputs.double() @ change.double().mT) / scale if scale else 0.0


def coverage(inputs: Tensor, basis: Tensor) -> float:
    """Share of the energy of inputs X, rows (n, in), that lies in S (in, s), 0 to 1."""
    total = _norm(inputs) ** 2
    return _norm(inputs.double() @ basis.double()) ** 2 / total if total else 0.0


def kept_directions(space: GradientSpace | None) -> dict[str, Tensor]:
    """Per layer the columns (width, rank) that are protected now, a copy."""
    return {name: layer.basis.clone() for name, layer in space.layers.items()} if space else {}


def stored_weights(model: nn.Module, layer_names: Sequence[str]) -> dict[str, Tensor]:
    """Weights (out, in) in fp64 as they are stored, of the layers where that is coarser than what is computed with."""
    modules = {name: model.get_submodule(name) for name in layer_names}
    weights: dict[str, Tensor] = {name: holder(module).weight for name, module in modules.items()}
    return {
        name: whole(weight.detach()).cpu().double()
        for name, weight in weights.items()
        if weight.dtype is torch.bfloat16
    }


def measure(
    before: Mapping[str, Tensor],
    after: Mapping[str, Tensor],
    kept: Mapping[str, Tensor],
    space: GradientSpace | None,
    inputs: Mapping[str, Mapping[str, Tensor]],
    stored: Mapping[str, Tensor] | None = None,
) -> dict[str, LayerMeter]:
    """One meter per layer for the task just learned.

    Args:
        before, after: effective weights (out, in) at the start and end of the task.
        kept: columns S (in, s) that were in force during the task; empty for a method that protects nothing.
        space: the gradient space as it is now.
        inputs: per earlier task and layer, held-out inputs (n, in).
        stored: change of the weights as they are stored, of the layers where that is coarser than ``after - before``.
    """
    return {
        name: _meter(
            name,
            after[name].double().cpu() - start.double().cpu(),
            start.cpu(),
            kept.get(name),
            space,
            {task: layers[name] for task, layers in inputs.items() if name in layers},
            (stored or {}).get(name),
        )
        for name, start in before.items()
    }


def _meter(
    name: str,
    change: Tensor,
    weight: Tensor,
    basis: Tensor | None,
    space: GradientSpace | None,
    inputs: Mapping[str, Tensor],
    stored: Tensor | None,
) -> LayerMeter:
    meter = LayerMeter(width=weight.shape[1], drift={task: drift(change, x) for task, x in inputs.items()})
    if basis is not None and basis.shape[0] == weight.shape[1]:  # the paper's S lives in other coordinates
        basis = basis.cpu()
        meter.coverage = {task: coverage(x, basis) for task, x in inputs.items()}
        if basis.shape[1]:
            meter.leak = leak(change, basis)
            meter.leak_bound = leak_bound(change, weight)
            meter.stored_leak = meter.leak if stored is None else leak(stored.cpu(), basis)
    if space is not None and name in space.layers:
        layer = space.layers[name]
        meter.rank, meter.width, meter.cap = layer.input.rank, layer.input.width, space.cap(layer.input)
        meter.frozen = layer.frozen
        if layer.output is not None:
            meter.output_rank, meter.output_width = layer.output.rank, layer.output.width
    return meter


def _norm(tensor: Tensor) -> float:
    return float(torch.linalg.vector_norm(tensor.double()))
