"""Two runs set against each other: what each task scores at the end, which settings differ, and which layers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gorp import metrics
from gorp.report.layers import LayerDigest, digest_layers
from gorp.report.record import RunRecord
from gorp.report.sampling import Interval, difference_interval
from gorp.report.settings import differing

Scores = Mapping[str, float | None]


@dataclass(frozen=True)
class Difference:
    """Two scores in percent, None where not measured, and the 95% interval of their difference where it is known."""

    name: str
    ours: float | None
    theirs: float | None
    interval: Interval | None

    @property
    def value(self) -> float | None:
        """Ours less theirs, in points."""
        return None if self.ours is None or self.theirs is None else self.ours - self.theirs

    @property
    def verdict(self) -> str:
        """What the interval allows to say; empty where there is none."""
        if self.interval is None:
            return ""
        if self.interval.holds_zero:
            return "not shown to differ"
        return "higher" if self.interval.low > 0 else "lower"


@dataclass(frozen=True)
class LayerPair:
    """A layer in both runs; None where the other run's does not learn."""

    name: str
    ours: LayerDigest | None
    theirs: LayerDigest | None


@dataclass(frozen=True)
class Pair:
    """One run against another.

    Attributes:
        tasks: learnt by either run, those of both first; then those measured and never learnt. Scores at the end.
        mean: over the tasks that both learnt and measured at the end; None if there are none.
        settings: (dotted key, ours, theirs) where configuration or environment differ.
        layers: those that differ in what they keep, let through or felt, the most drift apart first.
        alike: how many layers do not differ.
    """

    ours: RunRecord
    theirs: RunRecord
    tasks: tuple[Difference, ...]
    mean: Difference | None
    settings: tuple[tuple[str, str, str], ...]
    layers: tuple[LayerPair, ...]
    alike: int


def pair_runs(ours: RunRecord, theirs: RunRecord) -> Pair:
    """Set ``ours`` against ``theirs``."""
    learnt = _differences(ours, theirs, _final(ours), _final(theirs))
    unseen = _differences(ours, theirs, _final_unseen(ours), _final_unseen(theirs))
    layers = _layer_pairs(ours, theirs)
    differ = sorted((layer for layer in layers if layer.ours != layer.theirs), key=_alikeness)
    parts = ((ours.config, theirs.config), (ours.environment, theirs.environment))
    return Pair(
        ours=ours,
        theirs=theirs,
        tasks=(*learnt, *unseen),
        mean=_mean(ours, theirs, [task for task in learnt if task.value is not None]),
        settings=tuple(setting for part in parts for setting in differing(*part)),
        layers=tuple(differ),
        alike=len(layers) - len(differ),
    )


def _differences(ours: RunRecord, theirs: RunRecord, mine: Scores, others: Scores) -> list[Difference]:
    shared = [name for name in mine if name in others]
    return [
        Difference(
            name, mine.get(name), others.get(name), _interval(ours, theirs, [(name, mine.get(name), others.get(name))])
        )
        for name in dict.fromkeys([*shared, *mine, *others])
    ]


def _mean(ours: RunRecord, theirs: RunRecord, tasks: Sequence[Difference]) -> Difference | None:
    if not tasks:
        return None
    pairs = [(task.name, task.ours, task.theirs) for task in tasks]
    mine, others = (metrics.mean(side) for side in ([task.ours for task in tasks], [task.theirs for task in tasks]))
    return Difference("mean, both learnt", mine, others, _interval(ours, theirs, pairs))


def _interval(
    ours: RunRecord, theirs: RunRecord, tasks: Sequence[tuple[str, float | None, float | None]]
) -> Interval | None:
    """Of the mean difference; None where a score or the number of rows behind it is missing."""
    mine, others, rows = [], [], []
    for name, our, their in tasks:
        counts = ours.scored_rows.get(name), theirs.scored_rows.get(name)
        if our is None or their is None or not counts[0] or not counts[1] or not math.isfinite(our + their):
            return None
        mine.append(our)
        others.append(their)
        rows.append((counts[0], counts[1]))
    return difference_interval(mine, others, rows) if rows else None


def _final(record: RunRecord) -> Scores:
    return dict(zip(record.tasks, record.matrix[-1] if record.matrix else record.zero_shot_row, strict=True))


def _final_unseen(record: RunRecord) -> Scores:
    last = record.unseen_matrix[-1] if record.unseen_matrix else record.unseen_zero_shot.values()
    return dict(zip(record.unseen_zero_shot, last, strict=True))


def _layer_pairs(ours: RunRecord, theirs: RunRecord) -> list[LayerPair]:
    mine, others = ({layer.name: layer for layer in digest_layers(record)} for record in (ours, theirs))
    return [LayerPair(name, mine.get(name), others.get(name)) for name in {**mine, **others}]


def _alikeness(layer: LayerPair) -> tuple[float, str]:
    ours, theirs = (side.drift or 0.0 if side else 0.0 for side in (layer.ours, layer.theirs))
    return -abs(ours - theirs), layer.name
