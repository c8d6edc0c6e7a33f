"""Runs on a terminal: their matrices, what they mean in words, and the comparison."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console, RenderableType
from rich.text import Text

from gorp.report.comparison import group_runs
from gorp.report.record import RunRecord
from gorp.report.tables import comparison_grid, matrix_grid, needs_compact, to_rich, unseen_grid
from gorp.report.words import findings

_WIDTH_OF_A_FILE = 200  # columns where nobody's window sets them


def open_console(stderr: bool = False) -> Console:
    """A console on stdout (or stderr): as wide as the window, or wide enough for every table in a file or pipe."""
    console = Console(stderr=stderr)
    return console if console.is_terminal else Console(stderr=stderr, width=_WIDTH_OF_A_FILE)


def print_records(records: Sequence[RunRecord], console: Console | None = None) -> None:
    """Print every run's matrix with its findings and, for several runs, the comparison at the end."""
    console = console or open_console()
    for record in records:
        _print(console, to_rich(matrix_grid(record, compact=needs_compact(record))))
        if (unseen := unseen_grid(record)) is not None:
            _print(console, to_rich(unseen))
        for finding in findings(record):
            warns = finding.kind == "warning"
            _print(console, Text(("! " if warns else "  ") + finding.text, style="yellow" if warns else ""))
        _print(console, "")
    if len(records) > 1:
        _print(console, to_rich(comparison_grid(group_runs(records))))


def _print(console: Console, what: RenderableType) -> None:
    console.print(what, markup=False, highlight=False)
