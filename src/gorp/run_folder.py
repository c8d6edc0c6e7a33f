"""The folder of a run: what is saved where, in which order, so that a crash at any instant loses nothing saved before.

``state.json`` decides: it names the folders that hold the last finished stage and the training in flight, and is
replaced last. Everything it does not name is left over from a crash, and removed when the run goes on::

    config.yaml  environment.json  state.json  record.json  gradient_space.safetensors  report.html
    checksums.json                                         in every folder, of its files that are written once
    unseen-01-NAME/ test.jsonl validation.jsonl            rows of a task that is measured and never learnt
    task-01-NAME/ test.jsonl validation.jsonl              rows that `learn` and `evaluate` need later
                  after/ weights.safetensors method.safetensors gradient_space.safetensors inputs.safetensors
                  step-000200/ flight.json flight.safetensors      while the task trains
    rolled_back.json                                     what `rollback` may put back, until something else is learnt
"""

from __future__ import annotations

import filecmp
import functools
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Concatenate, ParamSpec

from torch import Tensor

from gorp._ranks import of_all_ranks, on_first_rank
from gorp.checkpoint import load_state, load_tensors, publish_folder, save_state, write_json
from gorp.checksums import CHECKSUMS, checksums_of, is_expected, verify
from gorp.errors import GorpError, InputError
from gorp.events import Event, attempt_due
from gorp.files import locked, replace_folder, write_text_atomically
from gorp.report.record import RunRecord
from gorp.run_config import RunConfig
from gorp.run_state import KnownTask, RunState, read_state, state_of, task_folder, write_state
from gorp.saved_rows import read_rows, write_rows
from gorp.space import GradientSpace
from gorp.space_file import SPACE_FILE
from gorp.stage_files import StageFiles
from gorp.tasks import Task
from gorp.timeline import drop_idle_timeline, forget_timeline, has_timeline

STATE, CONFIG, RECORD, ENVIRONMENT = "state.json", "config.yaml", "record.json", "environment.json"
_LOCK, _UNFINISHED = "run.lock", ".unfinished"
P = ParamSpec("P")


def by_first_rank(write: Callable[Concatenate[RunFolder, P], None]) -> Callable[Concatenate[RunFolder, P], None]:
    """Of the ranks that work on a run, the first writes; the others wait, then know what ``state.json`` says."""

    @functools.wraps(write)
    def written(folder: RunFolder, /, *args: P.args, **kwargs: P.kwargs) -> None:
        on_first_rank(lambda: write(folder, *args, **kwargs))
        told = of_all_ranks(folder.state and asdict(folder.state))[0]  # not read: a file system may be late
        folder.state = None if told is None else state_of(told)

    return written


