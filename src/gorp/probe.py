"""How long a run's parts take on this machine: a short rehearsal with random weights, and times fitted to it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import astuple, dataclass, field, replace
from itertools import combinations
from statistics import median

import torch
from pydantic import BaseModel
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from gorp.learning_model import LearningModel
from gorp.rehearsal import EVALUATING, KEEPING, Copies, Script, put_together, rehearse
from gorp.run_config import RunConfig
from gorp.run_setup import rows_of
from gorp.stand_ins import available_memory, random_model, with_blocks
from gorp.tasks import Example, Task
from gorp.workload import Pass, Workload, padded_tokens

STEPS = 20
_ANSWERED = 4  # tasks of which a batch is answered
_ROOM = 1.3  # times the forecast peak that must be free


class TimeOfRun(BaseModel):
    """Seconds, estimated from a probe: of training by task, of evaluation before the first one and after each."""

    steps: int
    probe_seconds: float
    scaled_from_blocks: bool
    training: list[float]
    evaluation: list[float]
    keeping: float | None
    total: float


class OutOfTimeError(Exception):
    """The probe has used up its time, within a step."""


@dataclass
class Stopwatch:
    """A `gorp.rehearsal.Watch` that takes times; at least two steps are made, however long they take.

    Attributes:
        limit: seconds after which no further step is made.
        steps: seconds of each step.
        phases: seconds of each phase, in order.
    """

    limit: float
    steps: list[float] = field(default_factory=list)
    phases: dict[str, list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._began = self._last = time.perf_counter()

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Take the time of a phase."""
        _wait()
        start = self._last = time.perf_counter()
        yield
        _wait()
        self.phases.setdefault(phase, []).append(time.perf_counter() - start)

    def step(self, step: int) -> None:
        """Take the time of a step.

        Raises:
            OutOfTimeError: there is none left.
        """
        _wait()
        now = time.perf_counter()
        self.steps.append(now - self._last)
        self._last = now
        if now - self._began > self.limit and step >= 2:
            raise OutOfTimeError

    def held(self, phase: str, learning: LearningModel, optimizer: torch.optim.Optimizer, copies: Copies) -> None:
        """Nothing to do."""

    @property
    def evaluations(self) -> list[float]:
        """Seconds of each list of rows answered."""
        return self.phases.get(EVALUATING, [])


