"""``gorp evaluate``: what a run's model scores now."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gorp.cli.completion import run_folders
from gorp.cli.shared import is_first_process, progress_only
from gorp.errors import InputError


def command(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A run folder.", show_default=False, autocompletion=run_folders),
    ],
    task: Annotated[
        list[str] | None, typer.Option(help="Score this task; may be repeated.", show_default="all tasks")
    ] = None,
    split: Annotated[str, typer.Option(help="Rows to score on: test or validation.")] = "test",
    data: Annotated[str | None, typer.Option(help="Score the rows of this file or folder instead.")] = None,
    metric: Annotated[
        str | None,
        typer.Option(help="How rows of --data are scored: exact_match or rouge_l.", show_default="exact_match"),
    ] = None,
    model: Annotated[
        str | None, typer.Option(help="Where the base model is now.", show_default="as in the run")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print the scores alone.")] = False,
) -> None:
    """Print scores in percent, a line a task, of the model as it is after the last task learnt.

    Each task is scored by its own metric, exact match or ROUGE-L; those that the run never learns are scored, too.

    Example:  gorp evaluate runs/desk --task refunds --split validation
    """
    from gorp.launch import leave_ranks
    from gorp.learner import ContinualLearner
    from gorp.tasks import read_task

    if metric is not None and data is None:
        raise InputError("--metric is for the rows of --data; the tasks of a run are scored each by its own")
    with progress_only(quiet) as progress:
        learner = ContinualLearner.of_run(run, progress=progress, model=model)
        if data is None:
            scores = learner.evaluate(task or (), split)
        else:
            other = read_task(data, metric=metric or "exact_match")
            rows = [*other.train, *other.validation, *other.test]
            scores = {other.name: learner.score(rows, other.name, other.metric)}
    leave_ranks()
    if not is_first_process():
        return
    width = max(map(len, scores), default=0)
    for name, score in scores.items():
        print(f"{name:<{width}}  {'not measured' if score is None else f'{score:5.1f}'}")
