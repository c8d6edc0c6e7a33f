"""``gorp history``: what happened to a run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON.")] = False,
) -> None:
    """Print the tasks that a run has learnt, what each left of the others, and whatever else happened to it.

    Example:  gorp history runs/desk
    """
    import json

    from gorp.report.history import describe_event, history, history_grid
    from gorp.run_folder import RunFolder
    from gorp.timeline import read_timeline

    folder = RunFolder.of_run(run)
    timeline = read_timeline(folder.path)
    told = history(folder.record(), timeline.record if timeline else None)
    if as_json:
        print(json.dumps(told, indent=1))
        return

    from gorp.report.tables import to_rich
    from gorp.report.terminal import open_console

    console = open_console()
    console.print(to_rich(history_grid(told)))
    for event in told["events"]:
        console.print(describe_event(event), markup=False, highlight=False)
