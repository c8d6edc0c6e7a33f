"""What stays the same while a task trains: which rows each step sees, in which order, at which rate."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gorp.encoding import Row
from gorp.run_config import TrainingConfig

_LENGTH_WINDOW = 16  # batches whose rows are sorted by length together


@dataclass(frozen=True)
class Plan:
    """Everything that stays the same while a task trains.

    Attributes:
        rows: the task's rows.
        seed: of the run and stage; with it the order of rows over all epochs is settled before the first step.
        folder: existing folder for what trackers write.
        report_to: trackers of transformers.
    """

    rows: Sequence[Row]
    config: TrainingConfig
    seed: int
    folder: Path
    report_to: Sequence[str] = ()

    @property
    def rows_per_step(self) -> int:
        """Rows that one optimizer step sees."""
        return self.config.batch_size * self.config.accumulation_steps

    @property
    def steps(self) -> int:
        """Optimizer steps of the task."""
        return math.ceil(len(self.rows) * self.config.epochs / self.rows_per_step)

    def batches(self, step: int, rank: int = 0, ranks: int = 1) -> list[list[Row]]:
        """The rows of each forward pass still to come after ``step`` steps, in order.

        Of several ranks each gets every ranks-th row of a pass; where that is none, one that counts for nothing.
        """
        lengths = [len(row.prompt) + len(row.answer) for row in self.rows]
        order = row_order(len(self.rows), self.config.epochs, self.seed)
        if self.config.group_by_length:
            order = group_by_length(order, lengths, self.rows_per_step, self.seed)
        passes = range(step * self.rows_per_step, len(order), self.config.batch_size)
        whole = [[self.rows[index] for index in order[first : first + self.config.batch_size]] for first in passes]
        return [rows[rank::ranks] or [rows[0].unanswered()] for rows in whole]

    def rate(self, step: int) -> float:
        """Learning rate of step ``step`` (from 0) as a share of its peak."""
        warm = math.ceil(self.config.warmup * self.steps)
        if step < warm:
            return (step + 1) / warm
        done = (step - warm) / max(1, self.steps - warm)
        shapes = {"constant": 1.0, "linear": 1.0 - done, "cosine": 0.5 + 0.5 * math.cos(math.pi * done)}
        return max(0.0, shapes[self.config.schedule])


def row_order(rows: int, epochs: int, seed: int) -> list[int]:
    """Every epoch's shuffled row indices, one epoch after the other."""
    generator = np.random.default_rng(seed)
    return [int(index) for _ in range(epochs) for index in generator.permutation(rows)]


def group_by_length(order: Sequence[int], lengths: Sequence[int], rows_per_step: int, seed: int) -> list[int]:
    """Reorder rows within windows of 16 steps so that a step's rows are of like length; steps stay shuffled."""
    generator = np.random.default_rng([seed, 1])
    window = _LENGTH_WINDOW * rows_per_step
    grouped: list[int] = []
    for first in range(0, len(order), window):
        by_length = sorted(order[first : first + window], key=lambda index: lengths[index])
        whole = len(by_length) // rows_per_step
        steps = [by_length[step * rows_per_step : (step + 1) * rows_per_step] for step in range(whole)]
        grouped += [index for step in generator.permutation(whole) for index in steps[step]]
        grouped += by_length[whole * rows_per_step :]
    return grouped
