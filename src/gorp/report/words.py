"""A run in plain words: what was learnt, what was forgotten, how much room is left, what needs a look."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from gorp import metrics
from gorp.events import is_accepted
from gorp.report.comparison import Group, Spread
from gorp.report.layers import LayerDigest, digest_layers
from gorp.report.pair import Pair
from gorp.report.record import RunRecord
from gorp.report.sampling import Interval
from gorp.tasks.task import METRICS

MINUS = "\N{MINUS SIGN}"
NOT_MEASURED = "\N{EN DASH}"
_NEARLY_FULL = 0.9
_WORTH_NAMING = 1.0  # points of percent


@dataclass(frozen=True)
class Finding:
    """One sentence; ``kind`` says whether it is plain news or needs a look."""

    kind: Literal["news", "warning"]
    text: str


def findings(record: RunRecord) -> list[Finding]:
    """The sentences about one run, in the order in which a reader asks."""
    sentences = [_learnt(record), _forgotten(record), _unseen(record), *_budget(record), *_space(record)]
    sentences += [*_retracted(record), *_trouble(record)]
    return [sentence for sentence in sentences if sentence is not None]


def compare(groups: Sequence[Group]) -> list[Finding]:
    """A sentence per method, the best average first, then the warnings of every run under the run's name."""
    ranked = sorted(groups, key=lambda group: -_mean(group.figures["AP"]))
    return [_standing(group) for group in ranked] + [
        Finding("warning", f"{record.name}: {finding.text}")
        for group in groups
        for record in group.records
        for finding in findings(record)
        if finding.kind == "warning"
    ]


def against(pair: Pair) -> list[Finding]:
    """What one run scores more or less than the other at the end, and on how many tasks that is more than chance."""
    mean = pair.mean
    if mean is None or mean.value is None:
        return [Finding("news", "No task was learnt and measured at the end by both runs.")]
    shared = [task for task in pair.tasks if task.value is not None]
    known = f" (95% interval {interval(mean.interval)})" if mean.interval else ""
    verdicts = [task.verdict for task in shared if task.verdict]
    counts = [
        f"{verdicts.count(verdict)} {verdict}"
        for verdict in ("higher", "lower", "not shown to differ")
        if verdict in verdicts
    ]
    tasks = f" Of {_tasks(len(verdicts))}: {', '.join(counts)}." if verdicts else ""
    names = f"{pair.ours.name} less {pair.theirs.name}"
    return [Finding("news", f"{names}: {change(mean.value)} points on average at the end{known}.{tasks}")]


def score(value: float | None, decimals: int = 1) -> str:
    """``"91.2"``, with a true minus sign; an en dash where not measured."""
    if value is None:
        return NOT_MEASURED
    rounded = round(value, decimals) + 0.0
    return f"{rounded:.{decimals}f}".replace("-", MINUS)


def change(value: float | None, decimals: int = 1) -> str:
    """Like `score`, with a plus sign where something was gained."""
    sign = "+" if value is not None and round(value, decimals) > 0 else ""
    return sign + score(value, decimals)


def small(value: float | None) -> str:
    """``"3.1e-07"``; an en dash where not measured."""
    return NOT_MEASURED if value is None else f"{value:.1e}".replace("-", MINUS)


def interval(value: Interval | None) -> str:
    """``"-0.6 to +2.2"``, with a true minus sign; an en dash where it is not known."""
    return NOT_MEASURED if value is None else f"{change(value.low)} to {change(value.high)}"


def share(value: float | None) -> str:
    """A share of 0 to 1 as ``"42%"``; an en dash where not measured."""
    return NOT_MEASURED if value is None else f"{100 * value:.0f}%"


