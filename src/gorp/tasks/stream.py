"""A sequence of tasks, by name or from a YAML file."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, overload

from gorp.errors import InputError, nearest
from gorp.tasks.benchmarks import BENCHMARKS, benchmark_tasks, unseen_tasks
from gorp.tasks.sources import HUB, read_task
from gorp.tasks.splits import Limits
from gorp.tasks.stream_file import StreamFile, TaskEntry
from gorp.tasks.task import Task

BUILTIN = "builtin"


class TaskStream(Sequence[Task]):
    """Tasks in the order they are learned, under one name; ``unseen`` tasks are measured and never learned.

    As a sequence it is the tasks to learn.

    Raises:
        InputError: no task to learn, or two tasks of the same name.
    """

    def __init__(self, name: str, tasks: Iterable[Task], unseen: Iterable[Task] = ()) -> None:
        self.name = name
        self._tasks = tuple(tasks)
        self.unseen = tuple(unseen)
        names = [task.name for task in (*self._tasks, *self.unseen)]
        if not self._tasks:
            raise InputError(f"stream {name!r} has no tasks")
        twice = next((task for task in names if names.count(task) > 1), None)
        if twice is not None:
            raise InputError(f"stream {name!r} has two tasks named {twice!r}; every task needs a name of its own")

    @classmethod
    def from_name(
        cls,
        name: str,
        data_dir: str | Path | None = None,
        train_rows: int | None = None,
        test_rows: int | None = None,
        validation_rows: int | None = None,
        seed: int = 0,
        name_task_in_prompt: bool | None = None,
    ) -> TaskStream:
        """Return the stream ``builtin`` or a benchmark, one of ``benchmarks.BENCHMARKS``.

        Args:
            data_dir: where a benchmark's data is; by default ``$GORP_DATA``.
            train_rows, test_rows: at most so many rows a task, as many of each label; ``None`` for all there are.
            validation_rows: so many are split from train; ``None`` for a tenth, at most 500.
            seed: decides which rows are used, never which are test or validation rows.
            name_task_in_prompt: begin prompts with the benchmark's ``Task:`` and ``Dataset:`` lines.

        Raises:
            InputError: no stream of that name, or its data is missing or wrong.
        """
        if name == BUILTIN:
            return _builtin(Limits(train_rows, test_rows, validation_rows, seed))
        if name not in BENCHMARKS:
            known = [BUILTIN, *BENCHMARKS]
            raise InputError(
                f"no stream {name!r}{nearest(name, known)}; accepted: {', '.join(known)}, or a YAML file of tasks"
            )
        limits = Limits(train_rows, test_rows, validation_rows, seed)
        tasks, unseen = (
            read(name, data_dir, limits, bool(name_task_in_prompt)) for read in (benchmark_tasks, unseen_tasks)
        )
        return cls(name, tasks, unseen)

    @classmethod
    def from_yaml(
        cls,
        path: str | Path,
        data_dir: str | Path | None = None,
        train_rows: int | None = None,
        test_rows: int | None = None,
        validation_rows: int | None = None,
        seed: int | None = None,
        name_task_in_prompt: bool | None = None,
    ) -> TaskStream:
        """Read a stream from a YAML file; an argument that is given wins over the file's own.

        The file has a ``name`` and either ``tasks``, a list, or ``benchmark``, the name of one, and may list
        ``unseen`` tasks; see ``StreamFile``. Paths in it are relative to it.

        Raises:
            InputError: the file or the data it names is missing or wrong; the message names file and key or line.
        """
        path = Path(path)
        file = StreamFile.read(path)
        rows = Limits(
            train_rows=file.train_rows if train_rows is None else train_rows,
            test_rows=file.test_rows if test_rows is None else test_rows,
            validation_rows=file.validation_rows if validation_rows is None else validation_rows,
            seed=file.seed if seed is None else seed,
        )
        name_task = file.name_task_in_prompt if name_task_in_prompt is None else name_task_in_prompt
        unseen = [_task(entry, path.parent, rows, name_task) for entry in file.unseen]
        if file.benchmark is not None:
            folder = data_dir or (path.parent / file.data if file.data else None)
            named = cls.from_name(
                file.benchmark, folder, rows.train_rows, rows.test_rows, rows.validation_rows, rows.seed, name_task
            )
            return cls(file.name or named.name, named, [*named.unseen, *unseen])
        tasks = [_task(entry, path.parent, rows, name_task) for entry in file.tasks]
        return cls(file.name or path.stem, tasks, unseen)

    def fingerprint(self) -> str:
        """Return a sha256 over the tasks, names and rows, that tells this stream from any other."""
        unseen = [f"unseen {task.fingerprint()}" for task in self.unseen]
        return hashlib.sha256("\n".join([*(task.fingerprint() for task in self._tasks), *unseen]).encode()).hexdigest()

    @overload
    def __getitem__(self, index: int) -> Task: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Task, ...]: ...

    def __getitem__(self, index: int | slice) -> Task | tuple[Task, ...]:
        return self._tasks[index]

    def __len__(self) -> int:
        return len(self._tasks)

    def __repr__(self) -> str:
        return f"TaskStream({self.name!r}, {[task.name for task in self._tasks]})"


def _builtin(limits: Limits) -> TaskStream:
    from gorp.tasks.builtin import builtin_stream

    wanted: dict[str, Any] = {key: value for key, value in asdict(limits).items() if value is not None}
    return builtin_stream(**wanted)


def _task(entry: TaskEntry, folder: Path, limits: Limits, name_task_in_prompt: bool) -> Task:
    if entry.builtin is not None:
        stream = _builtin(limits)
        found = next((task for task in stream if task.name == entry.builtin), None)
        if found is None:
            names = [task.name for task in stream]
            meant = nearest(entry.builtin, names)
            raise InputError(f"no built-in task {entry.builtin!r}{meant}; accepted: {', '.join(names)}")
        return found
    return read_task(
        f"{HUB}{entry.hub}" if entry.hub is not None else folder / (entry.path or ""),
        name=entry.name,
        labels=entry.labels,
        instruction=entry.instruction,
        columns=entry.columns,
        skip_incomplete=entry.skip_incomplete,
        test=folder / entry.test if entry.test is not None else None,
        passage=entry.passage,
        list_options=entry.list_options,
        name_task_in_prompt=name_task_in_prompt,
        metric=entry.metric,
        limits=limits,
    )
