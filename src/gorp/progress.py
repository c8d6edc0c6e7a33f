"""What a person sees while a run learns: live bars on a terminal, a line per stage in a log, or nothing.

The learner talks to the `Progress` protocol alone. The events of a run come in this order::

    run_started
      zero-shot: task_evaluated ...
      stage_started, training_step ..., evaluation_step ..., task_evaluated ..., stage_finished     (per task)
    run_finished
"""

# ruff: noqa: D102 - the protocol says what each event means, once for every implementation
from __future__ import annotations

import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Protocol, TextIO

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars


class Progress(Protocol):
    """Receives the events of a run. A context manager: leaving it takes any live display down."""

    def run_started(self, name: str, tasks: Sequence[str], done: int = 0) -> None:
        """A run named ``name`` begins, or goes on with ``done`` of its ``tasks`` already learnt."""

    def stage_started(self, index: int, task: str, steps: int) -> None:
        """Training on ``task``, position ``index`` (from 0) of the stream, begins; ``steps`` optimizer steps ahead."""

    def training_step(self, step: int, loss: float | None = None) -> None:
        """``step`` optimizer steps of this stage are done (after a resume, the first call may say more than 1)."""

    def evaluation_step(self, task: str, done: int, total: int) -> None:
        """``done`` of ``total`` test rows of ``task`` are answered."""

    def task_evaluated(self, task: str, score: float) -> None:
        """``task`` scored ``score`` percent."""

    def stage_finished(self, index: int, task: str, scores: Sequence[float | None], seconds: float) -> None:
        """The stage is over: ``scores`` in percent by task position, None where not measured."""

    def run_finished(self) -> None:
        """Every task is learnt and evaluated."""

    def message(self, text: str) -> None:
        """Something worth a line."""

    def warning(self, text: str) -> None:
        """Something that a person should look at."""

    def __enter__(self) -> Progress: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@contextmanager
def passing_on(category: type[Warning], progress: Progress) -> Iterator[None]:
    """Hand Python's warnings of one category to a progress; all others are warned of as ever."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", category)
        yield
    for warning in caught:
        if issubclass(warning.category, category):
            progress.warning(str(warning.message))
        else:
            warnings.warn_explicit(warning.message, warning.category, warning.filename, warning.lineno)


class SilentProgress:
    """Says nothing. Also the ground for the others: every event exists and does nothing."""

    def run_started(self, name: str, tasks: Sequence[str], done: int = 0) -> None: ...

    def stage_started(self, index: int, task: str, steps: int) -> None: ...

    def training_step(self, step: int, loss: float | None = None) -> None: ...

    def evaluation_step(self, task: str, done: int, total: int) -> None: ...

    def task_evaluated(self, task: str, score: float) -> None: ...

    def stage_finished(self, index: int, task: str, scores: Sequence[float | None], seconds: float) -> None: ...

    def run_finished(self) -> None: ...

    def message(self, text: str) -> None: ...

    def warning(self, text: str) -> None: ...

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class LineProgress(SilentProgress):
    """One plain line per stage, for logs and pipes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream
        self._tasks: Sequence[str] = ()
        self._started = 0.0

    def run_started(self, name: str, tasks: Sequence[str], done: int = 0) -> None:
        self._tasks, self._started = tuple(tasks), time.monotonic()
        self.message(f"{name}: {_run_plan(tasks, done)}")

    def stage_finished(self, index: int, task: str, scores: Sequence[float | None], seconds: float) -> None:
        self.message(
            f"stage {index + 1}/{max(len(self._tasks), index + 1)} {task}: {describe_duration(seconds)}; "
            f"{describe_scores(self._tasks, scores)}"
        )

    def run_finished(self) -> None:
        self.message(f"finished in {describe_duration(time.monotonic() - self._started)}")

    def message(self, text: str) -> None:
        print(text, file=self._stream or sys.stderr, flush=True)

    def warning(self, text: str) -> None:
        self.message(f"warning: {text}")