class RunFolder:
    """One run's folder; ``state`` is None until `start`.

    Raises:
        InputError: ``path`` is a file, or holds a state that cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise InputError(f"{self.path}: is a file; a run needs a folder")
        self.state = self._read_state()

    @classmethod
    def of_run(cls, path: str | Path) -> RunFolder:
        """The folder of an existing run.

        Raises:
            InputError: there is none.
        """
        folder = cls(path)
        if folder.state is None:
            raise InputError(f"{folder.path}: no run here ({STATE} is missing); give a folder that `gorp run` made")
        return folder

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep every other process out, and clear away what a crash left; a lock dies with the process that holds it.

        Raises:
            GorpError: another process works on this run, or has since this one opened it.
            InputError: a link in the folder could lead what is written or removed out of it.
        """
        with ExitStack() as held:
            on_first_rank(lambda: self._enter(held))
            yield

    def _enter(self, held: ExitStack) -> None:
        inside = (entry for pattern in ("*", "*/*", "*/*/*") for entry in self.path.glob(pattern))
        if link := next((entry for entry in inside if entry.is_symlink()), None):
            raise InputError(f"{link}: is a link; a run folder accepts files and folders of its own alone")
        held.enter_context(locked(self.path / _LOCK, "works on this run"))
        if self._read_state() != self.state:
            raise GorpError(f"{self.path}: another process has gone on with this run since it was opened here")
        shutil.rmtree(self.path / _UNFINISHED, ignore_errors=True)
        self._tidy()

    @by_first_rank
    def start(
        self, base_model: str, config: RunConfig, record: RunRecord, model_settings: Mapping[str, Any] | None = None
    ) -> None:
        """Make the folder of a new run."""
        write_text_atomically(self.path / CONFIG, config.to_yaml())
        write_json(self.path / ENVIRONMENT, record.environment)
        write_text_atomically(self.path / CHECKSUMS, checksums_of(self.path, (CONFIG, ENVIRONMENT)))
        record.save(self.path / RECORD)
        self._write_state(RunState(base_model, model_settings=dict(model_settings or {})))

    def config(self) -> RunConfig:
        """The resolved configuration of the run."""
        path = self.path / CONFIG
        verify(path)
        return RunConfig.from_yaml(path)

    @by_first_rank
    def add_tasks(self, tasks: Sequence[Task], record: RunRecord, unseen: Sequence[Task] = ()) -> None:
        """Remember tasks, their rows for evaluation, and a record that has a place for each."""
        state = self._state()
        beside = self.path / _UNFINISHED
        shutil.rmtree(beside, ignore_errors=True)
        first, first_unseen = len(state.tasks), len(state.unseen)
        named = [(task_folder(position, task.name), task) for position, task in enumerate(tasks, first)]
        named += [
            (task_folder(position, task.name, "unseen"), task) for position, task in enumerate(unseen, first_unseen)
        ]
        try:
            for name, task in named:  # first all that a full disk could refuse
                write_rows(beside / name, task)
            self._forget_what_was_rolled_back()
            for name, _ in named:
                replace_folder(beside / name, self.path / name)
        finally:
            shutil.rmtree(beside, ignore_errors=True)
        record.save(self.path / RECORD)
        known, measured = ([KnownTask.of(task) for task in given] for given in (tasks, unseen))
        self._write_state(replace(state, tasks=[*state.tasks, *known], unseen=[*state.unseen, *measured]))

    def tasks(self) -> list[Task]:
        """Every task learnt or to be learnt, with the rows kept for evaluation; no training rows."""
        return self._read_tasks(self._state().tasks, "task")

    def unseen(self) -> list[Task]:
        """Every task that is measured and never learnt, likewise."""
        return self._read_tasks(self._state().unseen, "unseen")

    def _read_tasks(self, tasks: Sequence[KnownTask], kind: str) -> list[Task]:
        found = []
        for position, known in enumerate(tasks):
            folder = self.path / task_folder(position, known.name, kind)
            rows = {split: read_rows(folder / f"{split}.jsonl") for split in ("test", "validation")}
            found.append(Task(known.name, [], rows["validation"], rows["test"], known.labels, known.metric))
        return found

    def record(self) -> RunRecord:
        """The record as of the last finished stage."""
        state = self._state()
        record = RunRecord.load(self.path / RECORD)
        width = len(state.tasks)
        for stage in record.stages:
            stage.scores = stage.scores[:width]
        record.stages = [stage for stage in record.stages if stage.index < state.stages]
        record.zero_shot = record.zero_shot[:width]
        record.tasks = record.tasks[:width]
        unseen = {task.name for task in state.unseen}
        record.unseen_zero_shot = {name: score for name, score in record.unseen_zero_shot.items() if name in unseen}
        names = {*record.tasks, *unseen}
        record.scored_by = {name: metric for name, metric in record.scored_by.items() if name in names}
        record.events = list(state.events)
        record.scored_rows = {name: count for name, count in record.scored_rows.items() if name in names}
        record.finished = 0 < width == state.stages
        return record

    @by_first_rank
    def save_flight(self, task: int, step: int, flight: Mapping[str, Any]) -> None:
        """Save a training in flight; it replaces the one before."""
        state = self._state()
        self._forget_what_was_rolled_back()
        parent = task_folder(task, state.tasks[task].name)
        name = f"{parent}/step-{step:06d}"
        self._publish(name, lambda folder: save_state(folder, "flight", dict(flight)))
        before = state.flight
        self._write_state(replace(state, flight=name))
        if before and before != name:
            shutil.rmtree(self.path / before, ignore_errors=True)

    def flight(self) -> dict[str, Any] | None:
        """The training in flight, as it was given to `save_flight`; None between tasks, or if its folder is gone."""
        name = self._state().flight
        if name is None or not (folder := self.path / name).exists():
            return None
        try:
            return load_state(folder, "flight")
        except InputError as error:
            raise InputError(f"{error}; or delete {folder}: its task then begins anew, to the same result") from None

    @by_first_rank
    def finish_stage(self, record: RunRecord, files: StageFiles) -> None:
        """Save a finished stage with the record that ends in it; the training in flight is over."""
        state = self._state()
        self._forget_what_was_rolled_back()
        stages = record.stages[-1].index + 1
        learnt = Event.now("learnt", record.stages[-1].task, stages, attempt_due(state.events))
        spaces = {earlier: space for earlier, space in state.spaces.items() if earlier < stages}
        state = replace(state, stages=stages, flight=None, spaces=spaces, events=[*state.events, learnt])
        state.after = state.stage_folder(stages)
        self._publish(str(state.after), files.save)
        record.events = list(state.events)
        record.save(self.path / RECORD)
        self._write_state(state)
        self._tidy()

    def restate(self, state: RunState) -> None:
        """Say something else in ``state.json``, and bring the rest of the folder up to it; by the first rank alone."""
        self._write_state(state)
        self._tidy()

    @by_first_rank
    def replace_space(self, space: GradientSpace, event: Event) -> None:
        """Let another gradient space stand in for that of the last finished stage."""
        state = self._state()
        count = sum(earlier.kind == "retracted" for earlier in state.events)
        name = f"{Path(state.after or '').parent.as_posix()}/retracted-{count + 1:02d}"
        self._publish(name, lambda folder: space.save(folder / SPACE_FILE))
        spaces = {**state.spaces, state.stages: name}
        self._write_state(replace(state, spaces=spaces, events=[*state.events, event]))
        self._tidy()

    @property
    def stands_at(self) -> tuple[str | None, str | None]:
        """Folders of the last finished stage and of the gradient space in force; None before the first."""
        return (self.state.after, self.state.space) if self.state else (None, None)

    def stage_files(self, stages: int | None = None) -> StageFiles | None:
        """What the last finished stage left, or the one that made it so many tasks, without what is kept per task.

        None before the first.
        """
        state = self.state
        name = state.stage_folder(state.stages if stages is None else stages) if state else None
        if state is None or name is None:
            return None
        space = name if stages is not None else str(state.space)
        return StageFiles.load(self.path / name, self.path / space)

    def inputs(self) -> dict[str, dict[str, Tensor]]:
        """Held-out layer inputs of every task learnt so far, by task."""
        return self._of_stages("inputs", self._state())

    def row_scores(self, state: RunState | None = None) -> dict[str, dict[str, Tensor]]:
        """Per task learnt so far, the scores (rows,) of every task after it, by task; of earlier versions none.

        Args:
            state: of the run before it was rolled back, if not as it is.
        """
        return self._of_stages("scores", state or self._state())

    def _of_stages(self, part: str, state: RunState) -> dict[str, dict[str, Tensor]]:
        found = {}
        for position, known in enumerate(state.tasks[: state.stages]):
            path = self.path / task_folder(position, known.name) / "after" / f"{part}.safetensors"
            if is_expected(path):
                found[known.name] = load_tensors(path)
        return found

    def _forget_what_was_rolled_back(self) -> None:
        if forget_timeline(self.path):
            self._tidy()

    def _tidy(self) -> None:
        """Remove what ``state.json`` does not name; bring the record and the space at the top up to the last stage."""
        if self.state is None:
            return
        for unnamed in [*self.path.glob(".*.tmp"), *self.path.glob("*/.*.tmp")]:
            unnamed.unlink(missing_ok=True)
        drop_idle_timeline(self.path, self.state)
        patterns = ["task-*/step-*", f"task-*/{_UNFINISHED}*"]
        if not has_timeline(self.path):
            patterns += ["task-[0-9]*", "unseen-[0-9]*", "task-*/after", "task-*/retracted-*"]
        named = self.state.folders
        for folder in [folder for pattern in patterns for folder in self.path.glob(pattern)]:
            if folder.relative_to(self.path).as_posix() not in named:
                shutil.rmtree(folder, ignore_errors=True)
        if (path := self.path / RECORD).exists() and RunRecord.load(path) != (record := self.record()):
            record.save(path)
        self._tidy_space(self.state)

    def _tidy_space(self, state: RunState) -> None:
        top, folder = self.path / SPACE_FILE, state.space
        if folder is None:
            top.unlink(missing_ok=True)
        elif (space := self.path / folder / SPACE_FILE).exists() and not (
            top.exists() and filecmp.cmp(space, top, shallow=False)
        ):
            temporary = self.path / f".{SPACE_FILE}.tmp"
            shutil.copyfile(space, temporary)
            temporary.replace(top)

    def _publish(self, name: str, write: Callable[[Path], None]) -> None:
        final = self.path / name
        unfinished = final.parent / _UNFINISHED
        try:
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir(parents=True)
            write(unfinished)
        except OSError as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise GorpError(f"cannot write {final}: {error}; what was saved before is untouched") from error
        publish_folder(unfinished, final)

    def _state(self) -> RunState:
        if self.state is None:
            raise InputError(f"{self.path}: no run here ({STATE} is missing)")
        return self.state

    def _read_state(self) -> RunState | None:
        path = self.path / STATE
        return read_state(path) if path.exists() else None

    def _write_state(self, state: RunState) -> None:
        write_state(self.path / STATE, state)
        self.state = state
