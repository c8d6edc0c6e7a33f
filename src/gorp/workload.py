"""What a run has to do: steps, passes and answers of every task, by their lengths, with what had to be assumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gorp.encoding import Encoder, Row
from gorp.errors import InputError
from gorp.methods.base import Method
from gorp.plan import Plan
from gorp.run_config import RunConfig
from gorp.run_setup import join_tasks, load_stream, rows_of
from gorp.stand_ins import ASSUMED_TASKS, assumed_tasks
from gorp.tasks import Task

Pass = Sequence[Row]


@dataclass(frozen=True)
class TaskLoad:
    """One stage of training: its steps, each of some passes, with the tokens of each step, padding included."""

    task: Task
    passes: Sequence[Pass]
    passes_per_step: int

    @property
    def steps(self) -> list[Sequence[Pass]]:
        """The passes of each optimizer step."""
        n = self.passes_per_step
        return [self.passes[first : first + n] for first in range(0, len(self.passes), n)]

    @property
    def tokens(self) -> list[int]:
        """Of each step."""
        return [sum(map(padded_tokens, step)) for step in self.steps]


@dataclass(frozen=True)
class Workload:
    """A run's tasks, what is trained stage by stage, and how often what is scored."""

    tasks: Sequence[Task]
    unseen: Sequence[Task]
    stages: Sequence[TaskLoad]
    split: str
    each_stage: str

    @property
    def measured(self) -> list[Task]:
        """All that is ever scored."""
        return [task for task in (*self.tasks, *self.unseen) if rows_of(task, self.split)]

    def scorings(self, stage: int) -> list[Task]:
        """What is scored after a stage; -1: before the first."""
        if self.each_stage == "all" or stage == len(self.stages) - 1:
            return self.measured
        return [] if stage < 0 else [task for task in [self.tasks[stage]] if rows_of(task, self.split)]


def padded_tokens(rows: Pass) -> int:
    """Tokens of a pass with its padding, of prompts, answers and, where a model chooses, the names of labels."""
    names = {name for row in rows for name in row.options}
    longest_name = max(map(len, names), default=0)
    answers = len(rows) * max(len(row.answer) for row in rows) if not names else len(names) * longest_name
    return len(rows) * max(len(row.prompt) for row in rows) + answers


def read_tasks(config: RunConfig, count: int | None) -> tuple[list[Task], list[Task], list[str]]:
    """The tasks of the stream and those it only measures, or some of its like; and what is assumed.

    Args:
        count: plan for so many tasks where the stream cannot be read.

    Raises:
        InputError: there is no stream of that name.
    """
    try:
        stream = load_stream(config)
    except InputError as error:
        if "no stream" in str(error) or not _may_be_missing(config):
            raise
        number = count or ASSUMED_TASKS
        tasks = assumed_tasks(config, number)
        sizes = f"{len(tasks[0].train)} rows to train on and {len(tasks[0].test)} to test on"
        reason = f"{config.stream} cannot be read ({error})"
        return tasks, [], [f"stream: {reason}; {number} tasks of {sizes}, prompts of full length, two labels"]
    return list(stream), list(stream.unseen), []


def _may_be_missing(config: RunConfig) -> bool:
    """Whether what is missing is a benchmark's data, and not a file that the configuration names."""
    return config.stream is not None and not Path(config.stream).suffix


def plan_workload(
    config: RunConfig, tasks: Sequence[Task], unseen: Sequence[Task], encoder: Encoder, method: Method
) -> Workload:
    """Every step that the run will make, its rows in the very order that the seed gives them.

    Rows that a method takes from earlier tasks are none of them.

    Raises:
        InputError: a task does not fit the model.
    """
    for task in (*tasks, *unseen):
        encoder.check(task, method.virtual_tokens(len(tasks)))
    trained = [join_tasks(tasks)] if method.learns_jointly else list(tasks)
    first = len(tasks) - 1 if method.learns_jointly else 0
    stages = []
    for index, task in enumerate(trained, start=first):
        rows = encoder.rows(method.training_rows(task, index) if index == first else task.train)
        passes: list[list[Row]] = []
        if rows:
            passes = Plan(rows, config.training, config.seed * 1000 + index, Path()).batches(0)
        stages.append(TaskLoad(task, passes, config.training.accumulation_steps))
    evaluation = config.evaluation
    return Workload(tasks, unseen, stages, evaluation.split, evaluation.each_stage)


def largest(passes: Sequence[Pass], weight: Callable[[Pass], int] = padded_tokens) -> Pass | None:
    """The pass with the most tokens; None of none."""
    return max(passes, key=weight, default=None)
