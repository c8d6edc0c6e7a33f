"""Run the fault suite: every fault at every moment, or many random kills; print what followed.

    make faults                                     the table; exit code 1 if a cell is red
    make faults FAULTS_ARGS='--only SIGTERM'        the cells whose row or column has that in its name
    make faults-nightly                             200 random SIGKILLs over a run of five tasks

By hand it needs the tests' folder: ``PYTHONPATH=tests OMP_NUM_THREADS=1 python -m faults``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich import box
from rich.console import Console
from rich.table import Table as Grid

from faults.child import warm_up
from faults.kills import kill_at_random
from faults.table import Cell, Table, run_cell
from faults.tiny_run import TinyRun


def run_cells(cells: Sequence[Cell], workers: int, console: Console) -> dict[tuple[str, str], tuple[bool, str]]:
    """Verdicts by row and column, of processes forked from this one."""
    found: dict[tuple[str, str], tuple[bool, str]] = {}
    running: dict[int, tuple[Cell, int]] = {}
    waiting = list(cells)
    while waiting or running:
        while waiting and len(running) < workers:
            reading, writing = os.pipe()
            cell = waiting.pop(0)
            pid = os.fork()
            if not pid:
                os.write(writing, json.dumps(run_cell(cell)).encode()[:60000])
                os._exit(0)
            os.close(writing)
            running[pid] = cell, reading
        pid, _ = os.wait()
        cell, reading = running.pop(pid)
        with os.fdopen(reading, "rb") as pipe:
            good, said = json.loads(pipe.read() or b'[false, "the cell itself was ended"]')
        found[cell.row, cell.column] = good, said
        if len(found) % 20 == 0:
            console.print(f"{len(found)} of {len(cells)} cells", style="dim")
        if not good:
            console.print(f"red: {cell.row} x {cell.column}: {said}", style="red", markup=False, highlight=False)
    return found


def to_grids(verdicts: dict[tuple[str, str], tuple[bool, str]]) -> list[Grid]:
    """One grid for each set of rows that have the same columns in common."""
    by_row: dict[str, list[str]] = {}
    for row, column in verdicts:
        by_row.setdefault(row, []).append(column)
    groups: list[tuple[list[str], list[str]]] = []
    for row, columns in by_row.items():
        if groups and set(columns) & set(groups[-1][1]):
            groups[-1][0].append(row)
            groups[-1][1].extend(column for column in columns if column not in groups[-1][1])
        else:
            groups.append(([row], list(columns)))
    grids = []
    for rows, columns in groups:
        grid = Grid("", *columns, box=box.SIMPLE_HEAD)
        for row in rows:
            grid.add_row(row, *(_word(verdicts.get((row, column))) for column in columns))
        grids.append(grid)
    return grids


def _word(verdict: tuple[bool, str] | None) -> str:
    if verdict is None:
        return "-"
    return f"[green]{verdict[1]}[/]" if verdict[0] else "[red]RED[/]"


def main() -> int:
    """Run what is asked for; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="cells whose row or column contains this, or one of A|B|C")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="cells at a time")
    parser.add_argument("--kills", type=int, default=0, help="instead of the table, so many random kills")
    parser.add_argument("--seed", type=int, default=0, help="of the random kills")
    given = parser.parse_args()
    torch.set_num_threads(1)  # or forked children would wait for threads that they do not have
    console = Console(width=None if sys.stdout.isatty() else 140)
    began = time.monotonic()
    if os.access("/dev/shm", os.W_OK):  # thousands of files are made durable; in memory that costs nothing
        tempfile.tempdir = "/dev/shm"
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        run = TinyRun(Path(folder) / "tiny")
        if given.kills:
            return kill_at_random(run, Path(folder), given.kills, given.seed, console)
        run.make()
        warm_up(run.arguments(Path(folder) / "warm"))
        table = Table(run, Path(folder))
        table.prepare()
        parts = given.only.split("|")
        cells = [cell for cell in table.cells() if any(part in f"{cell.row} x {cell.column}" for part in parts)]
        verdicts = run_cells(cells, given.workers, console)
    for grid in to_grids({(cell.row, cell.column): verdicts[cell.row, cell.column] for cell in cells}):
        console.print(grid)
    red = [name for name, (good, _) in verdicts.items() if not good]
    seconds = time.monotonic() - began
    console.print(
        f"{len(verdicts) - len(red)} of {len(verdicts)} cells green, {seconds:.0f} s on {given.workers} workers"
    )
    return 1 if red else 0


if __name__ == "__main__":
    sys.exit(main())
