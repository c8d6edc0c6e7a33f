"""``gorp init``: from a folder of data to files that can be run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gorp.cli.shared import parse_columns
from gorp.errors import InputError, command_line

if TYPE_CHECKING:
    from gorp.tasks.draft import Draft


def command(
    data: Annotated[
        Path,
        typer.Argument(metavar="DATA", help="A folder of CSV, JSONL or Parquet files, or one.", show_default=False),
    ],
    out: Annotated[Path, typer.Option(help="The settings to write; the tasks go to stream.yaml.")] = Path("gorp.yaml"),
    columns: Annotated[
        list[str] | None,
        typer.Option(metavar="[FILE:]text=COLUMN,label=COLUMN", help="Say what columns are, of all files or of one."),
    ] = None,
    model: Annotated[str, typer.Option(help="The model to teach.")] = "t5-tiny",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Write the files without asking.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Write over files that are there.")] = False,
) -> None:
    """Look at data, guess what its columns are, show the guess, and write the two files that `gorp run` needs.

    Each file is a task; NAME-train.csv and NAME-test.csv are one, and so is a folder with train.csv and test.csv.

    \b
    Examples:
      gorp init data
      gorp init tickets.csv --columns text=body,label=queue --out desk.yaml
    """
    from gorp.files import write_text_atomically
    from gorp.starter import config_text, stream_path, stream_text

    stream = stream_path(out, data)
    if out.resolve() == stream.resolve():
        raise InputError(f"--out {out}: is the file that the tasks go to; accepted: another name, such as gorp.yaml")
    if not force:
        _refuse_to_overwrite([out, stream])
    drafts = _draft(data, columns or [])
    if not yes and not _approved(f"write {out} and {stream}?"):
        typer.echo("Nothing is written. To correct a guess:  --columns text=COLUMN,label=COLUMN")
        raise typer.Exit(1)
    name = (data if data.is_dir() else data.parent).resolve().name or "tasks"
    write_text_atomically(stream, stream_text(name, drafts, stream))
    write_text_atomically(out, config_text(stream, drafts, out, model))
    typer.echo(f"wrote {stream}: the tasks. Look at them:  {command_line('gorp', 'data', stream)}")
    typer.echo(f"wrote {out}: the settings. Learn:  {command_line('gorp', 'run', out)}")


def _by_file(columns: list[str]) -> dict[str | None, dict[str, str]]:
    """What ``--columns`` says of each file, under None of all of them."""
    given: dict[str | None, dict[str, str]] = {}
    for text in columns:
        name, colon, _ = text.partition("=")[0].rpartition(":")
        pairs = text.removeprefix(f"{name}:") if colon else text
        given.setdefault(name if colon else None, {}).update(parse_columns(pairs))
    return given


def _refuse_to_overwrite(files: list[Path]) -> None:
    there = next((file for file in files if file.exists()), None)
    if there is not None:
        raise InputError(f"{there}: is there already; accepted: --force to write over it, or another folder in --out")


def _draft(data: Path, columns: list[str]) -> list[Draft]:
    """Draft and show every task; those that cannot be understood are named, and are an error if there is no other."""
    from gorp.errors import nearest
    from gorp.report.terminal import open_console
    from gorp.tasks.discover import find_data
    from gorp.tasks.draft import draft_task

    found, given = find_data(data), _by_file(columns)
    names = [file.name for file in found]
    for name in given:
        if name is not None and name not in names:
            raise InputError(f"--columns: there is no file {name!r}{nearest(name, names)}; found: {', '.join(names)}")
    console = open_console()
    drafts, left_out = [], []
    for file in found:
        try:
            draft = draft_task(file, {**given.get(None, {}), **given.get(file.name, {})})
        except InputError as error:
            place = "" if str(error).startswith(str(file.path)) else f"{file.path}: "
            left_out.append(f"{place}{error}")
            continue
        drafts.append(draft)
        console.print(_table(draft))
        for note in draft.notes:
            console.print(f"  {note}", markup=False, highlight=False)
    if not drafts:
        more = f" (and {len(left_out) - 1} more files)" if len(left_out) > 1 else ""
        raise InputError(left_out[0] + more)
    for reason in left_out:
        console.print(f"! left out: {reason}", markup=False, highlight=False, style="yellow")
    return drafts


def _table(draft: Draft) -> object:
    from rich.table import Table
    from rich.text import Text

    parts = {column: part for part, column in draft.guess.columns.items()}
    files = ", ".join(file.name for file in draft.data.files())
    table = Table(title=Text(f"{draft.data.name}: {draft.rows} rows of {files}"), title_justify="left")
    for heading in ("column", "taken for", "values", "for example"):
        table.add_column(heading, overflow="fold")
    for column in draft.columns:
        part = parts.get(column.name)
        many = f"{column.words:.0f} words" if column.may_be_text else ""
        values = ", ".join(draft.guess.labels) if part == "label" and draft.guess.labels else many
        cells = [column.name, part or "-", _cut(values), _cut("  |  ".join(map(_cut, column.examples[:2])), 120)]
        table.add_row(*map(Text, cells), style=None if part else "dim")
    return table


def _cut(text: str, width: int = 56) -> str:
    line = " ".join(text.split())
    return line if len(line) <= width else f"{line[: width - 1]}…"


def _approved(question: str) -> bool:
    if not sys.stdin.isatty():
        typer.echo("Taken as shown, without asking: the input is no terminal.", err=True)
        return True
    return typer.confirm(f"Is this right: {question}", default=True)