def scoring(records: Sequence[RunRecord]) -> str:
    """How the tasks of these runs are scored: ``"exact match"``, ``"ROUGE-L"``, or which tasks are scored by which."""
    by_task = {
        task: METRICS[record.scored_by.get(task, "exact_match")]
        for record in records
        for task in (*record.tasks, *record.unseen_zero_shot)
    }
    names = list(dict.fromkeys(by_task.values()))
    if len(names) == 1:
        return names[0]
    listed = [f"{name} ({', '.join(task for task, by in by_task.items() if by == name)})" for name in names]
    return " and ".join(listed) or METRICS["exact_match"]


def stage_label(record: RunRecord, index: int) -> str:
    """The task learnt at stage ``index``; ``"all N tasks"`` where no earlier stage was measured (joint training)."""
    at_once = metrics.measured_once(record.matrix[: index + 1])
    return f"all {index + 1} tasks" if at_once else record.tasks[index]


def changes_since_learnt(record: RunRecord) -> list[float | None]:
    """Per task, its score after the last stage less its score when just learnt; None where either is missing."""
    matrix = record.matrix
    if not matrix:
        return [None] * len(record.tasks)
    learnt = [matrix[task][task] if task < len(matrix) else None for task in range(len(record.tasks))]
    last = len(matrix) - 1
    return [
        None if before is None or after is None or task == last else after - before
        for task, (before, after) in enumerate(zip(learnt, matrix[-1], strict=True))
    ]


def _learnt(record: RunRecord) -> Finding:
    done, planned = len(record.matrix), len(record.tasks)
    if not done:
        return Finding("warning", f"Nothing is learnt yet: {_tasks(planned)} to go.")
    how_many = f"{done} of {_tasks(planned)}" if done < planned else ("One task" if done == 1 else f"All {done} tasks")
    verb = "is" if done == 1 else "are"
    average = record.summary()["AP"]
    kind: Literal["news", "warning"] = "news" if record.finished else "warning"
    before = [value for value in record.zero_shot_row[:done] if value is not None]
    if average is None:
        return Finding(kind, f"{_unfinished(record)}{how_many} {verb} learnt; not all of them were scored since.")
    start = f", from {score(sum(before) / done)} before any learning" if len(before) == done else ""
    mean = "scoring" if done == 1 else "scoring on average"
    by = f" by {scoring([record])}" if record.scored_by else ""
    return Finding(
        kind,
        _unfinished(record) + f"{how_many} {verb} learnt, {mean} {score(average)}{by}{start}.",
    )


def _unfinished(record: RunRecord) -> str:
    return "" if record.finished else "This run is not finished. "


def _forgotten(record: RunRecord) -> Finding | None:
    changes = dict(zip(record.tasks, changes_since_learnt(record), strict=True))
    measured = {task: value for task, value in changes.items() if value is not None}
    if not measured:
        return None
    task, worst = min(measured.items(), key=lambda item: item[1])
    mean = sum(measured.values()) / len(measured)
    if worst > -_WORTH_NAMING:
        return Finding(
            "news", f"Nothing was forgotten: no task lost a point since it was learnt (mean {change(mean)})."
        )
    return Finding(
        "news",
        f"Since they were learnt, earlier tasks changed by {change(mean)} points on average; "
        f"the most was lost on {task} ({change(worst)}).",
    )


def _unseen(record: RunRecord) -> Finding | None:
    after = record.summary().get("unseen")
    if after is None:
        return None
    count = len(record.unseen_zero_shot)
    before = metrics.unseen([list(record.unseen_zero_shot.values())])
    which = "The task that is never learnt scores" if count == 1 else f"The {count} tasks never learnt score on average"
    start = "" if before is None else f", {score(before)} before any learning"
    return Finding("news", f"{which} {score(after)}{start}.")


