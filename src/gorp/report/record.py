"""The record of a run: what was learnt, what was kept, at what cost. Saved as ``record.json`` in the run folder."""

from __future__ import annotations

import json
import os
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gorp import metrics
from gorp.checksums import sealed, unsealed
from gorp.errors import InputError, first_problem
from gorp.events import Event, retracted
from gorp.files import read_json, write_text_atomically
from gorp.tasks.task import Metric

FORMAT_VERSION = 1
RECORD_FILE = "record.json"
SUMMARY_KEYS = ("AP", "BWT", "FWT", "forgetting", "unseen")

Matrix = list[list[float | None]]


class _Part(BaseModel):
    """Unknown keys are errors; NaN and infinity survive the trip through JSON as strings."""

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings", validate_assignment=True)


class LayerMeter(_Part):
    """What one layer changed at one stage and how full its gradient space is afterwards.

    Attributes:
        leak: ``||D S||`` of the effective fp32 weight's change D against every column S kept before the stage;
            None before anything is kept.
        leak_bound: what ``leak`` may be at most, ``1e-5 ||D|| + 4 eps(dtype) ||W||``.
        stored_leak: the same as ``leak`` for the weight as it is stored (for example bf16).
        drift: per earlier task, ``||D X|| / (||D|| ||X||)`` on held-out inputs X of that task.
        coverage: per earlier task, the share of X's energy that S covers, 0 to 1.
        rank, width: columns in use and size of the layer's input space.
        output_rank, output_width: the same for the output side; 0 where it is not kept.
        cap: the most columns the input space may hold.
        frozen: whether the layer no longer learns because its space is full.
    """

    leak: float | None = None
    leak_bound: float | None = None
    stored_leak: float | None = None
    drift: dict[str, float] = Field(default_factory=dict)
    coverage: dict[str, float] = Field(default_factory=dict)
    rank: int = Field(0, ge=0)
    width: int = Field(0, ge=0)
    output_rank: int = Field(0, ge=0)
    output_width: int = Field(0, ge=0)
    cap: int = Field(0, ge=0)
    frozen: bool = False

    @property
    def leaks(self) -> bool:
        """Whether the leak lies above its bound; NaN counts as a leak."""
        return self.leak is not None and self.leak_bound is not None and not self.leak <= self.leak_bound

    @property
    def fullness(self) -> float:
        """Share of the cap in use, 0 to 1, of the fuller side; 0 where nothing may be kept.

        The output side is capped at the same share of its width as the input side.
        """
        if not self.cap:
            return 0.0
        output_cap = self.output_width * self.cap / self.width if self.width else 0.0
        return max(self.rank / self.cap, self.output_rank / output_cap if output_cap else 0.0)

    @property
    def worst_drift(self) -> float | None:
        """The largest drift over the earlier tasks; None where none was measured."""
        return max(self.drift.values(), default=None)


class Loss(_Part):
    """Points of percent that a task lost, or several on average, with the interval that the test rows leave it."""

    points: float
    low: float
    high: float


class BudgetVerdict(_Part):
    """What a stage cost the earlier tasks, held against the run's forgetting budget.

    Attributes:
        max_forgetting: the budget in points, as it was then.
        confidence: of the intervals; a breach is an interval that lies above the budget as a whole.
        losses: per earlier task, what it lost since it was just learnt, or since the last breach that was accepted.
        overall: their mean.
        attempt: which attempt at the task this is, from 0.
        settings: those that this attempt was made with instead of the run's.
    """

    max_forgetting: float
    confidence: float
    losses: dict[str, Loss] = Field(default_factory=dict)
    overall: Loss | None = None
    attempt: int = Field(0, ge=0)
    settings: dict[str, float] = Field(default_factory=dict)

    def breaches(self, max_forgetting: float | None = None) -> dict[str, Loss]:
        """By task, or ``all tasks``, the losses beyond a budget, the one of the time if none is given."""
        budget = self.max_forgetting if max_forgetting is None else max_forgetting
        every = self.losses if self.overall is None else {**self.losses, "all tasks": self.overall}
        return {name: loss for name, loss in every.items() if loss.low > budget}


