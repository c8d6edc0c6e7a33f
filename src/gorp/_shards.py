"""Tensors of which each rank has some rows, as torch's FSDP2 spreads them; a tensor that is whole is all own rows."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gorp._ranks import rank, ranks, rows_of_ranks


def is_spread(tensor: Tensor) -> bool:
    """Whether this rank has some rows of a tensor only."""
    return hasattr(tensor, "to_local")


def has_spread(model: nn.Module) -> bool:
    """Whether this rank has some rows only of a model's weights."""
    return any(is_spread(parameter) for parameter in model.parameters())


def own_part(tensor: Tensor) -> Tensor:
    """The rows (n, ...) of a tensor that this rank has, which may be changed in place; all of one that is whole."""
    return tensor.to_local() if is_spread(tensor) else tensor  # type: ignore[attr-defined]


def own_rows(tensor: Tensor) -> slice:
    """Which rows of the whole those are."""
    if not is_spread(tensor):
        return slice(None)
    each = -(-len(tensor) // ranks())
    return slice(rank() * each, (rank() + 1) * each)


def gathered(part: Tensor, like: Tensor) -> Tensor:
    """The whole (rows, width) of what each rank has `own_rows` of ``like`` of."""
    return torch.cat(rows_of_ranks(part)) if is_spread(like) else part


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor, on every rank; of one that is spread, in its main memory."""
    if not is_spread(tensor):
        return tensor
    # As bytes, for no backend has messages of int16. Not by full_tensor(), whose message goes on beside what follows:
    # with gloo, once in some seventy runs of two ranks on busy processors, it never came to an end.
    rows = own_part(tensor).reshape(-1, math.prod(tensor.shape[1:]))
    return torch.cat(rows_of_ranks(rows.view(torch.uint8))).view(tensor.dtype).reshape(tensor.shape).cpu()


def load_whole(model: nn.Module, tensors: Mapping[str, Tensor]) -> list[str]:
    """Put whole tensors into a model by name, of spread ones this rank's rows; returns the names it does not have."""
    spread = {name: tensor for name, tensor in model.state_dict().items() if name in tensors and is_spread(tensor)}
    for name, tensor in spread.items():
        own_part(tensor).copy_(tensors[name][own_rows(tensor)])
    rest = {name: value for name, value in tensors.items() if name not in spread}
    return list(model.load_state_dict(rest, strict=False).unexpected_keys)


def spread_like(own: Tensor, weight: Tensor) -> Tensor:
    """The tensor of which each rank has these rows, `own_rows` of ``weight``."""
    from torch.distributed.tensor import DTensor

    assert isinstance(weight, DTensor)
    return DTensor.from_local(
        own, weight.device_mesh, weight.placements, run_check=False, shape=weight.shape, stride=weight.stride()
    )
