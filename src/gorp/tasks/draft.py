"""A task as drafted from somebody's file: what its columns seem to be, and what there is to know about its rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from gorp.errors import InputError
from gorp.tasks.discover import DataFile
from gorp.tasks.forms import check_labels, is_empty, to_rows
from gorp.tasks.guess import Column, Guess, guess_columns, look_at_columns
from gorp.tasks.readers import Record, read_records

#: Fewer different texts than this cannot be split into rows to learn from and rows to test on.
FEWEST_TEXTS = 5


@dataclass(frozen=True)
class Draft:
    """A task to be: its files, their columns, what they were taken for, and notes in sentences.

    ``rows`` are those that can be used, ``incomplete`` those without a text or an answer.
    """

    data: DataFile
    columns: list[Column]
    guess: Guess
    rows: int
    incomplete: int
    longest_words: int
    longest_answer: int
    notes: tuple[str, ...]

    @property
    def labels(self) -> list[str] | None:
        """The labels to list in a stream file, ``[]`` for free answers; None where a ``labels.json`` lists them."""
        return None if (self.data.path / "labels.json").is_file() else list(self.guess.labels)


def draft_task(data: DataFile, given: Mapping[str, str] | None = None) -> Draft:
    """Read a task's files and guess what their columns are; ``given`` says of some parts which column they are.

    Raises:
        InputError: a file cannot be read, the columns cannot be told, or there are too few rows.
    """
    by_file = {file: read_records(file) for file in data.files()}
    records = [record for found in by_file.values() for record in found]
    columns = look_at_columns(records)
    guess = guess_columns(columns, given)
    rows = to_rows(records, guess.columns, skip_incomplete=True)
    check_labels(rows, guess.labels)
    first = next(iter(by_file))
    different = len({row.text for row in rows})
    if different < FEWEST_TEXTS:
        raise InputError(f"{first}: {different} different texts with an answer; at least {FEWEST_TEXTS} are needed")
    incomplete = len(records) - len(rows)
    words = [len(row.text.split()) for row in rows]
    return Draft(
        data=data,
        columns=columns,
        guess=guess,
        rows=len(rows),
        incomplete=incomplete,
        longest_words=max(words),
        longest_answer=max(len(row.answer.split()) for row in rows),
        notes=(
            *_headless(columns),
            *_unused(columns, guess),
            *_notes(guess, incomplete, len(rows) - different, by_file),
        ),
    )


def _headless(columns: Sequence[Column]) -> list[str]:
    named = [column.name for column in columns if column.name in column.values]
    return [f"{named[0]!r} names a column and is a value in it: does the file lack a line of names?"] if named else []


def _unused(columns: Sequence[Column], guess: Guess) -> list[str]:
    used = {*guess.columns.values(), *guess.others}
    texts = [column.name for column in columns if column.may_be_text and column.name not in used]
    return (
        [f"left out, though texts: {', '.join(texts)}; to learn from them, join columns in the file"] if texts else []
    )


def _notes(guess: Guess, incomplete: int, repeated: int, by_file: Mapping[Path, Sequence[Record]]) -> list[str]:
    notes = []
    if guess.others:
        notes.append(f"{', '.join(guess.others)} may be the label as well: --columns label={guess.others[0]}")
    if incomplete:
        empty = {column: _empty(column, by_file) for column in guess.columns.values()}
        told = ", ".join(f"{count} without {column}" for column, count in empty.items() if count)
        notes.append(f"rows left out: {told}")
    if repeated:
        notes.append(f"{repeated} rows have the text of another row; none of them is both learnt and tested on")
    return notes


def _empty(column: str, by_file: Mapping[Path, Sequence[Record]]) -> int:
    return sum(is_empty(record.values.get(column)) for records in by_file.values() for record in records)
