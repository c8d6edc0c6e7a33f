"""``gorp rollback``: yesterday's model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gorp.errors import command_line


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)],
    to: Annotated[
        str, typer.Option(help="The task after which to stand; base for before the first.", show_default=False)
    ],
) -> None:
    """Make a run exactly what it was when a task had just been learnt; later tasks are no longer known.

    Nothing is trained, and nothing lost at once: until something else is learnt, rolling to a later task puts it back.

    Example:  gorp rollback runs/desk --to refunds
    """
    from gorp.report.html import write_report
    from gorp.rollback import roll_back
    from gorp.run_folder import RunFolder

    folder = RunFolder.of_run(run)
    before = [task.name for task in folder.state.tasks] if folder.state else []
    learnt = list(folder.record().stages_by_task)
    with folder.locked():
        roll_back(folder, to)
        record = folder.record()
        write_report([record], run)
    gone = [name for name in before if name not in record.tasks]
    back = [name for name in record.tasks if name not in before]
    stands = f"stands after task {to!r}" if record.stages else "has learnt nothing"
    print(f"{run}: {stands}")
    if gone:
        way_back = (
            f"; until something else is learnt, {command_line('--to', learnt[-1])} puts them back"
            if learnt[-1:] != [to]
            else ""
        )
        print(f"no longer known: {', '.join(gone)}{way_back}")
    if back:
        print(f"put back: {', '.join(back)}")
