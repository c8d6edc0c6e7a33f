"""``gorp learn``: one more task, on another day."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from gorp.cli.completion import run_folders
from gorp.cli.shared import is_first_process, parse_columns, parse_list, progress_only, reporting_breach
from gorp.preemption import stopped_by


@stopped_by(signal.SIGTERM)
def command(
    run: Annotated[
        Path,
        typer.Argument(metavar="RUN", help="A run folder.", show_default=False, autocompletion=run_folders),
    ],
    data: Annotated[str, typer.Argument(metavar="DATA", help="A file, a folder or hub:NAME.", show_default=False)],
    name: Annotated[str | None, typer.Option(help="The task's name.", show_default="that of DATA")] = None,
    columns: Annotated[
        str | None, typer.Option(metavar="text=COLUMN,label=COLUMN", help="What DATA calls its columns.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(help="Its labels, between commas; '' for free answers.", show_default="as in DATA")
    ] = None,
    instruction: Annotated[str | None, typer.Option(help="What its prompts begin with.")] = None,
    metric: Annotated[str, typer.Option(help="How its answers are scored: exact_match or rouge_l.")] = "exact_match",
    test: Annotated[Path | None, typer.Option(help="Test rows.", show_default="split from DATA")] = None,
    model: Annotated[
        str | None, typer.Option(help="Where the base model is now.", show_default="as in the run")
    ] = None,
    max_forgetting: Annotated[
        float | None,
        typer.Option(help="Points that earlier tasks may lose, each and on average.", show_default="as in the run"),
    ] = None,
    on_breach: Annotated[
        str | None,
        typer.Option(help="What follows if they lose more: stop, rollback or retry.", show_default="as in the run"),
    ] = None,
    accept_breach: Annotated[
        bool, typer.Option("--accept-breach", help="Go on although the last task broke the forgetting budget.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Teach a run one more task, protect what it knows, and evaluate every task.

    \b
    Examples:
      gorp learn runs/desk refunds.jsonl --name refunds
      gorp learn runs/desk refunds.jsonl --max-forgetting 1 --on-breach rollback

    Where the task costs earlier ones more than is allowed, it ends with exit code 3.
    """
    from gorp.launch import leave_ranks
    from gorp.learner import ContinualLearner
    from gorp.report.html import write_report
    from gorp.tasks import Limits, read_task

    given = {"max_forgetting": max_forgetting, "on_breach": on_breach}
    budget = {key: value for key, value in given.items() if value is not None}
    with reporting_breach(run), progress_only(quiet) as progress:
        learner = ContinualLearner.of_run(run, progress=progress, model=model, budget=budget)
        rows = learner.config.data
        task = read_task(
            data,
            name=name,
            columns=parse_columns(columns) if columns is not None else None,
            labels=None if labels is None else parse_list(labels),
            instruction=instruction,
            test=test,
            metric=metric,
            name_task_in_prompt=rows.name_task_in_prompt,
            limits=Limits(rows.train_rows, rows.test_rows, rows.validation_rows, learner.config.seed),
        )
        if accept_breach:
            learner.accept_breach()
        learner.learn(task)
    leave_ranks()
    if not is_first_process():
        return
    page = write_report([learner.record], run)
    if not quiet:
        from gorp.report.terminal import print_records

        print_records([learner.record])
        print(f"report: {page}")
