"""``gorp report``: the tables of one or more runs in the terminal, and one self-contained page about them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from gorp.cli.completion import run_folders
from gorp.errors import InputError


def command(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...",
            help="Run folders, or a folder of run folders.",
            show_default=False,
            autocompletion=run_folders,
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(help="Where the page goes: a file or a folder.", show_default="report.html in the run's folder"),
    ] = None,
    against: Annotated[
        Path | None,
        typer.Option(
            metavar="OTHER",
            help="Set one run against this other one; the page goes beside RUN's own.",
            show_default=False,
        ),
    ] = None,
    png: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also write every plot to a PNG file there.")
    ] = None,
    csv: Annotated[Path | None, typer.Option(help="Also write every score to this CSV file.")] = None,
    markdown: Annotated[Path | None, typer.Option(help="Also write the tables to this Markdown file.")] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing.")] = False,
) -> None:
    """Print what runs learnt and kept, and write report.html.

    Several runs are compared; runs of one method that differ in their seed become one line with mean and spread. Two
    runs are also set against each other: by task with 95% intervals, by setting and by layer.

    \b
    Examples:
      gorp report runs/desk
      gorp report runs/gorp runs/seq-lora --out comparison.html
      gorp report runs/desk --against runs/desk-before --png plots
    """
    from gorp.files import write_text_atomically
    from gorp.report.comparison import group_runs
    from gorp.report.html import write_report
    from gorp.report.record import RunRecord
    from gorp.report.run_plots import report_plots, write_pngs
    from gorp.report.tables import comparison_grid, matrix_grid, scores_csv, to_markdown, unseen_grid

    folders = find_runs(runs) if against is None else [*_only(runs), *_only([against])]
    records = [RunRecord.load(folder) for folder in folders]
    if csv is not None:
        write_text_atomically(csv, scores_csv(records))
    if markdown is not None:
        grids = [grid for record in records for grid in (matrix_grid(record), unseen_grid(record)) if grid is not None]
        grids += [comparison_grid(group_runs(records))] if len(records) > 1 else []
        write_text_atomically(markdown, "\n".join(to_markdown(grid) for grid in grids))
    page = write_report(records, out or (_beside(*folders) if against is not None else _common_folder(runs, folders)))
    pictures = write_pngs(report_plots(records), png) if png is not None else []
    if not quiet:
        from gorp.report.terminal import print_records

        print_records(records)
        print(f"report: {page}", file=sys.stdout)
        if pictures:
            print(f"plots: {len(pictures)} in {png}", file=sys.stdout)


def find_runs(given: list[Path]) -> list[Path]:
    """The run folders (or record files) that ``given`` names; a folder without a record stands for the runs in it.

    Raises ``InputError`` naming a path that is neither.
    """
    from gorp.report.record import RECORD_FILE

    found: list[Path] = []
    for path in given:
        if path.is_dir() and not (path / RECORD_FILE).exists():
            inside = sorted(record.parent for record in path.glob(f"*/{RECORD_FILE}"))
            if not inside:
                raise InputError(f"{path}: holds no {RECORD_FILE}, nor does any folder in it; give a run folder")
            found += inside
        else:
            found.append(path)
    return found


def _common_folder(given: list[Path], folders: list[Path]) -> Path:
    """The folder itself if one was given; the nearest folder above all runs otherwise."""
    if len(given) == 1 and given[0].is_dir():
        return given[0]
    homes = [folder.absolute() if folder.is_dir() else folder.absolute().parent for folder in folders]
    return homes[0] if len(homes) == 1 else Path(os.path.commonpath([home.parent for home in homes]))


def _only(given: list[Path]) -> list[Path]:
    found = find_runs(given)
    if len(found) != 1:
        raise InputError(f"{', '.join(map(str, given))}: {len(found)} runs; --against sets one run against one other")
    return found


def _beside(run: Path, other: Path) -> Path:
    """The page about a run and an other one, in the run's folder."""
    home, others = (path if path.is_dir() else path.parent for path in (run, other))
    return home / f"against-{others.absolute().name}.html"
