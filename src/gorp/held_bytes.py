"""What a model under a method holds in bytes, part by part, from the tensors themselves, with values or without."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from gorp._rounding import REMAINDER
from gorp.methods.base import Method

PARTS = (
    "weights",
    "rounding",
    "stacks",
    "factors",
    "projections",
    "gradients",
    "moments",
    "memory",
    "space",
    "method",
    "copies",
    "temporary",
)
"""weights: what does not learn; rounding: what bf16 drops of weights that learn; factors: all that learns; projections:
U, V and the start of the next search; gradients; moments: of the optimizer; memory: of the task at hand; space: S and
R; method: what other methods keep; copies: of weights, for leak and drift; temporary: activations, a key-value
cache, what a refresh needs for a moment."""

_BUFFERS = {"U": "projections", "V": "projections", "start": "projections", "left": "stacks", "right": "stacks"}


def parts_of(
    model: nn.Module, method: Method, optimizer: torch.optim.Optimizer | None, copies: Any = ()
) -> dict[str, int]:
    """Bytes by part on the model's device, each storage counted once, in the first part it belongs to.

    ``gradients`` and ``temporary`` are 0: they come and go.
    """
    named: list[tuple[str, Tensor]] = []
    for name, buffer in model.named_buffers():
        last = name.rpartition(".")[2]
        named.append(("rounding" if last == REMAINDER else _BUFFERS.get(last, "weights"), buffer))
    for parameter in model.parameters():
        named.append(("factors" if parameter.requires_grad else "weights", parameter))
    if optimizer is not None:
        for state in optimizer.state.values():
            named += [("memory" if key == "sketch" else "moments", value) for key, value in _tensors(state)]
    space = method.space
    for layer in space.layers.values() if space else ():
        sides = [side for side in (layer.input, layer.output) if side is not None]
        named += [("space", part) for side in sides for part in (side.basis, side.energy)]
    named += [("method", value) for value in tree_leaves(vars(method)) if isinstance(value, Tensor)]
    named += [("method", value) for value in method.state().values()]
    named += [("copies", value) for value in tree_leaves(copies) if isinstance(value, Tensor)]
    return _sizes(named, next(model.parameters()).device.type)


def gradient_bytes(model: nn.Module) -> int:
    """Of all that learns."""
    return sum(parameter.nbytes for parameter in model.parameters() if parameter.requires_grad)


def _tensors(state: Mapping[str, Any]) -> list[tuple[str, Tensor]]:
    return [(key, value) for key, value in state.items() if isinstance(value, Tensor)]


def _sizes(named: Iterable[tuple[str, Tensor]], device: str) -> dict[str, int]:
    sizes, seen = dict.fromkeys(PARTS, 0), set()
    for part, tensor in named:
        storage = tensor.untyped_storage()
        if storage._cdata in seen or tensor.device.type != device:
            continue
        seen.add(storage._cdata)
        sizes[part] += storage.nbytes()
    return sizes
