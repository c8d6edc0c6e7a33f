"""``gorp data``: list the streams and benchmarks there are, or check data before training on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from gorp.tasks import Task, TaskStream


def command(
    target: Annotated[
        str | None,
        typer.Argument(help="A stream's name or YAML file, a data file, a folder of one task, or hub:NAME."),
    ] = None,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="DIR", help="Folder of the benchmarks' data; default $GORP_DATA.")
    ] = None,
    labels: Annotated[
        str | None, typer.Option(metavar="A,B,...", help="Labels of a data file; '' for free answers.")
    ] = None,
    show: Annotated[int, typer.Option(min=0, help="Print so many prompts of each task.")] = 0,
) -> None:
    """List the streams and benchmarks there are, or check data before training on it.

    \b
    Examples:
      gorp data                                  what there is by name
      gorp data builtin --show 1                 the built-in stream, a prompt of each task
      gorp data standard-cl/1 --data ~/CL_Benchmark
      gorp data tickets.csv --labels billing,shipping,returns
    """
    if target is None:
        _list()
        return
    tasks = _load(target, data, labels)
    _print_table(tasks)
    for task in tasks:
        _print_details(task, show)


def _list() -> None:
    from gorp.tasks.benchmarks import BENCHMARKS

    typer.echo("builtin         five tasks cut from the documentation of installed libraries; needs nothing")
    for name, order in BENCHMARKS.items():
        typer.echo(f"{name:15} {', '.join(order)}")
    typer.echo("The benchmarks' data is read from --data DIR or $GORP_DATA. Check any of them:  gorp data builtin")


def _load(target: str, data: Path | None, labels: str | None) -> TaskStream:
    from gorp.tasks import TaskStream, read_task
    from gorp.tasks.sources import HUB

    if target.endswith((".yaml", ".yml")):
        return TaskStream.from_yaml(target, data_dir=data)
    if target.startswith(HUB) or Path(target).exists() or Path(target).suffix:
        listed = None if labels is None else [label.strip() for label in labels.split(",") if label.strip()]
        return TaskStream(target, [read_task(target, labels=listed)])
    return TaskStream.from_name(target, data_dir=data)


def _print_table(tasks: TaskStream) -> None:
    from rich.console import Console
    from rich.table import Table

    from gorp.tasks.check import summarise

    table = Table(title=tasks.name, title_justify="left")
    for column in ("task", "train", "validation", "test", "labels", "words", "longest"):
        table.add_column(column, justify="left" if column == "task" else "right", no_wrap=True)
    for task in tasks:
        row = summarise(task)
        kinds = str(len(task.labels)) if task.labels else "free"
        figures = (row.train, row.validation, row.test, kinds, row.median_words, row.longest_words)
        table.add_row(row.name, *map(str, figures))
    Console().print(table)


def _print_details(task: Task, show: int) -> None:
    from gorp.tasks.check import problems, summarise

    counts = summarise(task).per_label
    if counts:
        typer.echo(f"{task.name}: " + ", ".join(f"{label} {count}" for label, count in counts.items()))
    for problem in problems(task):
        typer.echo(f"{task.name}: warning: {problem}")
    for row in task.train[:show]:
        typer.echo(f"--- {task.name}\n{row.prompt} {row.answer}\n---")
