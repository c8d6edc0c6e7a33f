"""``gorp retract``: a task that is no longer wanted gives back its room."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)],
    task: Annotated[str, typer.Argument(metavar="TASK", help="The task no longer wanted.", show_default=False)],
    tolerance: Annotated[
        float, typer.Option(min=0, max=1, help="Share of its protection that any other task may lose.")
    ] = 0.01,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Give back the directions that a task took and no other one relies on; later tasks may overwrite it then.

    The weights stay as they are, and so does what the model answers.

    Example:  gorp retract runs/desk returns
    """
    import json
    from dataclasses import asdict

    from gorp.report.html import write_report
    from gorp.run_folder import RunFolder
    from gorp.run_retraction import retract_task

    folder = RunFolder.of_run(run)
    with folder.locked():
        done = retract_task(folder, task, tolerance)
        write_report([folder.record()], run)
    if as_json:
        print(json.dumps({"run": str(run), "task": task, "tolerance": tolerance, **asdict(done)}, indent=1))
        return

    from gorp.report.retraction import coverage_grid, retraction_grid
    from gorp.report.tables import to_rich
    from gorp.report.terminal import open_console

    console = open_console()
    if not done.repeated:
        console.print(to_rich(retraction_grid(done)))
    if done.before:
        console.print(to_rich(coverage_grid(done)))
    console.print(f"task {task!r}: {done.note}; it is protected no more", markup=False, highlight=False)
