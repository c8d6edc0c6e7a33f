"""The rows that a run keeps of a task, to score it again on another day: JSON lines, one file a split."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from gorp.checksums import CHECKSUMS, checksums_of, verify
from gorp.errors import InputError, first_problem
from gorp.files import write_text_atomically
from gorp.tasks import Example, Task


def write_rows(folder: Path, task: Task) -> None:
    """Write a task's test and validation rows, a file each; ``folder`` is made if need be.

    Raises:
        GorpError: a file cannot be written.
    """
    splits = {"test.jsonl": task.test, "validation.jsonl": task.validation}
    for name, rows in splits.items():
        write_text_atomically(folder / name, "".join(f"{row.to_json()}\n" for row in rows))
    write_text_atomically(folder / CHECKSUMS, checksums_of(folder, splits))


def read_rows(path: Path) -> list[Example]:
    """Read rows that `write_rows` wrote.

    Raises:
        InputError: the file is missing or damaged; the message names file and line.
    """
    rows = []
    try:
        verify(path)
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error}); the run folder is damaged") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8; the run folder is damaged") from None
    for number, line in enumerate(lines, start=1):
        try:
            rows.append(Example.from_json(line))
        except ValidationError as error:
            what = first_problem(error)
            raise InputError(f"{path}:{number}: not a row of a run ({what}); the run folder is damaged") from None
    return rows
