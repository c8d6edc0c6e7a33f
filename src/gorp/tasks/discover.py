"""The tasks that a folder of somebody's data seems to hold: a file, or a folder with train and test files, each."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from gorp.errors import InputError
from gorp.tasks.readers import SUFFIXES, task_name
from gorp.tasks.sources import folder_parts

_TEST = ("test", "testing", "eval", "dev", "valid", "validation", "val")
_PART = re.compile(rf"(?P<name>.+?)[-_. ](?P<part>train|training|{'|'.join(_TEST)})", re.IGNORECASE)


@dataclass(frozen=True)
class DataFile:
    """The rows of what seems to be one task: a file or a task's folder, and where it has one beside it a test file."""

    name: str
    path: Path
    test: Path | None = None

    def files(self) -> list[Path]:
        """Every file of rows that belongs to the task, the rows to learn from first."""
        if self.path.is_dir():
            return list(folder_parts(self.path).values())
        return [self.path] if self.test is None else [self.path, self.test]


def find_data(path: Path) -> list[DataFile]:
    """The tasks that a file or a folder seems to hold, by name.

    A file of rows is a task. So is a folder with ``train.*``, or each folder in it that has one. ``NAME-train`` and
    ``NAME-test`` (or ``NAME`` and ``NAME_test``) are one task, NAME. Of two tasks of one name the second goes by its
    file's whole name.

    Raises:
        InputError: there is no such file or folder, or nothing in it that can be read.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder")
    if path.is_file():
        if not _stem(path):
            raise InputError(f"{path}: not a file that can be read; accepted: {', '.join(SUFFIXES)}")
        return [DataFile(_stem(path), path)]
    if "train" in folder_parts(path):
        return [DataFile(path.resolve().name, path)]
    inside = sorted(entry for entry in path.iterdir() if not entry.name.startswith("."))
    folders = [DataFile(entry.name, entry) for entry in inside if entry.is_dir() and "train" in folder_parts(entry)]
    found = list(_apart([*folders, *_pair([entry for entry in inside if entry.is_file() and _stem(entry)])]))
    if not found:
        listing = ", ".join(entry.name for entry in inside[:8]) or "nothing"
        raise InputError(f"{path}: holds no file of rows; accepted: {', '.join(SUFFIXES)}; found: {listing}")
    return found


def _apart(found: Iterable[DataFile]) -> Iterator[DataFile]:
    taken: set[str] = set()
    for data in found:
        yield replace(data, name=data.path.name) if data.name in taken else data
        taken.add(data.name)


def _pair(files: list[Path]) -> list[DataFile]:
    parts: dict[str, dict[str, Path]] = {}
    for file in files:
        match = _PART.fullmatch(_stem(file))
        name, part = (match["name"], match["part"].lower()) if match else (_stem(file), "train")
        part = "train" if part == "training" else part
        parts.setdefault(file.name if part in parts.get(name, {}) else name, {})[part] = file
    tasks = []
    for name, by_part in parts.items():
        train = by_part.pop("train", None)
        test = next((by_part[part] for part in _TEST if part in by_part), None)
        if train is not None:
            tasks.append(DataFile(name, train, test))
        else:
            tasks += [DataFile(_stem(file), file) for file in by_part.values()]
    return tasks


def _stem(file: Path) -> str:
    """The file's name without its suffix; nothing if it is no file of rows."""
    is_rows = file.name.endswith(SUFFIXES) and file.name != "labels.json"
    return task_name(file) if is_rows else ""
