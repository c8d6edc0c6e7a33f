"""A gradient space as a table: how many directions each layer keeps, for which tasks, and how much room is left."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from gorp.protect import SHARES
from gorp.report.tables import Grid
from gorp.report.words import NOT_MEASURED, share
from gorp.space import GradientSpace, LayerSpace, Side

_MANY_TASKS = 6


def space_grid(space: GradientSpace) -> Grid:
    """A row per layer: directions kept, width, cap and share of the cap in use; output side; energies; growth by task.

    ``energy`` is the range over the layer's directions of the share of its task's gradient energy that each one held
    when it was kept. ``added`` counts the directions that each task added, in the order of learning; of layers that
    share a side, which is told of each, those that the layer itself added.
    """
    rows = [_row(space, name, layer) for name, layer in space.layers.items()]
    title = f"gradient space of {space.base_model}" if space.base_model else "gradient space"
    header = ("layer", "kept", "width", "cap", "used", "output kept", "output width", "energy", "added", "state")
    return Grid(title, header, tuple(rows))


def room_grid(left: Mapping[str, Sequence[float]], shares: Sequence[float] = SHARES) -> Grid:
    """A column per energy share of general text, a row per kind of layer: how much of its cap is left for tasks.

    Args:
        left: what `gorp.protect.room_left` says of these shares.
        shares: of the energy.
    """
    rows = [(kind, *map(share, row)) for kind, row in left.items()]
    header = ("layers", *(f"{energy:g}" for energy in shares))
    return Grid("room left for tasks, by the energy share of the text that is protected", header, tuple(rows))


def describe_space(space: GradientSpace, file_bytes: int) -> list[str]:
    """Totals in plain words: tasks, directions, room, frozen layers, size of the file."""
    layers = list(space.layers.values())
    sides = space.input_sides
    kept = sum(side.rank for side in sides)
    cap = sum(space.cap(side) for side in sides)
    frozen = sum(layer.frozen for layer in layers)
    tasks = ", ".join(space.tasks) if space.tasks else "none yet"
    withdrawn = [f"no longer wanted: {', '.join(space.retracted)}"] if space.retracted else []
    return [
        f"tasks: {tasks}",
        *withdrawn,
        f"{len(layers)} layers keep {kept} of at most {cap} input directions ({share(kept / cap if cap else 0.0)}); "
        f"cap {share(space.max_share)} of a layer's width; {frozen or 'none'} frozen",
        f"{file_bytes / 1e6:.2f} MB on disk",
    ]


def _row(space: GradientSpace, name: str, layer: LayerSpace) -> tuple[str, ...]:
    cap = space.cap(layer.input)
    return (
        name,
        str(layer.input.rank),
        str(layer.input.width),
        str(cap),
        share(layer.input.rank / cap if cap else 0.0),
        str(layer.output.rank) if layer.output else NOT_MEASURED,
        str(layer.output.width) if layer.output else NOT_MEASURED,
        _energies(layer.input),
        _growth(layer.growth),
        "frozen" if layer.frozen else "learns",
    )


def _energies(side: Side) -> str:
    if not side.rank:
        return NOT_MEASURED
    low, high = float(side.energy.min()), float(side.energy.max())
    return f"{low:.1e} to {high:.2f}"


def _growth(growth: list[int]) -> str:
    shown = " ".join(f"+{added}" for added in growth[-_MANY_TASKS:]) or NOT_MEASURED
    return f"... {shown}" if len(growth) > _MANY_TASKS else shown
