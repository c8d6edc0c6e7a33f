"""How gradient spaces are expected to grow, and the task at which layers are full."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from gorp.errors import InputError
from gorp.space import INPUT, OUTPUT, GradientSpace, LayerSpace
from gorp.space_file import find_space
from gorp.tasks.task import BASE

TYPICAL_SHARE = 0.1
"""Share of a side's width that a task takes, where nothing better is known; see docs/plan.md for what was measured."""


@dataclass(frozen=True)
class SideGrowth:
    """One side of one layer: its width, the most columns that it may come to, what a task is expected to add, and the
    columns that it begins with; ``frozen`` it takes none."""

    layer: str
    width: int
    cap: int
    columns: float
    begun: int = 0
    frozen: bool = False

    @property
    def full_at(self) -> int | None:
        """The first task, from 1, whose directions do not fit, so that the layer learns no more; None: never."""
        if self.frozen:
            return 1
        return int(max(0, self.cap - self.begun) // self.columns) + 1 if self.columns else None

    @property
    def most(self) -> int:
        """Columns that it may come to hold."""
        return self.begun if self.frozen else max(self.cap, self.begun)

    def columns_after(self, tasks: int) -> int:
        """Columns held after so many tasks."""
        whole = tasks if self.full_at is None else min(tasks, self.full_at - 1)
        return min(self.most, self.begun + round(whole * self.columns))


def growth_of(
    space: GradientSpace,
    shares: Mapping[str, tuple[float, float]],
    otherwise: float,
    begun: GradientSpace | None = None,
) -> list[SideGrowth]:
    """Every side of a space, one that several layers share once.

    Args:
        space: of the attached model.
        shares: of layers by name, the share of the input's and of the output's width that a task takes.
        otherwise: that of all others.
        begun: what the run begins with, which holds all these layers; None for nothing.

    Raises:
        InputError: what it begins with is of other widths.
    """
    grown: dict[int, SideGrowth] = {}
    for name, layer in space.layers.items():
        kept = begun.layers[name] if begun else None
        for part, share in zip((INPUT, OUTPUT), shares.get(name, (otherwise, otherwise)), strict=True):
            held, empty = kept.side(part) if kept else None, layer.side(part)
            if held and empty and held.width != empty.width:
                raise InputError(
                    f"the given gradient space holds {name} with {held.width} features, the model has {empty.width}"
                )
            side, frozen = held or empty, kept is not None and kept.frozen
            if side is not None and id(side) not in grown:
                columns = 0.0 if frozen else share * side.width
                rank = held.rank if held else 0
                grown[id(side)] = SideGrowth(name, side.width, space.cap(side), columns, rank, frozen)
    return list(grown.values())


def layers_full_at(sides: list[SideGrowth]) -> tuple[int, int, int] | None:
    """The task at which the first layer, half of them and all are full; None if some never are."""
    first: dict[str, int] = {}
    for side in sides:
        if side.full_at is not None:
            first[side.layer] = min(side.full_at, first.get(side.layer, side.full_at))
    if len(first) < len({side.layer for side in sides}) or not first:
        return None
    at = list(first.values())
    return min(at), int(median(at)), max(at)


def bytes_after(sides: list[SideGrowth], tasks: int, itemsize: int = 4) -> int:
    """Of all bases, with an energy a column."""
    return itemsize * sum(side.columns_after(tasks) * (side.width + 1) for side in sides)


def measured_shares(run: Path) -> dict[str, tuple[float, float]]:
    """Of each layer of a finished run, the share of its widths that a task took on average, input and output.

    What protects the base model is no task.

    Args:
        run: its folder, that of an export of it, or its space's file.

    Raises:
        InputError: there is no space, or it is of no task yet.
    """
    file = find_space(run)
    space = GradientSpace.load(file)
    first = int(bool(space.base_fingerprint) and space.tasks[:1] == [BASE])
    tasks = len(space.tasks) - first
    if not tasks:
        raise InputError(f"{file}: holds no task yet; accepted: a run that has learnt at least one")
    general: Counter[int] = Counter()
    for layer in space.layers.values():
        general[id(layer.input)] += sum(layer.growth[:first])
    return {
        name: _shares(layer, layer.growth[first:], tasks, general[id(layer.input)])
        for name, layer in space.layers.items()
    }


def _shares(layer: LayerSpace, growth: Sequence[int], tasks: int, general: int) -> tuple[float, float]:
    """Of a layer whose input holds ``general`` columns for what is no task."""
    grew = max(1, sum(1 for columns in growth if columns) if layer.frozen else tasks)
    output = layer.output.rank / layer.output.width / grew if layer.output else 0.0
    return (layer.input.rank - general) / layer.input.width / grew, output
