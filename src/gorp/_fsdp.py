"""Spreading a model's weights over ranks by torch's FSDP2; what learns and what protects stays whole on every rank."""

from __future__ import annotations

import inspect
from collections.abc import Set
from typing import Any, cast

import torch
from torch import Tensor, nn

from gorp._ranks import ranks
from gorp._rounding import REMAINDER
from gorp._shards import own_rows, spread_like
from gorp.errors import InputError


def shard(model: nn.Module, kept_whole: Set[nn.Parameter]) -> None:
    """Spread a model's weights over all ranks, each block of the model gathered while it is used and no longer.

    Args:
        model: on this rank's device, the same on all of them.
        kept_whole: parameters that every rank goes on to have.

    Raises:
        InputError: this torch cannot keep parameters whole, or the model names no blocks.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method

    if "ignored_params" not in inspect.signature(fully_shard).parameters:
        raise InputError(f"training.parallel 'shard' needs a later torch than {torch.__version__}")
    device = next(model.parameters()).device
    mesh = init_device_mesh(device.type, (ranks(),))
    blocks = set(getattr(model, "_no_split_modules", None) or ())
    parts = [part for part in model.modules() if type(part).__name__ in blocks]
    if not parts:
        raise InputError(
            f"training.parallel 'shard' gathers a model block by block, and {type(model).__name__} names none "
            "(_no_split_modules); accepted: 'replicate'"
        )
    for part in parts:
        fully_shard(part, mesh=mesh, ignored_params=set(kept_whole))
    learns_outside = not kept_whole <= {parameter for part in parts for parameter in part.parameters()}
    # What is outside all blocks stays gathered after a forward pass, unless told; a merge needs own rows.
    rest: dict[str, Any] = {"reshard_after_forward": True} if learns_outside else {}
    fully_shard(model, mesh=mesh, ignored_params=set(kept_whole), **rest)
    if hasattr(model, "generate"):
        register_fsdp_forward_method(model, "generate")
    for module in model.modules():
        if isinstance(remainder := getattr(module, REMAINDER, None), Tensor):
            weight = cast(Tensor, module.weight)
            setattr(module, REMAINDER, spread_like(remainder[own_rows(weight)].clone(), weight))
