"""What a run does with a task, in its order, on a few rows that stand for all: on random weights, or on none."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gorp.encoding import Row
from gorp.learning_model import LearningModel
from gorp.lesson import Lesson
from gorp.plan import Plan
from gorp.progress import SilentProgress
from gorp.run_config import RunConfig
from gorp.tasks import Example, Task
from gorp.training import Flight

EVALUATING, TRAINING, KEEPING = "evaluating", "training", "keeping"
PHASES = (EVALUATING, TRAINING, KEEPING)

Copies = Sequence[Mapping[str, Tensor]]


@dataclass(frozen=True)
class Script:
    """What is rehearsed: a task whose rows are shown to the method, forward passes to train on, rows to answer."""

    task: Task
    passes: Sequence[Sequence[Row]]
    scored: Sequence[Sequence[Example]]


class Watch(Protocol):
    """Told what happens."""

    def __call__(self, phase: str) -> AbstractContextManager[object]:
        """While a phase, one of PHASES, lasts; of `EVALUATING` there is one for each list of rows."""

    def step(self, step: int) -> None:
        """After an optimizer step."""

    def held(self, phase: str, learning: LearningModel, optimizer: torch.optim.Optimizer, copies: Copies) -> None:
        """At the end of a phase, while all is held that a run holds then."""


@dataclass(frozen=True)
class _ChosenPlan(Plan):
    """A plan of given passes, at next to no rate: what random weights learn is of no use, and must not diverge."""

    passes: Sequence[Sequence[Row]] = ()

    @property
    def steps(self) -> int:
        return len(self.passes) // self.config.accumulation_steps

    def batches(self, step: int, rank: int = 0, ranks: int = 1) -> list[list[Row]]:
        return [list(rows)[rank::ranks] for rows in self.passes[step * self.config.accumulation_steps :]]

    def rate(self, step: int) -> float:
        return 1e-6


class _Steps(SilentProgress):
    def __init__(self, told: Callable[[int], None]) -> None:
        self._told = told

    def training_step(self, step: int, loss: float | None = None) -> None:
        self._told(step)


def put_together(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> LearningModel:
    """A base model under its method, as before a run's first task.

    Raises:
        InputError: as of `LearningModel`.
    """
    return LearningModel(model, tokenizer, config, None, Path("plan"))


def rehearse(learning: LearningModel, config: RunConfig, script: Script, index: int, watch: Watch) -> None:
    """Evaluate, learn one task and evaluate again, as `gorp.ContinualLearner` does; nothing is written.

    Args:
        learning: as after the tasks before.
        index: of the task, from 0.
        watch: is told.
    """
    if not index:
        _answer(learning, script, watch)
    lesson = Lesson(learning, replace(script.task, name=f"{script.task.name} {index + 1}"), index)
    with tempfile.TemporaryDirectory() as folder:
        rows = [row for part in script.passes for row in part]
        plan = _ChosenPlan(rows, config.training, 0, Path(folder), passes=script.passes)

        def end_of_step(step: int) -> None:
            watch.step(step)
            if step == plan.steps:
                watch.held(TRAINING, learning, lesson.optimizer, lesson.copies)

        with watch(TRAINING):
            lesson.train(plan, _Steps(end_of_step), _save_nothing)
    with watch(KEEPING):
        lesson.keep()
        lesson.meters({"a": lesson.inputs})
    watch.held(KEEPING, learning, lesson.optimizer, [*lesson.copies, lesson.inputs])
    _answer(learning, script, watch)


def _answer(learning: LearningModel, script: Script, watch: Watch) -> None:
    for examples in script.scored:
        with watch(EVALUATING):
            learning.method.select(None)
            learning.evaluator.predict(examples)


def _save_nothing(flight: Flight) -> None:
    pass