class Stage(_Part):
    """One task learnt, and every task evaluated afterwards.

    Attributes:
        index: position of the stage's task in the run's tasks, from 0.
        scores: score of task j in percent after this stage, None where not measured. May be shorter than
            the run's tasks: a task that joined later was not measured here.
        seconds: wall-clock time by part: ``train``, ``evaluate``, ``memory``.
        skipped_steps: optimizer steps skipped because a loss or gradient was not finite.
        skipped_refreshes: refreshes of full-rank directions skipped because nothing but noise was left.
        layers: one meter per layer that learns, by dotted module name.
        train_loss: (step, loss) pairs as logged.
        unseen: score in percent after this stage of each task that is never learnt, None where not measured.
        budget: what it cost the earlier tasks, where the run has a forgetting budget.
    """

    index: int = Field(ge=0)
    task: str
    scores: list[float | None] = Field(default_factory=list)
    seconds: dict[str, float] = Field(default_factory=dict)
    steps: int = Field(0, ge=0)
    skipped_steps: int = Field(0, ge=0)
    skipped_refreshes: int = Field(0, ge=0)
    layers: dict[str, LayerMeter] = Field(default_factory=dict)
    train_loss: list[tuple[int, float]] = Field(default_factory=list)
    unseen: dict[str, float | None] = Field(default_factory=dict)
    budget: BudgetVerdict | None = None


