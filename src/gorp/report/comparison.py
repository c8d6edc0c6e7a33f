"""Several runs side by side: repeats of one method over seeds become one line with a mean and a spread."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from gorp.report.record import SUMMARY_KEYS, RunRecord

_KEYS_THAT_REPEATS_DIFFER_IN = frozenset({"seed", "name", "out", "run_dir"})


@dataclass(frozen=True)
class Spread:
    """Mean, and sample standard deviation (None for a single value), of what several seeds gave."""

    mean: float
    deviation: float | None
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float | None]) -> Spread | None:
        """Return the spread of ``values``, or None if there are none or any of them is undefined."""
        measured = tuple(value for value in values if value is not None)
        if not measured or len(measured) < len(values):
            return None
        return cls(fmean(measured), stdev(measured) if len(measured) > 1 else None, measured)


@dataclass(frozen=True)
class Group:
    """The runs that repeat one method on one stream with one model, differing in the seed."""

    label: str
    records: tuple[RunRecord, ...]

    @property
    def figures(self) -> dict[str, Spread | None]:
        """``SUMMARY_KEYS`` (percent) and seconds over the runs; None where any run leaves one undefined."""
        summaries = [record.summary() for record in self.records]
        figures = {key: Spread.of([summary.get(key) for summary in summaries]) for key in SUMMARY_KEYS}
        return figures | {"seconds": Spread.of([sum(record.seconds.values()) or None for record in self.records])}


def group_runs(records: Sequence[RunRecord]) -> list[Group]:
    """Put repeats together, in order of first appearance; labels are told apart where methods repeat.

    Two runs repeat each other if method, model, stream, tasks (learnt and unseen) and configuration agree in all but
    the seed and where the run is kept.
    """
    repeats: dict[str, list[RunRecord]] = {}
    for record in records:
        repeats.setdefault(_identity(record), []).append(record)
    groups = list(repeats.values())
    return [Group(label, tuple(members)) for label, members in zip(_labels(groups), groups, strict=True)]


def _labels(groups: Sequence[Sequence[RunRecord]]) -> list[str]:
    """The method of each; of several alike with the run's name, or the stream, or a number that tells them apart."""
    labels = [members[0].method for members in groups]
    for values in ([members[0].name for members in groups], [members[0].stream for members in groups]):
        known = list(zip(labels, values, strict=True))
        alike = {label: {value for other, value in known if other == label} for label in labels}
        labels = [f"{label} ({value})" if len(alike[label]) > 1 else label for label, value in known]
    return [label if labels.count(label) == 1 else f"{label} ({place})" for place, label in enumerate(labels, start=1)]


def _identity(record: RunRecord) -> str:
    config = _without_repeats(record.config)
    tasks = [record.tasks, list(record.unseen_zero_shot)]
    return json.dumps([record.method, record.model, record.stream, tasks, config], sort_keys=True, default=str)


def _without_repeats(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _without_repeats(v) for k, v in value.items() if k not in _KEYS_THAT_REPEATS_DIFFER_IN}
    return value
