"""``gorp diff``: what changed between two tasks of a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gorp.cli.shared import progress_only


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)],
    first: Annotated[str, typer.Argument(metavar="TASK", help="After this task, or base.", show_default=False)],
    second: Annotated[str, typer.Argument(metavar="TASK", help="After this one.", show_default=False)],
    every: Annotated[bool, typer.Option("--all", help="Every layer, not those alone that moved most.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
    model: Annotated[
        str | None, typer.Option(help="Where the base model is now.", show_default="as in the run")
    ] = None,
) -> None:
    """Print which layers moved between two tasks, how far and where, and what each task lost.

    Directions are those that hold 95% of a layer's change. A column per task tells the share of the change that lies in
    the directions which the gradient space took for it: next to nothing for those that were protected.

    Example:  gorp diff runs/desk returns refunds
    """
    import json
    from dataclasses import asdict

    from gorp.difference import compare_stages
    from gorp.run_folder import RunFolder

    with progress_only(quiet=True):
        difference = compare_stages(RunFolder.of_run(run), first, second, model)
    if as_json:
        told = asdict(difference)
        told["tasks"] = {
            name: {**asdict(task), "lost": task.lost.model_dump() if task.lost else None}
            for name, task in difference.tasks.items()
        }
        print(json.dumps(told, indent=1))
        return

    from gorp.report.difference import layers_grid, tasks_grid
    from gorp.report.tables import to_rich
    from gorp.report.terminal import open_console

    console = open_console()
    console.print(to_rich(layers_grid(difference, every)))
    console.print(to_rich(tasks_grid(difference)))