class RunRecord(_Part):
    """Everything a run has to say about itself.

    ``stages`` grows by one entry per task learnt, in increasing order of ``index``. A method that learns all T tasks
    at once (``joint``) has one stage of index T - 1: the rows of the matrix before it are None throughout.
    ``unseen_zero_shot`` names the tasks that are measured and never learnt, with their scores before any learning.
    ``scored_by`` says how tasks are scored, those that it does not name by exact match; ``scored_rows`` on how many
    rows each, empty in records of earlier versions. ``events`` tells what happened to the run, what was rolled back
    included.
    """

    format_version: Literal[1] = 1
    name: str
    method: str
    model: str
    stream: str
    tasks: list[str]
    seed: int = 0
    zero_shot: list[float | None] = Field(default_factory=list)
    unseen_zero_shot: dict[str, float | None] = Field(default_factory=dict)
    scored_by: dict[str, Metric] = Field(default_factory=dict)
    scored_rows: dict[str, Annotated[int, Field(ge=0)]] = Field(default_factory=dict)
    stages: list[Stage] = Field(default_factory=list)
    config: dict[str, Any] = Field(default_factory=dict)
    environment: dict[str, Any] = Field(default_factory=dict)
    events: list[Event] = Field(default_factory=list)
    finished: bool = False

    @model_validator(mode="after")
    def _rows_fit_the_tasks(self) -> RunRecord:
        for row_name, row in [("zero_shot", self.zero_shot)] + [
            (f"stages.{position}.scores", stage.scores) for position, stage in enumerate(self.stages)
        ]:
            if len(row) > len(self.tasks):
                raise ValueError(f"{row_name} has {len(row)} scores for {len(self.tasks)} tasks")
        return self

    @model_validator(mode="after")
    def _stages_are_in_order(self) -> RunRecord:
        indices = [stage.index for stage in self.stages]
        if any(late <= early for early, late in pairwise(indices)) or any(
            index >= len(self.tasks) for index in indices
        ):
            raise ValueError(f"stages.index must increase and stay below {len(self.tasks)}, but is {indices}")
        return self

    @property
    def matrix(self) -> Matrix:
        """``matrix[i][j]``: score in percent of task j after stage i, None where not measured; up to the last stage."""
        rows = {stage.index: self._padded(stage.scores) for stage in self.stages}
        return [rows.get(index, self._padded([])) for index in range(max(rows, default=-1) + 1)]

    @property
    def zero_shot_row(self) -> list[float | None]:
        """Scores before any learning, one entry per task."""
        return self._padded(self.zero_shot)

    @property
    def seconds(self) -> dict[str, float]:
        """Wall-clock seconds by part, summed over the stages."""
        total: dict[str, float] = {}
        for stage in self.stages:
            for part, seconds in stage.seconds.items():
                total[part] = total.get(part, 0.0) + seconds
        return total

    @property
    def unseen_matrix(self) -> Matrix:
        """``unseen_matrix[i][k]``: score in percent of the task never learnt at position k after stage i."""
        rows = {stage.index: [stage.unseen.get(name) for name in self.unseen_zero_shot] for stage in self.stages}
        nothing: list[float | None] = [None] * len(self.unseen_zero_shot)
        return [rows.get(index, nothing) for index in range(max(rows, default=-1) + 1)]

    def summary(self) -> dict[str, float | None]:
        """AP, BWT, FWT and forgetting in percent, None where undefined; ``unseen`` if there are tasks never learnt."""
        figures = summarise(self.matrix, self.zero_shot_row)
        return figures | {"unseen": metrics.unseen(self.unseen_matrix)} if self.unseen_zero_shot else figures

    @property
    def stages_by_task(self) -> dict[str, int]:
        """How many tasks were learnt at the end of each stage, by the name of the task that it ended with."""
        return {self.tasks[stage.index]: stage.index + 1 for stage in self.stages}

    @property
    def retracted(self) -> list[str]:
        """Tasks whose protection was withdrawn, and not put back since."""
        return retracted(self.events)

    def comparable(self) -> dict[str, Any]:
        """The deterministic part as plain JSON values: equal for two runs of the same configuration.

        Left out: the name (a label), the environment, every duration, and when what happened.
        """
        plain: dict[str, Any] = json.loads(self.model_dump_json(exclude={"name", "environment", "events"}))
        for stage in plain["stages"]:
            del stage["seconds"]
        return plain

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the record to a file, or to ``record.json`` in a folder, atomically.

        Raises ``GorpError`` naming the file when it cannot be written.
        """
        content = sealed(json.loads(self.model_dump_json()))
        return write_text_atomically(record_path(path), json.dumps(content, indent=1) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> RunRecord:
        """Read a record from its file or from the run folder that holds it.

        Raises ``InputError`` naming the file, and the key where one is wrong.
        """
        file = record_path(path)
        plain = unsealed(file, read_json(file, "record"))
        _check_version(file, plain)
        try:
            return cls.model_validate(plain)
        except ValidationError as error:
            raise InputError(f"{file}: {first_problem(error)}") from error

    def _padded(self, row: list[float | None]) -> list[float | None]:
        return row + [None] * (len(self.tasks) - len(row))


def record_path(path: str | os.PathLike[str]) -> Path:
    """The record file of a run folder; any other path is taken as the file itself."""
    given = Path(path)
    return given / RECORD_FILE if given.is_dir() else given


def summarise(matrix: Matrix, zero_shot: list[float | None]) -> dict[str, float | None]:
    """The four figures of an accuracy matrix, None where undefined.

    Args:
        matrix: ``matrix[i][j]``, score in percent of task j after stage i.
        zero_shot: score of each task before any learning.
    """
    return {
        "AP": metrics.average_performance(matrix),
        "BWT": metrics.backward_transfer(matrix),
        "FWT": metrics.forward_transfer(matrix, zero_shot),
        "forgetting": metrics.forgetting(matrix),
    }


def _check_version(file: Path, plain: object) -> None:
    if not isinstance(plain, dict):
        raise InputError(f"{file}: expected a JSON object, found {type(plain).__name__}")
    version = plain.get("format_version")
    if version is None:
        raise InputError(f"{file}: key 'format_version' is missing; this is not a record of a run")
    if version != FORMAT_VERSION:
        raise InputError(f"{file}: key 'format_version' is {version!r}; this version of gorp reads {FORMAT_VERSION}")
