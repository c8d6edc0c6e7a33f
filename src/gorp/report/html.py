"""One self-contained HTML page about one or more runs: no font, no picture, no script from anywhere else."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from gorp.files import write_text_atomically
from gorp.report import run_plots, words
from gorp.report.comparison import group_runs
from gorp.report.layers import LayerDigest, digest_layers
from gorp.report.pages import Picture, pictures, render
from gorp.report.pair import pair_runs
from gorp.report.plots import curves_grid
from gorp.report.record import RunRecord
from gorp.report.settings import flattened
from gorp.report.tables import Grid, comparison_grid, unseen_grid

REPORT_FILE = "report.html"
LAYERS_SHOWN = 8  # the rest folds away
_MUTED_TO, _INK_TO, _FULL_INK_TO = 0.2, 0.6, 0.77  # opacity of a cell's colour; for a contrast that can be read
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
        """What the colour asks of the ink: faint (any), pale (full), mid (the strongest) or strong (the opposite)."""
        if self.opacity > _FULL_INK_TO:
            return "strong"
        if self.opacity > _INK_TO:
            return "mid"
        return "pale" if self.opacity > _MUTED_TO else "faint"


@dataclass(frozen=True)
class Row:
    """One row of the heat map; ``stage`` counts from 1, 0 is before any learning."""

    stage: int
    label: str
    cells: list[Cell]


@dataclass(frozen=True)
class RunView:
    """What the page shows of one run, ready to print; ``identity`` begins its ids on the page."""

    record: RunRecord
    identity: str
    style: int
    rows: list[Row]
    changes: list[float | None]
    findings: list[words.Finding]
    layers: list[LayerDigest]
    unseen: Grid | None
    pictures: list[Picture]

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
        return [(heading, list(flattened(values))) for heading, values in parts if values]


def render_report(records: Sequence[RunRecord]) -> str:
    """The page as text; two runs are also set against each other. Raises ``ValueError`` if there is no record."""
    if not records:
        raise ValueError("a report needs at least one run")
    groups = group_runs(records)
    styles = run_plots.styles(groups)
    views = [_view(record, styles[id(record)], f"run{number}") for number, record in enumerate(records)]
    several = len(records) > 1
    curves = run_plots.curves(records, styles)
    pair = pair_runs(*records) if len(records) == 2 else None
    return render(
        "report.html.j2",
        title=_title(records),
        findings=[*(words.against(pair) if pair else []), *words.compare(groups)] if several else views[0].findings,
        several=several,
        group_styles={group.label: number for number, group in enumerate(groups)},
        pair=pair,
        comparison=comparison_grid(groups) if several else None,
        rankings=pictures(run_plots.rankings(groups), "dots") if several else [],
        curves=pictures(curves, "curve"),
        curves_table=curves_grid(curves),
        runs=views,
        scoring=words.scoring(records),
        LAYERS_SHOWN=LAYERS_SHOWN,
    )


def write_report(records: Sequence[RunRecord], path: str | os.PathLike[str]) -> Path:
    """Write the page to a file, or to ``report.html`` in a folder, atomically; returns the file.

    A name without an ending is a folder's, be it there or not.
    """
    given = Path(path)
    is_folder = given.is_dir() or not (given.exists() or given.suffix)
    return write_text_atomically(given / REPORT_FILE if is_folder else given, render_report(records))


def _title(records: Sequence[RunRecord]) -> str:
    if len(records) == 2:
        return f"{records[0].name} against {records[1].name}"
    return f"{len(records)} runs compared" if len(records) > 2 else records[0].name


def _view(record: RunRecord, style: int, identity: str) -> RunView:
    return RunView(
        record=record,
        identity=identity,
        style=style,
        rows=list(_rows(record)),
        changes=words.changes_since_learnt(record),
        findings=words.findings(record),
        layers=digest_layers(record),
        unseen=unseen_grid(record),
        pictures=pictures(run_plots.plots_of_run(record), f"{identity}-plot"),
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
