"""``gorp list``: the methods there are, and what each keeps, stores and costs."""

from __future__ import annotations

from typing import Annotated

import typer

from gorp.errors import InputError, nearest

WHAT = ("methods",)


def command(
    what: Annotated[str, typer.Argument(help="What to list: methods.", autocompletion=lambda: list(WHAT))] = "methods",
) -> None:
    """List the methods, with what each keeps of the past, what it costs and the options it has.

    \b
    Example:
      gorp list methods
    """
    if what not in WHAT:
        raise InputError(f"cannot list {what!r}{nearest(what, WHAT)}; accepted: {', '.join(WHAT)}")
    from gorp.methods import METHODS, load_method

    for name in METHODS:
        method = load_method(name)
        notes = [
            *(["trains on old rows"] if method.keeps_old_rows else []),
            *(["is told which task is scored"] if method.told_task else []),
        ]
        typer.echo(f"{name}  ({', '.join(notes)})" if notes else name)
        typer.echo(f"    source   {method.source}\n    keeps    {method.keeps}\n    costs    {method.costs}")
        for option, field in method.Options.model_fields.items():
            typer.echo(f"    option   {option} = {field.get_default(call_default_factory=True)}: {field.description}")
