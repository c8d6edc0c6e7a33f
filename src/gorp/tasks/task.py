"""What a task is: prompts with their answers, split for training, validation and test."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, replace
from typing import Literal

from pydantic import TypeAdapter

from gorp.errors import InputError, nearest

BASE = "base"
"""What stands for the base model wherever tasks are named: for a run before its first one, and for what a gradient
space protects of general text."""

Metric = Literal["exact_match", "rouge_l"]

#: How the answers of a task may be scored, and what people call it.
METRICS: dict[Metric, str] = {"exact_match": "exact match", "rouge_l": "ROUGE-L"}


def check_metric(name: str) -> Metric:
    """Return the metric of a name.

    Raises:
        InputError: there is none.
    """
    known = next((metric for metric in METRICS if metric == name), None)
    if known is None:
        raise InputError(f"unknown metric {name!r}{nearest(name, METRICS)}; accepted: {', '.join(METRICS)}")
    return known


@dataclass(frozen=True)
class Example:
    """One prompt and the answer wanted for it.

    ``truncatable`` is the span of ``prompt``, in characters, that may be shortened when the prompt is too long: the
    passage, never the question or the answer cue. ``references`` are further answers that count as right.
    ``messages`` holds the ``(role, content)`` turns before the answer if the row was a conversation; ``prompt`` is
    then its plain rendering, for tokenizers without a chat template. ``options`` are the answers to choose from, in
    the prompt's order; none are free generation.
    """

    prompt: str
    answer: str
    truncatable: tuple[int, int]
    references: tuple[str, ...] = ()
    messages: tuple[tuple[str, str], ...] = ()
    options: tuple[str, ...] = ()

    def to_json(self) -> str:
        """One line of JSON that `from_json` reads."""
        return json.dumps(vars(self))

    @classmethod
    def from_json(cls, line: str) -> Example:
        """The example that `to_json` wrote.

        Raises:
            ValueError: the line is not such an example.
        """
        return _EXAMPLE.validate_json(line)


_EXAMPLE = TypeAdapter(Example)


@dataclass(frozen=True)
class Task:
    """Examples of one task. ``labels`` lists the answers there are, in the prompt's order; ``()`` is free
    generation. They become the options of every row that has none of its own. ``metric`` says how answers are scored.
    """

    name: str
    train: list[Example]
    validation: list[Example]
    test: list[Example]
    labels: tuple[str, ...] = ()
    metric: Metric = "exact_match"

    def __post_init__(self) -> None:
        if self.labels:
            for part in ("train", "validation", "test"):
                rows = [row if row.options else replace(row, options=self.labels) for row in getattr(self, part)]
                object.__setattr__(self, part, rows)  # the class is frozen

    @property
    def rows(self) -> list[Example]:
        """Its rows for training, validation and test."""
        return [*self.train, *self.validation, *self.test]

    def fingerprint(self) -> str:
        """Return a sha256 over name, labels and rows, in their order."""
        digest = hashlib.sha256(json.dumps([self.name, self.labels]).encode())
        for rows in (self.train, self.validation, self.test):
            digest.update(f"{len(rows)}\n".encode())
            for row in rows:
                fields = [row.prompt, row.answer, row.truncatable, row.references, row.messages]
                own = [] if row.options == self.labels else [row.options]  # the labels are in the digest already
                digest.update(json.dumps(fields + own).encode())
        return digest.hexdigest()
