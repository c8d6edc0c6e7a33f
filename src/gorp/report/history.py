"""The history of a run: its stages in order, what each left of the others, and whatever else happened."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from gorp.report.record import RunRecord, Stage, summarise
from gorp.report.tables import Grid
from gorp.report.words import NOT_MEASURED, change, score, share, small


def history(record: RunRecord, rolled_back: RunRecord | None = None) -> dict[str, Any]:
    """Plain values for JSON.

    Args:
        record: of the run as it is.
        rolled_back: of the run before it was rolled back, where that may be put back.

    Returns:
        ``run``; ``stages``, a mapping each (``rolled_back`` tells those that may be put back); ``events``.
    """
    stages = [_stage(record, stage, False) for stage in record.stages]
    if rolled_back is not None:
        stages += [_stage(rolled_back, stage, True) for stage in rolled_back.stages[len(record.stages) :]]
    when = {(event.task, event.stages): event.at for event in record.events if event.kind == "learnt"}
    for stage in stages:
        stage["at"] = when.get((stage["task"], stage["stage"]))
    return {"run": record.name, "stages": stages, "events": [asdict(event) for event in record.events]}


def history_grid(told: dict[str, Any]) -> Grid:
    """A row per stage: when it was learnt, AP and BWT after it, room left, worst leak by its bound, budget."""
    rows = [
        (
            f"{stage['stage']} {stage['task']}" + (" (rolled back)" if stage["rolled_back"] else ""),
            (stage["at"] or NOT_MEASURED)[:16].replace("T", " "),
            score(stage["AP"]),
            change(stage["BWT"]),
            share(stage["room"]),
            small(stage["leak"]),
            stage["budget"] or NOT_MEASURED,
        )
        for stage in told["stages"]
    ]
    return Grid(told["run"], ("after", "learnt (UTC)", "AP", "BWT", "room", "leak/bound", "budget"), tuple(rows))


def describe_event(event: dict[str, Any]) -> str:
    """One line for people."""
    task = repr(event["task"])
    words = {
        "learnt": f"learnt {task}",
        "rolled back": f"rolled back to {task}",
        "put back": f"put back {task}",
        "retried": f"took back {task}, for attempt {event['attempt'] + 1}",
        "accepted": f"accepted what {task} cost",
        "retracted": f"retracted {task}",
    }
    return f"{event['at'][:16].replace('T', ' ')}  {words[event['kind']]}" + (
        f": {event['note']}" if event["note"] else ""
    )


def _stage(record: RunRecord, stage: Stage, rolled_back: bool) -> dict[str, Any]:
    figures = summarise(record.matrix[: stage.index + 1], record.zero_shot_row)
    meters = [meter for meter in stage.layers.values() if meter.cap]
    leaks = [meter.leak / meter.leak_bound for meter in meters if meter.leak is not None and meter.leak_bound]
    return {
        "stage": stage.index + 1,
        "task": stage.task,
        "AP": figures["AP"],
        "BWT": figures["BWT"],
        "room": 1 - sum(meter.fullness for meter in meters) / len(meters) if meters else None,
        "leak": max(leaks, default=None),
        "budget": _outcome(stage),
        "attempt": stage.budget.attempt if stage.budget else 0,
        "rolled_back": rolled_back,
    }


def _outcome(stage: Stage) -> str | None:
    if stage.budget is None:
        return None
    breaches = stage.budget.breaches()
    if not breaches:
        return f"within, attempt {stage.budget.attempt + 1}" if stage.budget.attempt else "within"
    return "lost " + ", ".join(f"{name} {loss.points:.1f}" for name, loss in breaches.items())
