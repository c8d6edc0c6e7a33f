"""``gorp inspect``: what a run protects, layer by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gorp.space_file import find_space


def command(
    run: Annotated[
        Path,
        typer.Argument(
            metavar="RUN|EXPORT|FILE", help="A run folder, an export's, or a gradient space file.", show_default=False
        ),
    ],
) -> None:
    """Print the gradient space: the directions that every layer keeps for the tasks learnt so far.

    \b
    Examples:
      gorp inspect runs/desk
      gorp inspect exported
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
