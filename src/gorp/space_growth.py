"""How gradient spaces are expected to grow, and the task at which layers are full."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median

from gorp.errors import InputError
from gorp.space import GradientSpace, LayerSpace

TYPICAL_SHARE = 0.1
"""Share of a side's width that a task takes, where nothing better is known; see docs/plan.md for what was measured."""


@dataclass(frozen=True)
class SideGrowth:
    """One side of one layer: its width, the most columns that it holds, and what a task is expected to add."""

    layer: str
    width: int
    cap: int
    columns: float

    @property
    def full_at(self) -> int | None:
        """The first task, from 1, whose directions do not fit, so that the layer learns no more; None: never."""
        return int(self.cap // self.columns) + 1 if self.columns else None

    def columns_after(self, tasks: int) -> int:
        """Columns held after so many tasks."""
        whole = tasks if self.full_at is None else min(tasks, self.full_at - 1)
        return min(self.cap, round(whole * self.columns))


def growth_of(space: GradientSpace, shares: Mapping[str, tuple[float, float]], otherwise: float) -> list[SideGrowth]:
    """Every side of a space, one that several layers share once.

    Args:
        space: of the attached model.
        shares: of layers by name, the share of the input's and of the output's width that a task takes.
        otherwise: that of all others.
    """
    grown: dict[int, SideGrowth] = {}
    for name, layer in space.layers.items():
        for side, share in zip((layer.input, layer.output), shares.get(name, (otherwise, otherwise)), strict=True):
            if side is not None and id(side) not in grown:
                grown[id(side)] = SideGrowth(name, side.width, space.cap(side), share * side.width)
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

    Raises:
        InputError: there is no space, or it is of no task yet.
    """
    file = run / "gradient_space.safetensors" if run.is_dir() else run
    space = GradientSpace.load(file)
    if not space.tasks:
        raise InputError(f"{file}: holds no task yet; accepted: a run that has learnt at least one")
    return {name: _shares(layer, len(space.tasks)) for name, layer in space.layers.items()}


def _shares(layer: LayerSpace, tasks: int) -> tuple[float, float]:
    grew = max(1, sum(1 for columns in layer.growth if columns) if layer.frozen else tasks)
    output = layer.output.rank / layer.output.width / grew if layer.output else 0.0
    return layer.input.rank / layer.input.width / grew, output