class RichProgress(SilentProgress):
    """Two live bars, the run above the stage at hand, with the time left of each; finished stages scroll away above."""

    _TRAINING_SHARE = 0.8  # of a stage's bar; evaluation fills the rest

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(stderr=True)
        self._bars = Bars(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(compact=True),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            console=self._console,
            expand=True,
            transient=True,
            speed_estimate_period=600,
        )
        self._tasks: Sequence[str] = ()
        self._run: TaskID | None = None
        self._part: TaskID | None = None
        self._stage: int | None = None
        self._started = 0.0

    def run_started(self, name: str, tasks: Sequence[str], done: int = 0) -> None:
        self._clear()
        self._tasks, self._started = tuple(tasks), time.monotonic()
        self._stage = None
        self.message(f"{name}: {_run_plan(tasks, done)}")
        self._bars.start()
        self._run = self._bars.add_task(name, total=len(tasks), completed=done, note="time left")

    def stage_started(self, index: int, task: str, steps: int) -> None:
        self._stage = index
        self._show(f"{index + 1}/{max(len(self._tasks), index + 1)} learn {task}", steps)

    def training_step(self, step: int, loss: float | None = None) -> None:
        if self._part is None:
            return
        self._bars.update(self._part, completed=step)
        if loss is not None:
            self._bars.update(self._part, note=f"loss {loss:.3f}")
        steps = self._bars.tasks[self._bars.task_ids.index(self._part)].total or step or 1
        self._fill_run(self._TRAINING_SHARE * min(step / steps, 1.0))

    def evaluation_step(self, task: str, done: int, total: int) -> None:
        description = f"evaluate {task}"
        if self._part is None or self._current_description() != description:
            self._show(description, total)
        if self._part is not None:
            self._bars.update(self._part, completed=done)

    def task_evaluated(self, task: str, score: float) -> None:
        if self._part is not None:
            self._bars.update(self._part, note=f"{task} {score:.1f}")

    def stage_finished(self, index: int, task: str, scores: Sequence[float | None], seconds: float) -> None:
        self._fill_run(1.0)
        self._stage = None
        self.message(
            f"{index + 1}/{max(len(self._tasks), index + 1)} {task}  {describe_duration(seconds)}  "
            f"{describe_scores(self._tasks, scores)}"
        )

    def run_finished(self) -> None:
        self._clear()
        self.message(f"finished in {describe_duration(time.monotonic() - self._started)}")

    def message(self, text: str) -> None:
        self._console.print(text, markup=False, highlight=False)

    def warning(self, text: str) -> None:
        self._console.print(f"warning: {text}", style="yellow", markup=False, highlight=False)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._clear()

    def _show(self, description: str, total: int) -> None:
        if self._run is None:
            return
        if self._part is not None:
            self._bars.remove_task(self._part)
        self._part = self._bars.add_task(description, total=total, note="")

    def _current_description(self) -> str:
        return "" if self._part is None else self._bars.tasks[self._bars.task_ids.index(self._part)].description

    def _fill_run(self, share: float) -> None:
        if self._run is not None and self._stage is not None:
            self._bars.update(self._run, completed=self._stage + share)

    def _clear(self) -> None:
        for bar in (self._part, self._run):
            if bar is not None:
                self._bars.remove_task(bar)
        self._part = self._run = None
        self._bars.stop()


def open_progress(quiet: bool = False) -> Progress:
    """The progress that fits: silent if ``quiet``, bars where stderr is a terminal, a line per stage elsewhere."""
    if quiet:
        return SilentProgress()
    return RichProgress() if sys.stderr.isatty() else LineProgress()


def describe_scores(tasks: Sequence[str], scores: Sequence[float | None]) -> str:
    """``"a 91.0, b 84.5"``: the measured scores in percent beside their tasks."""
    named = [f"{task} {score:.1f}" for task, score in zip(tasks, scores, strict=False) if score is not None]
    return ", ".join(named) or "not evaluated"


def describe_duration(seconds: float) -> str:
    """``"1.2 s"``, ``"42 s"``, ``"3 min 05 s"`` or ``"2 h 10 min"``."""
    if seconds < 10:
        return f"{round(seconds, 2):.2g} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def _run_plan(tasks: Sequence[str], done: int) -> str:
    plan = f"{len(tasks)} task{'' if len(tasks) == 1 else 's'}"
    return f"{plan}, {done} already learnt" if done else plan