@dataclass(frozen=True)
class StepTime:
    """Seconds of a step: of any, of each token, and what a refresh takes besides."""

    constant: float
    per_token: float
    refresh: float = 0.0

    def of(self, tokens: Sequence[int], period: int) -> float:
        """Of steps of so many tokens each, every ``period``-th a refresh if that is above 1."""
        refreshes = -(-len(tokens) // period) if period > 1 else 0
        return self.constant * len(tokens) + self.per_token * sum(tokens) + self.refresh * refreshes


def fit(tokens: Sequence[int], seconds: Sequence[float], period: int) -> StepTime:
    """Times fitted to steps of so many tokens, the first of them left out where there are others of its kind.

    The slope is the median over all pairs of steps (Theil and Sen), so that a step during which the machine had other
    work counts as one.
    """
    steps = list(range(len(seconds)))
    renews = [period > 1 and step % period == 0 for step in steps]
    ordinary = [step for step in steps[1:] if not renews[step]] or steps
    refreshes = [step for step in steps[1:] if renews[step]] or [step for step in steps[:1] if renews[step]]
    pairs = [(a, b) for a, b in combinations(ordinary, 2) if tokens[a] != tokens[b]]
    slopes = [(seconds[b] - seconds[a]) / (tokens[b] - tokens[a]) for a, b in pairs]
    slope = max(0.0, median(slopes)) if slopes else 0.0
    constant = median(seconds[step] - slope * tokens[step] for step in ordinary)
    if constant < 0:
        constant, slope = 0.0, median(seconds[step] / tokens[step] for step in ordinary)
    extra = [seconds[step] - constant - slope * tokens[step] for step in refreshes]
    return StepTime(constant, slope, max(0.0, median(extra)) if extra else 0.0)


@dataclass(frozen=True)
class Probe:
    """What is probed: a run, with at most ``limit`` seconds of steps."""

    config: RunConfig
    model_config: PreTrainedConfig
    tokenizer: PreTrainedTokenizerBase
    workload: Workload
    device: torch.device
    limit: float

    def run(self) -> Times:
        """Rehearse the first task with random weights, 20 steps of it spread over all that the run will make."""
        torch.manual_seed(0)
        with self.device:
            model = random_model(self.model_config, self.config.dtype)
        learning = put_together(model, self.tokenizer, self.config)
        workload, evaluation = self.workload, self.config.evaluation
        chosen = sampled_steps(workload)
        answered = _some(workload.measured, _ANSWERED)
        batches = [_middle_batch(rows_of(task, workload.split), evaluation.batch_size) for task in answered]
        task = workload.stages[0].task
        few = replace(task, train=task.train[: STEPS * self.config.training.batch_size])
        watch = Stopwatch(self.limit)
        with suppress(OutOfTimeError):
            rehearse(learning, self.config, Script(few, [rows for step in chosen for rows in step], batches), 0, watch)
        tokens = [sum(map(padded_tokens, step)) for step in chosen]
        answers = {
            task.name: seconds / len(rows)
            for task, rows, seconds in zip(answered, batches, watch.evaluations[-len(batches) :], strict=True)
        }
        kept = watch.phases.get(KEEPING, [None])[0]
        step = fit(tokens, watch.steps, refresh_period(self.config)) if watch.steps else StepTime(0.0, 0.0)
        return Times(step, answers, kept, max(0, len(watch.steps) - 1))


@dataclass(frozen=True)
class Times:
    """Of a step, of a row answered, by task, and of what is kept at a task's end; and how many steps tell it."""

    step: StepTime
    answers: dict[str, float]
    keeping: float | None
    steps: int

    def with_more(self, other: Times, count: int) -> Times:
        """What it would be with ``count`` times more of what ``other`` has and this has not."""

        def more(a: float, b: float) -> float:
            return max(0.0, a + count * (b - a))

        step = StepTime(*map(more, astuple(self.step), astuple(other.step)))
        answers = {name: more(seconds, other.answers[name]) for name, seconds in self.answers.items()}
        kept = None if self.keeping is None or other.keeping is None else more(self.keeping, other.keeping)
        return Times(step, answers, kept, min(self.steps, other.steps))


def estimate_time(probe: Probe, peak: int) -> tuple[TimeOfRun | None, list[str]]:
    """Seconds of the run, from a probe of its model, or of one block and two where ``peak`` bytes do not fit here.

    Returns:
        None where neither can be; and what is to be said of it.
    """
    began = time.perf_counter()
    blocks = int(getattr(probe.model_config, "num_hidden_layers", 0) or 0)
    fits = peak * _ROOM < available_memory(probe.device)
    if not fits and blocks < 3:
        return None, ["time: the model does not fit this machine, and has no blocks of which to take one"]
    try:
        if fits:
            times = probe.run()
        else:
            one, two = (
                replace(probe, model_config=with_blocks(probe.model_config, count), limit=probe.limit / 2).run()
                for count in (1, 2)
            )
            times = one.with_more(two, blocks - 1)
    except (RuntimeError, MemoryError) as error:
        return None, [f"time: the probe failed on this machine ({str(error).splitlines()[0]})"]
    workload, period = probe.workload, refresh_period(probe.config)
    training = [times.step.of(load.tokens, period) for load in workload.stages]
    usual = sum(times.answers.values()) / max(1, len(times.answers))
    evaluation = [
        sum(times.answers.get(task.name, usual) * len(rows_of(task, workload.split)) for task in workload.scorings(at))
        for at in range(-1, len(workload.stages))
    ]
    found = TimeOfRun(
        steps=times.steps,
        probe_seconds=time.perf_counter() - began,
        scaled_from_blocks=not fits,
        training=training,
        evaluation=evaluation,
        keeping=times.keeping,
        total=sum(training) + sum(evaluation) + (times.keeping or 0.0) * len(workload.stages),
    )
    few = [f"time: {times.steps} of {STEPS} steps were made before the probe's time was over"]
    return found, few if any(training) and times.steps < STEPS else []


def refresh_period(config: RunConfig) -> int:
    """Steps from one refresh to the next; 1 where steps are alike."""
    return 1 if config.method != "gorp" or config.gorp.stagger_refresh else config.gorp.refresh_every


def sampled_steps(workload: Workload) -> list[Sequence[Pass]]:
    """A step to warm up and 20 more, evenly spread over the tokens that a step of the run has, in mixed order."""

    def size(step: Sequence[Pass]) -> int:
        return sum(map(padded_tokens, step))

    steps = sorted((step for load in workload.stages for step in load.steps), key=size)
    if not steps:
        return []
    most = max(map(len, steps))
    whole = [step for step in steps if len(step) == most]
    places = [round((len(whole) - 1) * place / (STEPS - 1)) for place in range(STEPS)]
    return [whole[place] for place in (places[STEPS // 2], *(places[index * 7 % STEPS] for index in range(STEPS)))]


def _middle_batch(rows: Sequence[Example], size: int) -> list[Example]:
    """As many rows as are answered together, of middling length."""
    ordered = sorted(rows, key=lambda row: len(row.prompt))
    first = max(0, len(ordered) - size) // 2
    return ordered[first : first + size]


def _some(tasks: Sequence[Task], most: int) -> list[Task]:
    """At most so many, evenly spread."""
    return [tasks[index * len(tasks) // most] for index in range(most)] if len(tasks) > most else list(tasks)


def _wait() -> None:
    """Until the device has done what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
