"""What a retraction gave back, layer by layer, and what it leaves of the protection of the tasks that stay."""

from __future__ import annotations

from gorp.report.tables import Grid
from gorp.report.words import NOT_MEASURED
from gorp.run_retraction import Retraction
from gorp.space import INPUT, OUTPUT


def retraction_grid(done: Retraction) -> Grid:
    """A row per layer that held something of the task: directions given back of those there were, on either side."""
    rows = []
    for name, layer in done.layers.items():
        cells = [
            f"{layer.freed[side]} of {layer.wanted[side]}" if layer.wanted.get(side) else NOT_MEASURED
            for side in (INPUT, OUTPUT)
        ]
        if any(layer.wanted.values()) or layer.learns_again:
            rows.append((name, *cells, "learns again" if layer.learns_again else ""))
    return Grid("directions given back", ("layer", "input", "output", ""), tuple(rows))


def coverage_grid(done: Retraction) -> Grid:
    """A row per task that stays: the share of its held-out inputs' energy that is covered, before and after."""
    rows = [(task, f"{100 * done.before[task]:.1f}%", f"{100 * done.after[task]:.1f}%") for task in done.before]
    return Grid(
        "inputs of the other tasks that are covered (mean over layers)", ("task", "before", "after"), tuple(rows)
    )
