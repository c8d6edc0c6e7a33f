"""Which layers of a model are meant: linear layers by runs of their dotted names' components."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple, cast

import torch
from torch import nn

from gorp._quantized import is_quantized
from gorp._weights import STORABLE
from gorp.config import GORPConfig
from gorp.errors import InputError, nearest

SIBLINGS = (
    ("q", "k", "v"),
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("gate_proj", "up_proj"),
    ("wi_0", "wi_1"),
)
"""Last components of names of layers that read the same input, where the others are the same; queries first."""

CROSS_ATTENTION = ("EncDecAttention", "encoder_attn", "crossattention")
"""Components of names of what attends to an encoder's output: there keys and values of all blocks read the same."""


class InputRead(NamedTuple):
    """What a layer reads, how wide it is, where, and of which type the layer's weight is."""

    what: str
    width: int
    device: torch.device
    dtype: torch.dtype


def linear_names(model: nn.Module) -> list[str]:
    """Dotted names of the linear layers, in the model's order."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]


def layer_kind(name: str) -> str:
    """A layer's dotted name, block numbers replaced by ``*``: the same for the same layer of every block."""
    return ".".join("*" if part.isdigit() else part for part in name.split("."))


def describe_layers(model: nn.Module) -> str:
    """The model's linear layers, block numbers replaced by ``*``, as a message's list of what is accepted."""
    kinds = {layer_kind(name) for name in linear_names(model)}
    return "linear layers are: " + (", ".join(sorted(kinds)) or "none")


def find_layers(model: nn.Module, targets: Sequence[str], key: str) -> list[str]:
    """Dotted names of the linear layers that contain one of the targets as a run of name components.

    Raises:
        InputError: a target that matches no linear layer, with what could be targeted.
    """
    names = linear_names(model)
    found = {target: [name for name in names if names_layer(target, name)] for target in targets}
    for target, matches in found.items():
        if not matches:
            meant = nearest(target, {run for name in names for run in _runs(name, len(target.split(".")))})
            raise InputError(
                f"{key}: {target!r} matches no linear layer of this model{meant}; {describe_layers(model)}"
            )
    wanted = {name for matches in found.values() for name in matches}
    return [name for name in names if name in wanted]


def learning_layers(model: nn.Module, config: GORPConfig) -> tuple[list[str], list[str]]:
    """Dotted names of the layers that learn by LoRA factors, and of those that learn at full rank.

    Raises:
        InputError: no layer matches a target, a layer matches both lists, the rank is above a layer's size, or a
            weight's dtype cannot be learned in, or it is tied to another.
    """
    lora = find_layers(model, config.lora_targets or (), "lora_targets")
    full_rank = find_layers(model, config.full_rank_targets or (), "full_rank_targets")
    if not lora and not full_rank:
        raise InputError(f"no targets: give lora_targets or full_rank_targets; {describe_layers(model)}")
    for name in lora:
        if name in full_rank:
            raise InputError(f"layer {name} matches both lora_targets and full_rank_targets; it can learn one way only")
    check_untied(model, (*lora, *full_rank))
    for name in (*lora, *full_rank):
        _check_layer(name, cast(nn.Linear, model.get_submodule(name)), config.rank, takes_codes=name in lora)
    return lora, full_rank


def _check_layer(name: str, linear: nn.Linear, rank: int, takes_codes: bool) -> None:
    out_features, in_features = linear.out_features, linear.in_features
    if rank > min(out_features, in_features):
        raise InputError(f"rank {rank} is above the size of layer {name} ({out_features}, {in_features})")
    if is_quantized(linear) and not takes_codes:
        raise InputError(
            f"layer {name} is quantised, and learns at full rank; accepted: to leave it out of quantisation, or to "
            "name it among the LoRA targets"
        )
    check_dtype(name, linear)


def check_dtype(name: str, linear: nn.Linear) -> None:
    """Refuse a layer whose weight nothing exact can be added to.

    Raises:
        InputError: it is, say, fp16.
    """
    if not is_quantized(linear) and linear.weight.dtype not in STORABLE:
        accepted = ", ".join(str(dtype).removeprefix("torch.") for dtype in STORABLE)
        raise InputError(f"layer {name} is {linear.weight.dtype}; a layer can learn in {accepted}")


def check_untied(model: nn.Module, names: Sequence[str]) -> None:
    """Refuse layers whose weight another module computes with, too: what is merged into one would change both.

    Raises:
        InputError: there is one, such as a head that is the table of words.
    """
    parameters = list(model.named_parameters(remove_duplicate=False))
    for name in names:
        weight = model.get_submodule(name).weight
        shared = (other for other, value in parameters if value is weight and not other.startswith(f"{name}."))
        if other := next(shared, None):
            raise InputError(
                f"layer {name} is tied to {other}: what it learns would change that, too; accepted: a base where it "
                "has a weight of its own, or targets without this layer"
            )


def names_layer(target: str, name: str) -> bool:
    """Whether a target is a run of the components of a dotted name; ``*`` stands for part of a component."""
    wanted = target.split(".")
    return any(all(map(fnmatchcase, run.split("."), wanted)) for run in _runs(name, len(wanted)))


def _runs(name: str, length: int) -> list[str]:
    """The runs of so many components of a dotted name."""
    parts = name.split(".")
    return [".".join(parts[i : i + length]) for i in range(len(parts) - length + 1)]


def targets_for(names: Sequence[str], linear: Sequence[str]) -> list[str]:
    """Targets that mean just the named ones of a model's linear layers, block numbers as ``*`` where that will do."""
    short = sorted({".".join("*" if part.isdigit() else part for part in name.split(".")) for name in names})
    meant = {name for name in linear if any(names_layer(target, name) for target in short)}
    return short if meant == set(names) else list(names)


def input_read(name: str, linear: nn.Linear, config: GORPConfig) -> InputRead:
    """What a layer reads: the same for layers whose inputs may share a space, which is those that read the same tensor.

    That is told by their dotted names. Where they mislead, layers share that need not: a space too large, never one
    that protects too little.
    """
    what = _tensor_read(name) if config.share_inputs else name
    return InputRead(what, linear.in_features, linear.weight.device, linear.weight.dtype)


def _tensor_read(name: str) -> str:
    parent, _, child = name.rpartition(".")
    family = next((family for family in SIBLINGS if child in family), None)
    if family is None:
        return name
    if any(part in CROSS_ATTENTION for part in parent.split(".")):
        return name if child == family[0] else "encoder output"
    return f"{parent}.{family[0]}"


def block_layers(model: nn.Module, key: str) -> list[str]:
    """Dotted names of the linear layers inside the model's numbered blocks: attention and MLP, no head.

    Raises:
        InputError: there are none, so that ``key`` has to name some.
    """
    names = [name for name in linear_names(model) if any(part.isdigit() for part in name.split("."))]
    if not names:
        raise InputError(f"{key}: this model has no numbered blocks; name some layers; {describe_layers(model)}")
    return names
