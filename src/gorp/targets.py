"""Which layers of a model are meant: linear layers by runs of their dotted names' components."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn

from gorp.errors import InputError


def linear_names(model: nn.Module) -> list[str]:
    """Dotted names of the linear layers, in the model's order."""
    return [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]


def describe_layers(model: nn.Module) -> str:
    """The model's linear layers, block numbers replaced by ``*``, as a message's list of what is accepted."""
    kinds = {".".join("*" if part.isdigit() else part for part in name.split(".")) for name in linear_names(model)}
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
            raise InputError(f"{key}: {target!r} matches no linear layer of this model; {describe_layers(model)}")
    wanted = {name for matches in found.values() for name in matches}
    return [name for name in names if name in wanted]


def names_layer(target: str, name: str) -> bool:
    """Whether a target is a run of the components of a dotted name; ``*`` stands for part of a component."""
    parts, wanted = name.split("."), target.split(".")
    runs = (parts[i : i + len(wanted)] for i in range(len(parts) - len(wanted) + 1))
    return any(all(map(fnmatchcase, run, wanted)) for run in runs)


def block_layers(model: nn.Module, key: str) -> list[str]:
    """Dotted names of the linear layers inside the model's numbered blocks: attention and MLP, no head.

    Raises:
        InputError: there are none, so that ``key`` has to name some.
    """
    names = [name for name in linear_names(model) if any(part.isdigit() for part in name.split("."))]
    if not names:
        raise InputError(f"{key}: this model has no numbered blocks; name some layers; {describe_layers(model)}")
    return names
