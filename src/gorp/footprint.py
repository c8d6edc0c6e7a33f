"""What a model under GORP takes in bytes, part by part, from shapes alone: the model may be on torch's meta device."""

from __future__ import annotations

from typing import cast

import torch
from torch import nn

from gorp._linalg import SPARE_COLUMNS
from gorp._quantized import is_quantized, quantized_layers, scale_bytes
from gorp._sketch import sketch_numbers
from gorp.config import GORPConfig
from gorp.targets import InputRead, input_read, learning_layers

PARTS = ("weights", "rounding", "stacks", "factors", "projections", "gradients", "moments", "memory", "space")


def footprint(model: nn.Module, config: GORPConfig, tasks: int = 0, growth: float = 1.0) -> dict[str, int]:
    """Bytes that `gorp.attach` and `gorp.GORPAdamW` hold at the end of a step, task ``tasks`` + 1.

    Activations are no part of it, nor are what a refresh takes for a moment and the few numbers of step counts and
    ``damping``.

    Args:
        model: not attached; only shapes and dtypes are looked at.
        config: what learns, targets given.
        tasks: how many were learnt before.
        growth: the share of a side's width that each of them took; no side holds more than its cap.

    Returns:
        By part, in bytes. ``weights``: the model's own parameters and buffers, and the scales of quantised ones.
        ``rounding``: what bf16 drops of the weights that learn. ``stacks``: what earlier tasks added to quantised
        layers. ``factors``: A, B and Z. ``projections``: U, V and the start of the next search. ``gradients`` and
        ``moments``: of the factors. ``memory``: of the rows of the task at hand, at most. ``space``: S and, of LoRA's
        outputs, R.

    Raises:
        InputError: as of `gorp.attach`.
        ValueError: ``tasks`` or ``growth`` is out of range.
    """
    if tasks < 0 or not 0 <= growth <= 1:
        raise ValueError(f"tasks should be >= 0 and growth in [0, 1] but are: {tasks}, {growth}")
    lora, full_rank = learning_layers(model, config)
    parts = dict.fromkeys(PARTS, 0)
    parts["weights"] = sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
    parts["weights"] += sum(scale_bytes(layer) for _, layer in quantized_layers(model))
    held = min(tasks * growth, float(config.max_share or 1.0))
    known: set[InputRead] = set()
    for name in (*lora, *full_rank):
        linear = cast(nn.Linear, model.get_submodule(name))
        read = input_read(name, linear, config)
        for part, count in _layer(linear, config, name in lora, tasks, held, read in known):
            parts[part] += count
        known.add(read)
    return parts


def _layer(
    linear: nn.Linear, config: GORPConfig, is_lora: bool, tasks: int, held: float, shares: bool
) -> list[tuple[str, int]]:
    """Parts of one layer's bytes; ``held`` is the share of each side that S takes, ``shares`` that S is another's."""
    out, width = linear.out_features, linear.in_features
    wide = torch.promote_types(linear.weight.dtype, torch.float32).itemsize
    exact = config.variant == "exact"
    k = min(config.rank, out, width - int(held * width) if exact else width)
    spanned = width if exact else config.rank  # the input side's space lives there
    sides = [spanned, *([out] if is_lora and config.protect_outputs else [])]
    if is_lora:
        factors, projections = config.rank * (out + width), 0
    elif config.projection == "random":
        factors, projections = out * k, width * k
    else:
        factors, projections = k * k, (out + width) * k + width * min(k + SPARE_COLUMNS, out, width)
    kept = 0 if config.memory == "first_moment" else sum(map(sketch_numbers, sides))
    space = sum(int(held * side) * (side + 1) for side in (sides[1:] if shares else sides))  # an energy a column
    stacked = min(tasks * config.rank, out, width) if is_quantized(linear) else 0
    numbers = {
        "stacks": stacked * (out + width),
        "factors": factors,
        "projections": projections,
        "gradients": factors,
        "moments": 2 * factors,
        "memory": kept,
        "space": space,
    }
    lost = 2 * out * width if linear.weight.dtype is torch.bfloat16 else 0
    return [("rounding", lost), *((part, wide * count) for part, count in numbers.items())]
