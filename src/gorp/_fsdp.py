"""Spreading a model's weights over ranks by torch's FSDP2; what learns and what protects stays whole on every rank."""

from __future__ import annotations

from collections.abc import Set
from typing import cast

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
        InputError: this torch cannot keep parameters whole.
    """
    from torch.distributed.device_mesh import init_device_mesh

    try:
        from torch.distributed.fsdp import fully_shard, register_fsdp_forward_method
    except ImportError:
        raise InputError(
            f"training.parallel 'shard' needs torch 2.7 or later, and this is {torch.__version__}"
        ) from None
    device = next(model.parameters()).device
    mesh = init_device_mesh(device.type, (ranks(),))
    blocks = set(getattr(model, "_no_split_modules", None) or ())
    for module in [*(part for part in model.modules() if type(part).__name__ in blocks), model]:
        fully_shard(module, mesh=mesh, ignored_params=set(kept_whole))
    if hasattr(model, "generate"):
        register_fsdp_forward_method(model, "generate")
    for module in model.modules():
        if isinstance(remainder := getattr(module, REMAINDER, None), Tensor):
            weight = cast(Tensor, module.weight)
            setattr(module, REMAINDER, spread_like(remainder[own_rows(weight)].clone(), weight))
