"""The loop over tasks: learn one, keep what it needs, measure what it cost the others, save, go on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gorp._quantized import quantized_layers
from gorp.budget import gentler_settings
from gorp.checkpoint import model_fingerprint, seed_everything
from gorp.checksums import tensors_checksum
from gorp.errors import FullSpaceWarning, InputError, command_line, nearest
from gorp.interference import kept_directions
from gorp.launch import join_ranks
from gorp.lesson import Lesson
from gorp.methods import load_method
from gorp.metrics import mean
from gorp.plan import Plan
from gorp.progress import Progress, SilentProgress, passing_on
from gorp.report.record import Stage
from gorp.run_config import RunConfig
from gorp.run_folder import RunFolder
from gorp.run_setup import (
    check_known,
    check_model,
    check_on_quantized,
    check_trackers,
    check_unseen,
    count_rows,
    describe_model,
    join_tasks,
    load_base,
    new_record,
    rows_of,
    settle_config,
    starting_space,
)
from gorp.stage_files import StageFiles
from gorp.standing import Standing
from gorp.tasks import Example, Task, TaskStream
from gorp.tasks.task import BASE, Metric
from gorp.training import Flight


class ContinualLearner(Standing):
    """One model that learns task after task in a run folder.

    Made on the folder of an interrupted or finished run, it goes on from there: tasks learnt already are passed over.

    Args:
        model: the base model; changed in place.
        tokenizer: its tokenizer.
        method: a name of `gorp.methods.METHODS`; that of ``config`` if not given.
        run_dir: the run folder, made if it does not exist.
        config: the run's settings; those of the folder, or the defaults, if not given.
        progress: is told what happens.
        reload: gives the base model anew, for a budget under which tasks are taken back.

    Raises:
        InputError: unknown method, targets that do not fit the model, or the folder of another base model, method or
            configuration. Nothing in the folder is touched.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        method: str | None = None,
        run_dir: str | Path = "runs/run",
        config: RunConfig | None = None,
        progress: Progress | None = None,
        reload: Callable[[], PreTrainedModel] | None = None,
    ) -> None:
        device = join_ranks()
        folder = RunFolder(run_dir)
        super().__init__(folder, settle_config(folder, method, config), tokenizer, device, reload)
        self.progress = progress or SilentProgress()
        if any(quantized_layers(model)):
            check_on_quantized(load_method(self.config.method))
        base_model, model_settings = model_fingerprint(model), describe_model(model, tokenizer)
        space = None if self.learnt else starting_space(self.config, base_model)
        if space is not None:
            model_settings["protected directions"] = tensors_checksum(kept_directions(space), {})
        check_model(self.folder, base_model, model_settings)
        self.put_up(model, space)
        if self.folder.state is None:
            check_trackers(self.config.report_to)
            with self.folder.locked():
                record = new_record(self.config, self.folder.path)
                self.folder.start(base_model, self.config, record, model_settings)
        self.catch_up()
        self.unseen = self.folder.unseen()
        self.folder.inputs(), self.folder.row_scores()  # a damaged one is told now; kept are they in files alone

    @classmethod
    def of_run(
        cls,
        run_dir: str | Path,
        progress: Progress | None = None,
        model: str | None = None,
        budget: Mapping[str, Any] | None = None,
    ) -> ContinualLearner:
        """The learner of an existing run, as its last finished stage left it.

        Args:
            run_dir: the run folder.
            progress: is told what happens.
            model: where the base model is now, if not where the run's configuration says.
            budget: settings of the forgetting budget that take the place of the run's.

        Raises:
            InputError: no run there, or its base model cannot be found.
        """
        config = RunFolder.of_run(run_dir).config()
        source = model or config.model
        if source is None:
            raise InputError(f"{run_dir}: the run does not say where its base model is; give it (--model)")
        join_ranks()
        backbone = load_base(config, source)
        overrides = [f"budget.{key}={value}" for key, value in (budget or {}).items()]
        config = RunConfig.from_mapping(config.model_dump(), overrides)
        return cls(
            backbone.model,
            backbone.tokenizer,
            run_dir=run_dir,
            config=config,
            progress=progress,
            reload=lambda: load_base(config, source).model,
        )

    def learn(self, task: Task) -> None:
        """Learn one more task and evaluate every task known; a task learnt already is passed over.

        Raises:
            InputError: another task of that name is known, or the method learns all tasks at once.
            BudgetExceeded: it, or the task before it, cost the earlier ones more than the budget allows.
            GorpError: training failed, or another process works on the run.
        """
        if self.method.learns_jointly:
            raise InputError(f"method {self.method.name!r} learns all tasks at once; give them to learn_stream")
        with self.folder.locked(), self.progress:
            self.settle([task])
            self._announce([task], one_more=True)
            self._learn_next([task])

    def learn_stream(self, tasks: Sequence[Task]) -> None:
        """Learn tasks in order, every one of them measured from the start; those learnt already are passed over.

        The ``unseen`` tasks of a `TaskStream` are measured whenever the others are, and never learnt.

        Raises:
            InputError: the folder is the run of another stream.
            BudgetExceeded: a task cost the earlier ones more than the budget allows.
            GorpError: training failed, or another process works on the run.
        """
        with self.folder.locked(), self.progress:
            self.settle(tasks)
            self._announce(tasks, tasks.unseen if isinstance(tasks, TaskStream) else None)
            self._learn_next(tasks)

    def evaluate(self, names: Sequence[str] = (), split: str = "test") -> dict[str, float | None]:
        """Score tasks by name, all known ones if none is named; None where a task has no rows in ``split``.

        Raises:
            InputError: a name is not a task of this run, or the split is not test or validation.
        """
        self.be_current()
        if split not in ("test", "validation"):
            raise InputError(f"unknown split {split!r}; accepted: test, validation")
        known = {task.name: task for task in (*self.tasks, *self.unseen)}
        for name in names:
            if name not in known:
                raise InputError(f"no task {name!r} in this run{nearest(name, known)}; tasks: {', '.join(known)}")
        return {name: self.score(rows_of(known[name], split), name, known[name].metric) for name in names or known}

    def _announce(self, tasks: Sequence[Task], unseen: Sequence[Task] | None = None, one_more: bool = False) -> None:
        """Make tasks known: each gets a column in the record, filled with its score before it is learnt.

        ``unseen`` tasks become known with the first ones; None leaves them as they are. ``tasks`` are a stream, or
        ``one_more`` task.
        """
        check_trackers(self.config.report_to)
        names = [task.name for task in tasks]
        if doubled := next((name for name in names if names.count(name) > 1), None):
            raise InputError(f"task {doubled!r} is twice in the stream; every task needs a name of its own")
        check_known(self.folder, tasks, one_more)
        check_unseen(self.folder, tasks, unseen)
        known = {task.name for task in self.tasks}
        new = [task for task in tasks if task.name not in known]
        waiting = [task.name for task in self.tasks[self.learnt :]]
        missing = next((name for name in waiting if name not in names), None)
        if missing and (new or missing == waiting[0] or self.method.learns_jointly):
            last = self.tasks[self.learnt - 1].name if self.learnt else BASE
            raise InputError(
                f"task {missing!r} was begun in this run and comes next; give it first, or have the run forget it: "
                f"{command_line('gorp', 'rollback', self.folder.path, '--to', last)}"
            )
        if new and self.method.learns_jointly and self.learnt:
            raise InputError(f"method {self.method.name!r} learns all tasks at once; a finished run cannot learn more")
        self.progress.run_started(self.record.name, [*self.record.tasks, *(task.name for task in new)], self.learnt)
        if not new:
            return
        measured = [] if self.tasks else list(unseen or ())
        for task in (*new, *(replace(task, train=[]) for task in measured)):
            self.encoder.check(task, self.method.virtual_tokens(len(self.tasks) + len(new)))
            if cut := self.encoder.cut_answers(task):
                self.progress.warning(
                    f"task {task.name!r}: {len(cut)} of {len(task.train)} answers take more than "
                    f"training.max_target_length = {self.config.training.max_target_length} tokens, up to {max(cut)}, "
                    "and are learnt without their ends"
                )
        scores = [self._score(task) if self.config.evaluation.each_stage == "all" else None for task in new]
        record = self.record.model_copy(deep=True)
        record.finished = False
        earlier = [None] * len(record.tasks)
        record.tasks = [*record.tasks, *(task.name for task in new)]
        if record.stages:
            row = record.stages[-1].scores
            record.stages[-1].scores = [*row, *earlier[len(row) :], *scores]
        else:
            record.zero_shot = [*record.zero_shot, *scores]
        record.unseen_zero_shot |= {task.name: self._score(task) for task in measured}
        record.scored_by |= {task.name: task.metric for task in (*new, *measured) if task.metric != "exact_match"}
        scored = (*self.tasks, *self.unseen, *new, *measured)
        record.scored_rows = count_rows(scored, self.config.evaluation.split)
        self.folder.add_tasks(new, record, measured)
        self.record = record
        self.tasks += new
        self.unseen += measured

    def _learn_next(self, tasks: Sequence[Task]) -> None:
        """Learn, in the order in which they became known, those of the known tasks that are not learnt yet."""
        given = {task.name: task for task in tasks}
        waiting = [task.name for task in self.tasks[self.learnt :]]
        if self.method.learns_jointly and waiting:
            self._learn_stage(join_tasks([given[name] for name in waiting]), len(self.tasks) - 1)
        elif waiting:
            while self.learnt < len(self.tasks) and self.tasks[self.learnt].name in given:
                self._learn_stage(given[self.tasks[self.learnt].name], self.learnt)
                self.settle()
        else:
            self.progress.message(f"{self.folder.path}: finished already, nothing to do")
        self.progress.run_finished()

    def _learn_stage(self, task: Task, index: int) -> None:
        """Train a task to its end, let the method keep what it needs, measure, save."""
        self.be_current(to_learn=True)
        self.begins_to_learn()
        seed_everything(self.config.seed, index + 1)
        with passing_on(FullSpaceWarning, self.progress):
            lesson = Lesson(self.learning, task, index)
        flight, random_then = self._take_up_flight(lesson.optimizer)
        rows = self.encoder.rows(self.method.training_rows(task, index))
        plan = Plan(rows, self.config.training, self._order_seed(index), self.folder.path, self.config.report_to)
        self.progress.stage_started(index, task.name, plan.steps)

        def save(flight: Flight) -> None:
            self.folder.save_flight(index, flight.step, self.learning.in_flight(flight, lesson.optimizer))

        lesson.train(plan, self.progress, save, flight, random_then)
        skipped_refreshes = flight.skipped_refreshes + self.method.skipped_refreshes
        watch = _Stopwatch()
        with passing_on(FullSpaceWarning, self.progress):
            lesson.keep()
        layers = lesson.meters(self.folder.inputs())
        memory_seconds = watch.lap()
        everything = self.config.evaluation.each_stage == "all" or index + 1 == len(self.tasks)
        rows_scored = [
            self._score_rows(known) if everything or at == index else [] for at, known in enumerate(self.tasks)
        ]
        row_scores = {
            known.name: torch.tensor(rows) for known, rows in zip(self.tasks, rows_scored, strict=True) if rows
        }
        scores = [mean(rows) for rows in rows_scored]
        unseen = {known.name: self._score(known) if everything else None for known in self.unseen}
        stage = Stage(
            index=index,
            task=task.name,
            scores=scores,
            seconds={"train": flight.seconds, "memory": memory_seconds, "evaluate": watch.lap()},
            steps=flight.step - flight.skipped,
            skipped_steps=flight.skipped,
            skipped_refreshes=skipped_refreshes,
            layers=layers,
            train_loss=flight.loss_curve(),
            unseen=unseen,
        )
        record = self.record.model_copy(deep=True)
        settings = gentler_settings(self.config, self.attempt)
        stage.budget = self.judge().verdict(stage, row_scores, self.config.budget, self.attempt, settings)
        record.stages = [*record.stages, stage]
        record.finished = index + 1 == len(record.tasks)
        files = StageFiles(self.method.weights(), self.method.state(), self.method.space, lesson.inputs, row_scores)
        self.folder.finish_stage(record, files)
        self.has_learnt(record)
        self.progress.stage_finished(index, task.name, scores, sum(stage.seconds.values()))

    def _take_up_flight(self, optimizer: torch.optim.Optimizer) -> tuple[Flight, dict[str, Any] | None]:
        """Put back a training that was interrupted; a new one if there is none."""
        saved = self.folder.flight()
        return (Flight(), None) if saved is None else self.learning.take_up(saved, optimizer)

    def _order_seed(self, index: int) -> int:
        return self.config.seed * 1000 + index

    def score(self, examples: Sequence[Example], name: str, metric: Metric = "exact_match") -> float | None:
        """Score in percent on examples of any kind, reported under ``name``; None if there are none."""
        return mean(self._score_examples(examples, name, metric))

    def _score(self, task: Task) -> float | None:
        return mean(self._score_rows(task))

    def _score_rows(self, task: Task) -> list[float]:
        return self._score_examples(self._rows(task), task.name, task.metric)

    def _rows(self, task: Task) -> list[Example]:
        return rows_of(task, self.config.evaluation.split)

    def _score_examples(self, examples: Sequence[Example], name: str, metric: Metric) -> list[float]:
        if not examples:
            return []
        known = [task.name for task in self.tasks]
        position = known.index(name) if name in known else None
        scores = self.learning.score_rows(examples, position, metric, partial(self.progress.evaluation_step, name))
        self.progress.task_evaluated(name, sum(scores) / len(scores))
        return scores


class _Stopwatch:
    def __init__(self) -> None:
        self._last = time.monotonic()

    def lap(self) -> float:
        """Seconds since the last call."""
        last, self._last = self._last, time.monotonic()
        return self._last - last
