"""``gorp export``: a run's model as others load it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gorp.cli.shared import progress_only


def command(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="A run folder.", show_default=False)],
    out: Annotated[Path, typer.Argument(metavar="OUT", help="The folder to write.", show_default=False)],
    to: Annotated[
        str | None, typer.Option("--to", metavar="TASK", help="As after this task.", show_default="the last one learnt")
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="The task to export, of a method that keeps weights for each.", show_default=False),
    ] = None,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="A peft LoRA adapter; not where layers learnt at full rank.")
    ] = False,
    dtype: Annotated[
        str | None, typer.Option(help="Of the weights: float32 or bfloat16.", show_default="as in the run")
    ] = None,
    push: Annotated[
        str | None, typer.Option(metavar="REPO", help="Send it to the hub, too: NAME/MODEL.", show_default=False)
    ] = None,
    public: Annotated[bool, typer.Option("--public", help="Let everyone see a repository that --push makes.")] = False,
    model: Annotated[
        str | None, typer.Option(help="Where the base model is now.", show_default="as in the run")
    ] = None,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace an export of another run, too, or one that was changed."),
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Write a run's model as a plain transformers model, with tokenizer, model card and gradient space.

    It loads without gorp. An earlier export of the same run is replaced.

    \b
    Examples:
      gorp export runs/desk desk-model
      gorp export runs/desk desk-adapter --adapter --push me/desk
    """
    from gorp import hub
    from gorp.export import export_run

    if push is not None:
        hub.check_repo(push)
    with progress_only(quiet):
        done = export_run(run, out, to, task, adapter, dtype, model, overwrite, push)
        pushed = hub.push(done.folder, push, public, f"gorp export of {run.name}") if push is not None else None
    if not quiet:
        print(*done.notes, f"written: {out}", *([f"pushed: {pushed}"] if pushed else []), sep="\n")
