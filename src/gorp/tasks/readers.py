"""From files to records: JSON lines, JSON, Parquet and CSV with commas, semicolons or tabs.

Each record comes with the place it was read from. Whatever is wrong with a file raises ``InputError`` with
``file:line`` and what would be accepted.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gorp.errors import InputError
from gorp.parsing import parse_json

_DELIMITERS = (",", ";", "\t")


@dataclass(frozen=True)
class Record:
    """One row of a file; ``where`` is ``file:line``, or ``file, row N`` where lines mean nothing."""

    where: str
    values: dict[str, Any]


def read_records(path: Path) -> list[Record]:
    """Read the rows of a file, by its suffix: one of ``SUFFIXES``.

    Raises:
        InputError: the file is missing, empty, cut short, not UTF-8, or not what its suffix says.
    """
    reader = next((reader for suffix, reader in _READERS.items() if path.name.endswith(suffix)), None)
    if not path.exists():
        raise InputError(f"{path}: no such file")
    if reader is None or not path.is_file():
        raise InputError(f"{path}: not a file that can be read; accepted: {', '.join(SUFFIXES)}")
    try:
        records = list(reader(path))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from error
    if not records:
        raise InputError(f"{path}: holds no rows")
    return records


def task_name(path: Path) -> str:
    """What a task is called by default: the name of its file, without the suffix, or of its folder."""
    suffix = max((suffix for suffix in SUFFIXES if path.name.endswith(suffix)), key=len, default="")
    return path.name.removesuffix(suffix)


def read_json(path: Path) -> Any:
    """Return what a JSON file holds.

    Raises:
        InputError: the file is missing, not UTF-8 or not JSON.
    """
    text = _text(path)
    try:
        return parse_json(text)
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not valid JSON ({error.msg}){_cut_short(error, text)}") from None


def _json_lines(path: Path) -> Iterator[Record]:
    for number, line in _lines(path):
        where = f"{path}:{number}"
        text = _decode(line, path, number)
        if not text.strip():
            continue
        try:
            values = parse_json(text)
        except json.JSONDecodeError as error:
            cut = "" if line.endswith(b"\n") else "; the file seems to be cut short here"
            raise InputError(f"{where}: not valid JSON ({error.msg}, column {error.colno}){cut}") from None
        yield Record(where, _as_object(values, where))


def _json(path: Path) -> Iterator[Record]:
    """Read a JSON list of rows, or an object with such a list under ``Instances`` (Super-NaturalInstructions)."""
    content = read_json(path)
    rows = content.get("Instances") if isinstance(content, dict) else content
    if not isinstance(rows, list):
        raise InputError(f"{path}: expected a JSON list of rows, or an object with one under 'Instances'")
    for number, values in enumerate(rows, start=1):
        where = f"{path}, row {number}"
        yield Record(where, _as_object(values, where))


def _csv(path: Path) -> Iterator[Record]:
    text, line = _text(path), 0
    csv.field_size_limit(sys.maxsize)  # a text is as long as it is
    try:
        rows = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=_delimiter(text, path))
        header, line = next(rows, []), rows.line_num
        for place, name in enumerate(header):
            if name and name in header[:place]:
                raise InputError(f"{path}:1: two columns are called {name!r}; accepted: a name of its own for each")
        for cells in rows:
            where, line = f"{path}:{line + 1}", rows.line_num
            if cells and len(cells) != len(header):
                raise InputError(f"{where}: a row of {len(cells)} cells, the header has {len(header)}")
            if cells:
                yield Record(where, dict(zip(header, cells, strict=True)))
    except csv.Error as error:
        what = f"not valid CSV ({error}); is a quote left open, or the file cut short?"
        raise InputError(f"{path}:{line + 1}: {what}") from None


def _delimiter(text: str, path: Path) -> str:
    """What parts the cells: of comma, semicolon and tab the one that parts the first line into most, commas first.

    In a .tsv a tab, if there is one.
    """
    header = next(io.StringIO(text), "")
    if path.suffix == ".tsv" and "\t" in header:
        return "\t"
    return max(_DELIMITERS, key=lambda delimiter: len(next(csv.reader([header], delimiter=delimiter), [])))


def _parquet(path: Path) -> Iterator[Record]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        raise InputError(f"{path}: not a readable Parquet file, or cut short ({error})") from None
    for number, values in enumerate(rows, start=1):
        yield Record(f"{path}, row {number}", values)


_READERS: dict[str, Callable[[Path], Iterable[Record]]] = {
    ".jsonl": _json_lines,
    ".jsonl.gz": _json_lines,
    ".json": _json,
    ".json.gz": _json,
    ".csv": _csv,
    ".csv.gz": _csv,
    ".tsv": _csv,
    ".parquet": _parquet,
}
SUFFIXES = tuple(_READERS)


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield the lines of a file, unpacked if its name ends in ``.gz``, counted from 1."""
    number = 0
    opener = gzip.open if path.name.endswith(".gz") else open
    try:
        with opener(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                yield number, line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
    except EOFError:
        raise InputError(f"{path}:{number + 1}: the compressed file is cut short here; copy it again") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise InputError(f"{path}:{number + 1}: not a gzip file, or damaged ({error})") from None


def _text(path: Path) -> str:
    if not path.exists():
        raise InputError(f"{path}: no such file")
    return _decode(b"".join(line for _, line in _lines(path)), path)


def _decode(content: bytes, path: Path, first_line: int = 1) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first_line + content[: error.start].count(b"\n")
        what = f"byte 0x{content[error.start]:02x} is not UTF-8; save the file in UTF-8"
        raise InputError(f"{path}:{line}: {what}") from None


def _as_object(values: Any, where: str) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise InputError(f'{where}: expected an object such as {{"text": ..., "label": ...}}, found {values!r:.60}')
    return values


def _cut_short(error: json.JSONDecodeError, text: str) -> str:
    return "; the file seems to be cut short here" if error.pos >= len(text.rstrip()) - 1 else ""
