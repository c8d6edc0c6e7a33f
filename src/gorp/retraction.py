"""Take columns that a task no longer wanted brought out of a gradient space, but for those that other tasks rely on.

A task that was learnt while a column was there counted on it: its own columns were chosen to hold, together with it,
the configured share of its memory's energy. So a column goes only as long as every task that stays keeps that share,
less a tolerance. Tasks that were learnt before the column came kept their share without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gorp.errors import InputError, nearest
from gorp.interference import coverage
from gorp.space import INPUT, OUTPUT, GradientSpace, LayerSpace, Side

_ROUNDING = 1e-6


@dataclass(frozen=True)
class Retracted:
    """What a retraction did to one layer.

    Attributes:
        wanted: columns of tasks no longer wanted, by side, before; those of a shared input under its first layer.
        freed: how many of them were given back.
        learns_again: whether the layer was frozen and is no more.
    """

    wanted: dict[str, int]
    freed: dict[str, int]
    learns_again: bool


def retract(space: GradientSpace, task: str, energy: float, tolerance: float) -> dict[str, Retracted]:
    """Give back what a task took, in place.

    A layer that is frozen stays as it is, unless its columns protect every task that stays: then it learns again.

    Args:
        space: of the run.
        task: the one that is no longer wanted; those that were retracted before are not wanted either.
        energy: share of each task's energy that its layers' columns were to hold.
        tolerance: how much of that a task that stays may lose.

    Returns:
        What was done, by layer.

    Raises:
        InputError: the space was not extended by the task, has lost it already, or does not say what tasks rely on.
    """
    if task not in space.tasks or task in space.retracted:
        wanted = [name for name in space.tasks if name not in space.retracted]
        raise InputError(f"no task {task!r} is protected{nearest(task, wanted)}; accepted: {', '.join(wanted)}")
    if not any(layer.shares for layer in space.layers.values()):
        raise InputError("the gradient space was kept by an earlier version, which did not note what tasks rely on")
    space.retracted.append(task)
    withdrawn = [index for index, name in enumerate(space.tasks) if name in space.retracted]
    done = {name: Retracted({}, {}, _thaw(space, layer, withdrawn)) for name, layer in space.layers.items()}
    for names, side_name in _sides(space):
        layers = [space.layers[name] for name in names]
        counts = _retract_side(layers, side_name, len(space.tasks), withdrawn, energy - tolerance)
        done[names[0]].wanted[side_name], done[names[0]].freed[side_name] = counts
    return done


def removable(tables: Sequence[Tensor], owner: Tensor, withdrawn: Sequence[int], floor: float) -> Tensor:
    """Which columns may go, a truth value each (rank,).

    Args:
        tables: of each layer that reads the side, (tasks, rank), as `LayerSpace.shares_of`.
        owner: as of `owners`.
        withdrawn: positions of the tasks no longer wanted.
        floor: share of its energy that every other task has to keep, where it has so much now.
    """
    rank = len(owner)
    needs = torch.cat([table[[t for t in range(len(table)) if t not in withdrawn]] for table in tables])
    times = [t for table in tables for t in range(len(table)) if t not in withdrawn]
    known = ~needs.isnan().any(dim=1)
    may_go = torch.tensor([int(at) in withdrawn for at in owner], dtype=torch.bool)
    for time, is_known in zip(times, known.tolist(), strict=True):
        if not is_known:
            may_go &= owner > time
    needs = needs[known].double()
    left = (needs.sum(dim=1) - floor).clamp_min(0) + _ROUNDING  # what each may lose
    gone = torch.zeros(rank, dtype=torch.bool)
    worst = needs.amax(dim=0) if len(needs) else torch.zeros(rank)
    for column in worst.argsort(stable=True).tolist():
        if may_go[column] and bool((needs[:, column] <= left).all()):
            left -= needs[:, column]
            gone[column] = True
    return gone


def owners(tables: Sequence[Tensor]) -> Tensor:
    """The position of the task that brought each column (rank,), the first with energy in it; -1 if none is known."""
    has_energy = torch.stack([table.nan_to_num() > 0 for table in tables]).any(dim=0)  # (tasks, rank)
    return torch.where(has_energy.any(dim=0), has_energy.int().argmax(dim=0), -1)


def covered(space: GradientSpace, inputs: Mapping[str, Mapping[str, Tensor]]) -> dict[str, float]:
    """Per task, the share of the energy of its held-out inputs that the space covers, the mean over layers."""
    return {
        task: sum(shares) / len(shares)
        for task, layers in inputs.items()
        if (
            shares := [
                coverage(x, space.layers[name].basis.cpu())
                for name, x in layers.items()
                if name in space.layers and space.layers[name].input.width == x.shape[1]
            ]
        )
    }


def _sides(space: GradientSpace) -> list[tuple[list[str], str]]:
    """Every side there is, with the layers that read it."""
    readers: dict[int, list[str]] = {}
    for name, layer in space.layers.items():
        readers.setdefault(id(layer.input), []).append(name)
    outputs = [([name], OUTPUT) for name, layer in space.layers.items() if layer.output is not None]
    return [*((names, INPUT) for names in readers.values()), *outputs]


def _thaw(space: GradientSpace, layer: LayerSpace, withdrawn: Sequence[int]) -> bool:
    """Let a frozen layer learn again if columns protect every task that stays; whether it does."""
    sides = [INPUT] if layer.output is None else [INPUT, OUTPUT]
    staying = [index for index in range(len(space.tasks)) if index not in withdrawn]
    if not layer.frozen or any(bool(layer.shares_of(side, len(space.tasks))[staying].isnan().any()) for side in sides):
        return False
    layer.frozen = False
    return True


def _retract_side(
    layers: Sequence[LayerSpace], name: str, tasks: int, withdrawn: Sequence[int], floor: float
) -> tuple[int, int]:
    """Columns of tasks no longer wanted on a side, and how many of them are given back; growth is brought up to it."""
    side = layers[0].side(name)
    assert side is not None
    tables = [layer.shares_of(name, tasks) for layer in layers]
    owner = owners(tables)
    wanted = sum(int(at) in withdrawn for at in owner) if side.rank else 0
    if not wanted or all(layer.frozen for layer in layers):
        return wanted, 0
    # a frozen layer's own columns protect its tasks again once it learns; what it holds by being frozen needs none
    asked = [table.nan_to_num() if layer.frozen else table for table, layer in zip(tables, layers, strict=True)]
    gone = removable(asked, owner, withdrawn, floor)
    keep = ~gone
    for column in gone.nonzero().flatten().tolist():
        task = int(owner[column])
        adder = next(at for at, table in enumerate(tables) if float(table[task, column].nan_to_num()) > 0)
        if name == INPUT:
            layers[adder].growth[task] -= 1
    _cut(side, keep)
    for layer, table in zip(layers, tables, strict=True):
        layer.shares[name] = table[:, keep]
    return wanted, int(gone.sum())


def _cut(side: Side, keep: Tensor) -> None:
    side.basis, side.energy = side.basis[:, keep].contiguous(), side.energy[keep].contiguous()
