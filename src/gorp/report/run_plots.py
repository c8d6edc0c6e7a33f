"""Which plots tell of runs, and where each is kept as a picture."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from gorp import metrics
from gorp.report.comparison import Group, group_runs
from gorp.report.drawing import Plot, write_png
from gorp.report.layers import digest_layers
from gorp.report.plots import Curve, Fullness, Line, Losses
from gorp.report.plots_of_methods import Dots
from gorp.report.record import RunRecord

_RANKED = {"AP": "Average performance at the end", "BWT": "Change of earlier tasks since learnt (BWT)"}
_LONGEST_NAME = 60


def report_plots(records: Sequence[RunRecord]) -> list[Plot]:
    """Every plot of the page about these runs, in its order."""
    groups = group_runs(records)
    across = rankings(groups) if len(records) > 1 else []
    return [*across, *curves(records, styles(groups)), *(plot for record in records for plot in plots_of_run(record))]


def styles(groups: Sequence[Group]) -> dict[int, int]:
    """The style number of each record, by ``id``: that of its group."""
    return {id(record): number for number, group in enumerate(groups) for record in group.records}


def rankings(groups: Sequence[Group]) -> list[Dots]:
    """AP and BWT at the end, where any method has them."""
    plots = []
    for key, heading in _RANKED.items():
        figures = [(group.label, number, group.figures[key]) for number, group in enumerate(groups)]
        rows = tuple((label, number, figure.values) for label, number, figure in figures if figure)
        if rows:
            plots.append(Dots(heading, rows, signed=key == "BWT"))
    return plots


def curves(records: Sequence[RunRecord], style_of: Mapping[int, int]) -> list[Curve]:
    """A curve per task over the stages, a line per run that knows the task."""
    tasks = dict.fromkeys(task for record in records for task in record.tasks)
    return [
        Curve(task, tuple(_line(record, task, style_of[id(record)]) for record in records if task in record.tasks))
        for task in tasks
    ]


def plots_of_run(record: RunRecord) -> list[Plot]:
    """The protected space and the training loss of one run, where it has them."""
    names = [layer.name for layer in digest_layers(record) if layer.now.cap]
    layers = tuple((name, _fullness_by_stage(record, name)) for name in names)
    losses = tuple((stage.task, tuple(stage.train_loss)) for stage in record.stages if stage.train_loss)
    plots: list[Plot] = [Fullness(record.name, layers)] if layers else []
    return plots + ([Losses(record.name, losses)] if losses else [])


def write_pngs(plots: Sequence[Plot], folder: Path) -> list[Path]:
    """Write every plot to a PNG file named by its place and title; returns the files."""
    return [write_png(plot, folder / f"{at:02d}-{_slug(plot.title)}.png") for at, plot in enumerate(plots, start=1)]


def _line(record: RunRecord, task: str, style: int) -> Line:
    position = record.tasks.index(task)
    values = [record.zero_shot_row[position], *(row[position] for row in record.matrix)]
    return Line(record.name, style, values, level=metrics.measured_once(record.matrix))


def _fullness_by_stage(record: RunRecord, layer: str) -> tuple[float | None, ...]:
    return tuple(stage.layers[layer].fullness if layer in stage.layers else None for stage in record.stages)


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")[:_LONGEST_NAME].rstrip("-")
