"""``gorp inspect``: what a run protects, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gorp.errors import InputError


def command(
    run: Annotated[
        Path, typer.Argument(metavar="RUN|FILE", help="A run folder, or a gradient space file.", show_default=False)
    ],
) -> None:
    """Print the gradient space: the directions that every layer keeps for the tasks learnt so far.

    \b
    Examples:
      gorp inspect runs/desk
      gorp inspect space.safetensors
    """
    file = find_space(run)

    from gorp.report.space import describe_space, space_grid
    from gorp.report.tables import to_rich
    from gorp.report.terminal import open_console
    from gorp.space import GradientSpace

    space = GradientSpace.load(file)
    console = open_console()
    console.print(to_rich(space_grid(space)))
    for line in describe_space(space, file.stat().st_size):
        console.print(line, markup=False, highlight=False)


def find_space(run: Path) -> Path:
    """The gradient space file that ``run`` is or holds; ``InputError`` if there is none."""
    if not run.is_dir():
        if not run.exists():
            raise InputError(f"{run}: no such file or folder; give a run folder or a gradient space file")
        return run

    from gorp.space import SPACE_FILE

    file = run / SPACE_FILE
    if not file.exists():
        raise InputError(
            f"{run}: holds no {SPACE_FILE}; either no task is learnt yet, or the run's method keeps no gradient space"
        )
    return file
