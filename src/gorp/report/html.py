"""One self-contained HTML page about one or more runs: no script, no font, no picture from anywhere else."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gorp import metrics
from gorp.files import write_text_atomically
from gorp.progress import describe_duration
from gorp.report import plots, words
from gorp.report.comparison import Group, group_runs
from gorp.report.layers import LayerDigest, digest_layers
from gorp.report.record import RunRecord
from gorp.report.tables import Grid, comparison_grid, unseen_grid

REPORT_FILE = "report.html"
LAYERS_SHOWN = 8  # the rest folds away
_FULL_INK_FROM, _LIGHT_INK_FROM = 0.3, 0.67  # opacity of a cell's colour; for a contrast that can be read
_MANY_TASKS = 8


@dataclass(frozen=True)
class Cell:
    """One cell of the heat map. ``kind``: seen, learnt (just now), unseen, zero (before learning) or missing."""

    task: str
    value: float | None
    kind: str

    @property
    def text(self) -> str:
        """The score as printed."""
        return words.score(self.value)

    @property
    def opacity(self) -> float:
        """How strongly the cell is coloured, 0 to 1."""
        return round(min(max(self.value or 0.0, 0.0), 100.0) / 100, 3)

    @property
    def depth(self) -> str:
        """What the colour asks of the ink: pale (any), mid (full) or strong (the opposite ink)."""
        if self.opacity > _LIGHT_INK_FROM:
            return "strong"
        return "mid" if self.opacity > _FULL_INK_FROM else "pale"


@dataclass(frozen=True)
class Row:
    """One row of the heat map; ``stage`` counts from 1, 0 is before any learning."""

    stage: int
    label: str
    cells: list[Cell]


@dataclass(frozen=True)
class RunView:
    """What the page shows of one run, ready to print."""

    record: RunRecord
    style: int
    rows: list[Row]
    changes: list[float | None]
    findings: list[words.Finding]
    layers: list[LayerDigest]
    unseen: Grid | None
    fullness_plot: Markup | None
    loss_plot: Markup | None

    @property
    def figures(self) -> dict[str, str]:
        """AP, BWT, FWT, forgetting and, where there are tasks never learnt, their mean, as text."""
        return {
            key: words.change(value) if key in ("BWT", "FWT") else words.score(value)
            for key, value in self.record.summary().items()
        }

    @property
    def parts(self) -> list[tuple[str, float]]:
        """(part, seconds) over the whole run, in the order of first appearance."""
        return list(self.record.seconds.items())

    @property
    def many_tasks(self) -> bool:
        """Whether task names stand upright above their columns."""
        return len(self.record.tasks) > _MANY_TASKS

    @property
    def settings(self) -> list[tuple[str, list[tuple[str, str]]]]:
        """(heading, (dotted key, value) pairs) of configuration and environment."""
        parts = (("Configuration", self.record.config), ("Environment", self.record.environment))
        return [(heading, list(_flattened(values))) for heading, values in parts if values]


def render_report(records: Sequence[RunRecord]) -> str:
    """The page as text. Raises ``ValueError`` if there is no record."""
    if not records:
        raise ValueError("a report needs at least one run")
    groups = group_runs(records)
    styles = {id(record): number for number, group in enumerate(groups) for record in group.records}
    views = [_view(record, styles[id(record)], f"run{number}") for number, record in enumerate(records)]
    several = len(records) > 1
    return (
        templates()
        .get_template("report.html.j2")
        .render(
            title=f"{len(records)} runs compared" if several else records[0].name,
            findings=words.compare(groups) if several else views[0].findings,
            several=several,
            groups=groups,
            comparison=comparison_grid(groups) if several else None,
            rankings=_rankings(groups) if several else [],
            curves=_curves(records, styles),
            runs=views,
            scoring=words.scoring(records),
            LAYERS_SHOWN=LAYERS_SHOWN,
            SERIES_COLOURS=plots.SERIES_COLOURS,
        )
    )


def write_report(records: Sequence[RunRecord], path: str | os.PathLike[str]) -> Path:
    """Write the page to a file, or to ``report.html`` in a folder, atomically; returns the file."""
    given = Path(path)
    return write_text_atomically(given / REPORT_FILE if given.is_dir() else given, render_report(records))


def templates() -> Environment:
    """The pages' templates, everything escaped, with the filters that print figures."""
    environment = Environment(
        loader=PackageLoader("gorp.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        score=words.score,
        change=words.change,
        small=words.small,
        share=words.share,
        duration=describe_duration,
        breakable=_breakable,
    )
    return environment


def _breakable(name: str) -> Markup:
    """A dotted name that may break after its dots."""
    return Markup(".<wbr>").join(name.split("."))


def _view(record: RunRecord, style: int, identity: str) -> RunView:
    layers = digest_layers(record)
    fullness = [_fullness_by_stage(record, layer.name) for layer in layers if layer.now.cap]
    losses = [stage.train_loss for stage in record.stages if stage.train_loss]
    return RunView(
        record=record,
        style=style,
        rows=list(_rows(record)),
        changes=words.changes_since_learnt(record),
        findings=words.findings(record),
        layers=layers,
        unseen=unseen_grid(record),
        fullness_plot=Markup(plots.fullness(fullness, f"{identity}-full")) if fullness else None,
        loss_plot=Markup(plots.losses(losses, f"{identity}-loss")) if losses else None,
    )


def _rows(record: RunRecord) -> Iterator[Row]:
    if any(value is not None for value in record.zero_shot):
        yield Row(
            0,
            "before learning",
            [_cell(*pair, "zero") for pair in zip(record.tasks, record.zero_shot_row, strict=True)],
        )
    for index, scores in enumerate(record.matrix):
        if any(value is not None for value in scores):
            label = words.stage_label(record, index)
            learnt_from = index if label == record.tasks[index] else 0
            kinds = ["unseen" if at > index else "learnt" if at >= learnt_from else "seen" for at in range(len(scores))]
            cells = [_cell(*triple) for triple in zip(record.tasks, scores, kinds, strict=True)]
            yield Row(index + 1, label, cells)


def _cell(task: str, value: float | None, kind: str) -> Cell:
    return Cell(task, value, "missing" if value is None else kind)


def _fullness_by_stage(record: RunRecord, layer: str) -> list[float | None]:
    return [stage.layers[layer].fullness if layer in stage.layers else None for stage in record.stages]


def _curves(records: Sequence[RunRecord], styles: Mapping[int, int]) -> list[tuple[str, Markup]]:
    tasks = dict.fromkeys(task for record in records for task in record.tasks)
    curves = []
    for number, task in enumerate(tasks):
        lines = [_line(record, task, styles[id(record)]) for record in records if task in record.tasks]
        curves.append((task, Markup(plots.curve(task, lines, f"curve{number}"))))
    return curves


def _line(record: RunRecord, task: str, style: int) -> plots.Line:
    position = record.tasks.index(task)
    values = [record.zero_shot_row[position], *(row[position] for row in record.matrix)]
    return plots.Line(style, values, level=metrics.measured_once(record.matrix))


def _rankings(groups: Sequence[Group]) -> list[tuple[str, str, Markup]]:
    headings = {"AP": "Average performance at the end", "BWT": "Change of earlier tasks since learnt (BWT)"}
    rankings = []
    for key, heading in headings.items():
        figures = [(group.label, number, group.figures[key]) for number, group in enumerate(groups)]
        rows = [(label, number, figure.values) for label, number, figure in figures if figure]
        if rows:
            rankings.append((key, heading, Markup(plots.dots(heading, rows, f"dots-{key}"))))
    return rankings


def _flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from _flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, default=str)
