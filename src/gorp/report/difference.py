"""What changed between two stages of a run, as tables: a row per layer, a row per task."""

from __future__ import annotations

from gorp.difference import Difference
from gorp.report.tables import Grid
from gorp.report.words import NOT_MEASURED, score, small

_LAYERS_SHOWN = 30


def layers_grid(difference: Difference, every: bool = False) -> Grid:
    """Layers by how far they moved: ``||D|| / ||W||``, directions of D, and the share of its energy in each space."""
    moved = sorted(difference.layers.items(), key=lambda item: -item[1].moved)
    shown = moved if every else moved[:_LAYERS_SHOWN]
    tasks = list(dict.fromkeys(task for _, layer in moved for task in layer.shares))
    rows = [
        (
            name,
            f"{100 * layer.moved:.2f}%",
            NOT_MEASURED if layer.directions is None else str(layer.directions),
            *(small(layer.shares.get(task)) for task in tasks),
        )
        for name, layer in shown
    ]
    left = f", the first {len(shown)} of {len(moved)} layers" if len(shown) < len(moved) else ""
    title = f"moved from {difference.first} to {difference.second}{left}"
    return Grid(title, ("layer", "moved", "directions", *(f"in {task}'s" for task in tasks)), tuple(rows))


def tasks_grid(difference: Difference) -> Grid:
    """Tasks with their scores after either stage, and what was lost with its interval; old ones are marked."""
    rows = [
        (
            f"{name} (old)" if task.old else name,
            score(task.before),
            score(task.after),
            score(task.lost.points) if task.lost else NOT_MEASURED,
            f"{score(task.lost.low)} to {score(task.lost.high)}" if task.lost else NOT_MEASURED,
        )
        for name, task in difference.tasks.items()
    ]
    return Grid("scores", ("task", difference.first, difference.second, "lost", "interval"), tuple(rows))
