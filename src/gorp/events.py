"""What happened to a run, in order: tasks learnt, rolled back, tried again, retracted, breaches accepted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Literal

EventKind = Literal["learnt", "rolled back", "put back", "retried", "accepted", "retracted"]


@dataclass(frozen=True)
class Event:
    """Something that happened to a run.

    Attributes:
        kind: what. ``put back``: what had been rolled back; ``accepted``: a breach of the forgetting budget.
        task: the one that it is about; ``base`` where everything was rolled back.
        stages: tasks learnt afterwards.
        at: when, UTC, as ISO 8601.
        attempt: which one at learning the task it is, or begins, counted from 0.
        note: why, or what else there is to say.
    """

    kind: EventKind
    task: str
    stages: int
    at: str
    attempt: int = 0
    note: str = ""

    @classmethod
    def now(cls, kind: EventKind, task: str, stages: int, attempt: int = 0, note: str = "") -> Event:
        """What happens at this moment."""
        return cls(kind, task, stages, datetime.now(timezone.utc).isoformat(timespec="seconds"), attempt, note)


def attempt_due(events: Sequence[Event]) -> int:
    """Which attempt at the next task is to be made, 0 if none was made."""
    turns = [event for event in events if event.kind in ("learnt", "rolled back", "put back", "retried")]
    return turns[-1].attempt if turns and turns[-1].kind == "retried" else 0


def attempt_made(events: Sequence[Event], stages: int) -> int:
    """At which attempt the task was learnt last that made it so many tasks, 0 for the first."""
    return next((event.attempt for event in reversed(events) if (event.kind, event.stages) == ("learnt", stages)), 0)


def is_accepted(events: Sequence[Event], stages: int) -> bool:
    """Whether the breach of the stage that made it so many tasks was accepted since it was learnt last."""
    of_stage = [event for event in events if event.stages == stages and event.kind in ("learnt", "accepted")]
    return bool(of_stage) and of_stage[-1].kind == "accepted"


def retracted(events: Sequence[Event]) -> list[str]:
    """Tasks whose protection is withdrawn in the gradient space that the events led to.

    To roll back to where the run stands undoes what was retracted there; to roll further back undoes learning alone.
    """
    stages, withdrawn = 0, list[str]()
    when_learnt, when_left = dict[int, list[str]](), dict[int, list[str]]()
    for event in events:
        if event.kind == "learnt":
            when_learnt[event.stages] = withdrawn
        elif event.kind == "retracted":
            withdrawn = [*withdrawn, event.task]
        elif event.kind != "accepted":
            withdrawn = (when_learnt if event.stages == stages else when_left).get(event.stages, [])
        stages = event.stages
        when_left[stages] = withdrawn
    return withdrawn
