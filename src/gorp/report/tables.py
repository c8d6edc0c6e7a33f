"""The figures of runs as plain grids of text, and those grids for the terminal, as CSV and as Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

from rich import box
from rich.table import Table
from rich.text import Text

from gorp import metrics
from gorp.report.comparison import Group, Spread
from gorp.report.record import SUMMARY_KEYS, RunRecord
from gorp.report.words import NOT_MEASURED, change, changes_since_learnt, score, stage_label

_WIDEST_MATRIX = 60  # characters that fit beside the stage names on a terminal


_MANY_COLUMNS = 10  # from here on columns stand one blank apart


@dataclass(frozen=True)
class Grid:
    """A table as text: the first column names the row, the others hold figures."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def matrix_grid(record: RunRecord, compact: bool = False) -> Grid:
    """The accuracy matrix: the zero-shot row, a row per measured stage, and what changed since each task was learnt.

    Tasks are numbered in the rows; ``compact`` heads the columns with these numbers and rounds to whole percents,
    for many tasks on a terminal.
    """
    decimals = 0 if compact else 1
    numbers = [str(position + 1) for position in range(len(record.tasks))]
    stages = [
        ("zero-shot", record.zero_shot_row),
        *((f"{index + 1} {stage_label(record, index)}", scores) for index, scores in enumerate(record.matrix)),
    ]
    rows = [
        (name, *(score(value, decimals) for value in scores))
        for name, scores in stages
        if any(value is not None for value in scores)
    ]
    changes = changes_since_learnt(record)
    if any(value is not None for value in changes):
        rows.append(("change since", *(change(value, decimals) for value in changes)))
    return Grid(_run_title(record), ("after learning", *(numbers if compact else record.tasks)), tuple(rows))


def unseen_grid(record: RunRecord) -> Grid | None:
    """Tasks that are never learnt: a row each, a column before any learning and one per measured stage; their mean."""
    if not record.unseen_zero_shot:
        return None
    stages = [(str(index + 1), row) for index, row in enumerate(record.unseen_matrix) if set(row) != {None}]
    columns = [("zero-shot", list(record.unseen_zero_shot.values())), *stages]
    rows = [(name, *(score(row[at]) for _, row in columns)) for at, name in enumerate(record.unseen_zero_shot)]
    mean = ("mean", *(score(metrics.unseen([row])) for _, row in columns))
    header = ("never learnt, after stage", *(name for name, _ in columns))
    return Grid(f"{record.name}: unseen tasks", header, (*rows, mean))


def needs_compact(record: RunRecord) -> bool:
    """Whether the matrix with names and decimals is wider than a usual terminal."""
    return sum(max(len(task), 5) + 2 for task in record.tasks) > _WIDEST_MATRIX


def comparison_grid(groups: Sequence[Group]) -> Grid:
    """AP, BWT, FWT, forgetting and seconds, a row per method; mean and standard deviation where there are seeds.

    What no method has is no column: the mean of tasks never learnt, or FWT where each stage scored its own task alone.
    """
    figures = [group.figures for group in groups]
    keys = [key for key in SUMMARY_KEYS if key == "AP" or any(of_group[key] for of_group in figures)]
    rows = []
    for group, of_group in zip(groups, figures, strict=True):
        cells = [_spread(of_group[key], signed=key in ("BWT", "FWT")) for key in keys]
        rows.append((group.label, str(len(group.records)), *cells, _seconds(of_group["seconds"])))
    spread = any(len(group.records) > 1 for group in groups)
    title = "mean \N{PLUS-MINUS SIGN} standard deviation over runs" if spread else "comparison"
    return Grid(title, ("method", "runs", *keys, "seconds"), tuple(rows))


def to_rich(grid: Grid) -> Table:
    """The grid for a terminal; what is not measured is dim."""
    table = Table(
        title=Text(grid.title, style="bold", overflow="fold"), title_justify="left", box=box.SIMPLE_HEAD, pad_edge=False
    )
    if len(grid.header) > _MANY_COLUMNS:
        table.padding = (0, 0, 0, 1)
    for position, column in enumerate(grid.header):
        table.add_column(Text(column), justify="right" if position else "left", no_wrap=True)
    for row in grid.rows:
        table.add_row(*(Text(cell, style="dim" if cell == NOT_MEASURED else "") for cell in row))
    return table


def to_markdown(grid: Grid) -> str:
    """The grid as a Markdown table under its title in bold."""
    lines = [grid.header, ("---", *("---:" for _ in grid.header[1:])), *grid.rows]
    return f"**{escaped(grid.title)}**\n\n" + "".join(
        "| " + " | ".join(cell if line is lines[1] else escaped(cell) for cell in line) + " |\n" for line in lines
    )


def to_latex(grid: Grid) -> str:
    """The grid as a LaTeX ``table`` of the package booktabs, with its title as caption."""
    rows = [" & ".join(map(_latex, row)) + r" \\" for row in (grid.header, *grid.rows)]
    return "\n".join(
        [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{_latex(grid.title)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(grid.header) - 1)}}}",
            r"\toprule",
            rows[0],
            r"\midrule",
            *rows[1:],
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    )


def to_csv(grid: Grid) -> str:
    """The grid as CSV under its header, without the title."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows((grid.header, *grid.rows))
    return text.getvalue()


def scores_csv(records: Sequence[RunRecord]) -> str:
    """Every measured score, one per line: run, method, seed, stage (0 is before any learning), learnt, task, score.

    Tasks that are never learnt come last; no line has them under ``learnt``.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("run", "method", "seed", "stage", "learnt", "task", "score"))
    for record in records:
        learning = [(0, ""), *((stage.index + 1, stage.task) for stage in record.stages)]
        zero_shot, unseen = record.zero_shot_row, list(record.unseen_zero_shot.values())
        for tasks, before, matrix in (
            (record.tasks, zero_shot, record.matrix),
            (list(record.unseen_zero_shot), unseen, record.unseen_matrix),
        ):
            writer.writerows(
                (record.name, record.method, record.seed, number, learnt, task, value)
                for number, learnt in learning
                for task, value in zip(tasks, matrix[number - 1] if number else before, strict=True)
                if value is not None
            )
    return text.getvalue()


def _run_title(record: RunRecord) -> str:
    figures = record.summary()
    known = [f"{key} {score(value)}" for key, value in figures.items() if value is not None]
    return "  ".join([f"{record.name} ({record.method}, seed {record.seed})", *known])


def _spread(spread: Spread | None, signed: bool) -> str:
    if spread is None:
        return NOT_MEASURED
    mean = change(spread.mean) if signed else score(spread.mean)
    return mean if spread.deviation is None else f"{mean} \N{PLUS-MINUS SIGN} {score(spread.deviation)}"


def _seconds(spread: Spread | None) -> str:
    return NOT_MEASURED if spread is None else f"{spread.mean:.0f}"


_LATEX = {
    **{character: f"\\{character}" for character in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "\N{MINUS SIGN}": "$-$",
    "\N{PLUS-MINUS SIGN}": r"$\pm$",
    "\N{EN DASH}": "--",
}


_MARKDOWN = {**{character: f"\\{character}" for character in "\\|[]"}, "<": "&lt;"}


def _latex(cell: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(cell.splitlines()))


def escaped(cell: str) -> str:
    """A text of data as it stands in Markdown, on one line: no column, element, link or picture is made of it."""
    return "".join(_MARKDOWN.get(character, character) for character in " ".join(cell.splitlines()))
