"""A look at a task before anything is trained on it: how many rows, which labels, how long, and what seems wrong."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from gorp.tasks.task import Example, Task

#: A label with fewer training rows than this is hard to learn.
FEW_ROWS = 5


@dataclass(frozen=True)
class Summary:
    """Figures of a task: rows per part, training rows per label, words of the prompts (median and longest) and of the
    longest answer."""

    name: str
    train: int
    validation: int
    test: int
    per_label: dict[str, int]
    median_words: int
    longest_words: int
    longest_answer: int


def summarise(task: Task) -> Summary:
    """Return the figures of a task."""
    rows = task.rows
    words = [len(row.prompt.split()) for row in rows]
    counts = Counter(row.answer for row in task.train)
    return Summary(
        name=task.name,
        train=len(task.train),
        validation=len(task.validation),
        test=len(task.test),
        per_label={label: counts[label] for label in task.labels},
        median_words=int(statistics.median(words)),
        longest_words=max(words),
        longest_answer=max(len(row.answer.split()) for row in rows),
    )


def problems(task: Task) -> list[str]:
    """Return what seems wrong with a task, a sentence each; an empty list if nothing does."""
    found = []
    train, test = {row.prompt for row in task.train}, {row.prompt for row in task.test}
    for part, name in ((task.test, "test"), (task.validation, "validation")):
        shared = sum(row.prompt in train for row in part)
        if shared:
            found.append(f"{shared} of {len(part)} {name} prompts are also in train: the score will flatter")
    repeated = len(task.train) - len(train)
    if repeated:
        found.append(f"{repeated} of {len(task.train)} training prompts occur more than once")
    contradicted = _contradictions(task.train)
    if contradicted:
        found.append(f"{contradicted} training prompts have more than one answer")
    if len(task.test) - len(test) > 0:
        found.append(f"{len(task.test) - len(test)} of {len(task.test)} test prompts occur more than once")
    counts = Counter(row.answer for row in task.train)
    tested = Counter(row.answer for row in task.test)
    for label in task.labels:
        if counts[label] < FEW_ROWS:
            found.append(f"label {label!r} has {counts[label]} training rows: too few to be learned")
        if not tested[label]:
            found.append(f"label {label!r} has no test rows")
    return found


def _contradictions(rows: Sequence[Example]) -> int:
    answers: dict[str, set[str]] = {}
    for row in rows:
        answers.setdefault(row.prompt, set()).add(row.answer)
    return sum(len(given) > 1 for given in answers.values())