def _budget(record: RunRecord) -> list[Finding]:
    """Stages that cost more than was allowed, or that took several attempts not to."""
    found = []
    for stage in record.stages:
        if stage.budget is None:
            continue
        breaches = stage.budget.breaches()
        allowed = f"{stage.budget.max_forgetting:g} points that it was allowed to cost"
        if breaches:
            lost = ", ".join(f"{name} {score(loss.points)}" for name, loss in breaches.items())
            accepted = " This was accepted." if is_accepted(record.events, stage.index + 1) else ""
            found.append(Finding("warning", f"Task {stage.task!r} cost more than the {allowed}: {lost}.{accepted}"))
        elif stage.budget.attempt:
            settings = ", ".join(f"{key} {value:g}" for key, value in stage.budget.settings.items())
            number = stage.budget.attempt + 1
            found.append(
                Finding("news", f"Task {stage.task!r} kept within the {allowed} at attempt {number}, with {settings}.")
            )
    return found


def _retracted(record: RunRecord) -> list[Finding]:
    notes = {event.task: event.note for event in record.events if event.kind == "retracted"}
    return [
        Finding("news", f"Task {task!r} is no longer wanted: later tasks may overwrite it ({notes[task]}).")
        for task in record.retracted
    ]


def _space(record: RunRecord) -> list[Finding]:
    layers = [layer for layer in digest_layers(record) if layer.now.cap]
    if not layers:
        return []
    free = 1 - sum(layer.fullness for layer in layers) / len(layers)
    fullest = max(layers, key=lambda layer: layer.fullness)
    news = Finding("news", _room(free, fullest))
    frozen = sum(layer.now.frozen for layer in layers)
    nearly = sum(layer.fullness >= _NEARLY_FULL and not layer.now.frozen for layer in layers)
    warnings = [
        Finding("warning", f"{_layers(frozen)} full and frozen: later tasks cannot change {_them(frozen)}.")
        if frozen
        else None,
        Finding("warning", f"{_layers(nearly)} within a tenth of the cap.") if nearly else None,
    ]
    return [news, *(warning for warning in warnings if warning)]


def _room(free: float, fullest: LayerDigest) -> str:
    if share(free) == share(0):
        return "No room is left for protected directions of further tasks."
    least = f"{share(1 - fullest.fullness)} in the fullest layer ({fullest.name})"
    return f"{share(free)} of the room for protected directions is still free, {least}."


def _trouble(record: RunRecord) -> list[Finding]:
    leaking = [layer for layer in digest_layers(record) if layer.leaks and layer.now.cap]
    found = [_leak(leaking)] if leaking else []
    skipped = sum(stage.skipped_steps for stage in record.stages)
    if skipped:
        steps = "step was" if skipped == 1 else "steps were"
        found.append(
            Finding("warning", f"{skipped} training {steps} skipped because a loss or gradient was not finite.")
        )
    return found


def _leak(leaking: list[LayerDigest]) -> Finding:
    worst = leaking[0]
    return Finding(
        "warning",
        f"{_layers(len(leaking), '', '')} changed on protected directions by more than rounding explains; "
        f"worst: {worst.name} while learning {worst.leak_task} "
        f"(leak {small(worst.leak)}, bound {small(worst.leak_bound)}).",
    )


def _standing(group: Group) -> Finding:
    figures = group.figures
    runs = "" if len(group.records) == 1 else f" (mean of {len(group.records)} runs)"
    average, backward = figures["AP"], figures["BWT"]
    ends = f"ends at {score(average.mean)} on average" if average else "was not evaluated on every task at the end"
    moved = f"; earlier tasks changed by {change(backward.mean)} points since they were learnt" if backward else ""
    return Finding("news", f"{group.label}{runs} {ends}{moved}.")


def _mean(spread: Spread | None) -> float:
    return spread.mean if spread else float("-inf")


def _tasks(count: int) -> str:
    return f"{count} task" if count == 1 else f"{count} tasks"


def _layers(count: int, singular: str = " is", plural: str = " are") -> str:
    return f"1 layer{singular}" if count == 1 else f"{count} layers{plural}"


def _them(count: int) -> str:
    return "it" if count == 1 else "them"
