"""``gorp data``: list the streams and benchmarks there are, or check data before training on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gorp.cli.completion import streams
from gorp.cli.shared import parse_list
from gorp.errors import InputError

if TYPE_CHECKING:
    from gorp.tasks import Task, TaskStream


def command(
    target: Annotated[
        str | None,
        typer.Argument(
            help="A stream's name or YAML file, a data file, a folder of one task, or hub:NAME.", autocompletion=streams
        ),
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

    Of each task: its rows, its labels, the words of a prompt (median, longest) and of the longest answer, its score.

    \b
    Examples:
      gorp data                                  what there is by name
      gorp data builtin --show 1                 the built-in stream, a prompt of each task
      gorp data standard-cl/1 --data ~/CL_Benchmark
      gorp data superni/1 --data ~/SAPT/CL_Benchmark
      gorp data tickets.csv --labels billing,shipping,returns
    """
    if target is None:
        _list()
        return
    stream = _load(target, data, labels)
    _print_table(stream.name, stream)
    if stream.unseen:
        _print_table(f"{stream.name}: measured, never learnt", stream.unseen)
    for task in (*stream, *stream.unseen):
        _print_details(task, show)


def _list() -> None:
    import textwrap

    from gorp.tasks.benchmarks import BENCHMARKS, UNSEEN

    typer.echo("builtin         five tasks cut from the documentation of installed libraries; needs nothing")
    for name, order in BENCHMARKS.items():
        measured = f"; measures {', '.join(UNSEEN[name])}" if name in UNSEEN else ""
        typer.echo(textwrap.fill(f"{name:15} {', '.join(order)}{measured}", 100, subsequent_indent=" " * 16))
    typer.echo("The benchmarks' data is read from --data DIR or $GORP_DATA. Check any of them:  gorp data builtin")


def _load(target: str, data: Path | None, labels: str | None) -> TaskStream:
    from gorp.tasks import TaskStream, read_task
    from gorp.tasks.sources import HUB

    is_data = target.startswith(HUB) or Path(target).exists() or bool(Path(target).suffix)
    is_file_of_stream = target.endswith((".yaml", ".yml"))
    if labels is not None and (is_file_of_stream or not is_data):
        raise InputError("--labels is for a data file; the tasks of a stream have theirs")
    if is_file_of_stream:
        return TaskStream.from_yaml(target, data_dir=data)
    if is_data:
        listed = None if labels is None else parse_list(labels)
        return TaskStream(target, [read_task(target, labels=listed)])
    return TaskStream.from_name(target, data_dir=data)


def _print_table(title: str, tasks: Sequence[Task]) -> None:
    from rich.table import Table

    from gorp.report.terminal import open_console
    from gorp.tasks.check import summarise
    from gorp.tasks.task import METRICS

    table = Table(title=title, title_justify="left")
    table.add_column("task", overflow="fold")
    for column in ("train", "validation", "test", "labels", "words", "longest", "answer"):
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("score", no_wrap=True)
    for task in tasks:
        row = summarise(task)
        kinds = str(len(task.labels)) if task.labels else "free"
        figures = (row.train, row.validation, row.test, kinds, row.median_words, row.longest_words, row.longest_answer)
        table.add_row(row.name, *map(str, figures), METRICS[task.metric])
    open_console().print(table)


def _print_details(task: Task, show: int) -> None:
    from gorp.tasks.check import problems, summarise

    counts = summarise(task).per_label
    if counts:
        typer.echo(f"{task.name}: " + ", ".join(f"{label} {count}" for label, count in counts.items()))
    for problem in problems(task):
        typer.echo(f"{task.name}: warning: {problem}")
    for row in task.train[:show]:
        typer.echo(f"--- {task.name}\n{row.prompt} {row.answer}\n---")
