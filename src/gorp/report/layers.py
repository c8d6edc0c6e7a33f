"""What each layer let through over a whole run, the worst first."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from gorp.report.record import LayerMeter, RunRecord


@dataclass(frozen=True)
class LayerDigest:
    """One layer over all stages: its worst leak and drift, its lowest coverage, and its space as it now is.

    Attributes:
        leak, leak_bound: of the stage where leak is largest beside its bound; None if never measured.
        leak_task: the task learnt at that stage.
        stored_leak: the largest over the stages.
        drift, drift_task: the largest over stages and earlier tasks, and the task whose inputs drifted.
        coverage: the smallest share of an earlier task's input energy that the space covers.
        now: the meter of the last stage.
    """

    name: str
    leak: float | None
    leak_bound: float | None
    leak_task: str | None
    stored_leak: float | None
    drift: float | None
    drift_task: str | None
    coverage: float | None
    leaks: bool
    now: LayerMeter

    @property
    def fullness(self) -> float:
        """Share of the cap in use, 0 to 1."""
        return self.now.fullness


def digest_layers(record: RunRecord) -> list[LayerDigest]:
    """One digest per layer: leaks first, then frozen layers, then the largest drift, then the fullest."""
    names = dict.fromkeys(name for stage in record.stages for name in stage.layers)
    return sorted((_digest(record, name) for name in names), key=_badness)


def _digest(record: RunRecord, name: str) -> LayerDigest:
    stages = [(stage.task, stage.layers[name]) for stage in record.stages if name in stage.layers]
    task, worst = max(stages, key=lambda pair: _leak_beside_bound(pair[1]))
    drifts = [(value, old) for _, meter in stages for old, value in meter.drift.items()]
    drift, drifted = max(drifts, default=(None, None))
    now = stages[-1][1]
    return LayerDigest(
        name=name,
        leak=worst.leak,
        leak_bound=worst.leak_bound,
        leak_task=task if worst.leak is not None else None,
        stored_leak=_largest(meter.stored_leak for _, meter in stages),
        drift=drift,
        drift_task=drifted,
        coverage=min(now.coverage.values(), default=None),
        leaks=any(meter.leaks for _, meter in stages),
        now=now,
    )


def _leak_beside_bound(meter: LayerMeter) -> float:
    if meter.leak is None:
        return -1.0
    if math.isnan(meter.leak):
        return math.inf
    return meter.leak / meter.leak_bound if meter.leak_bound else meter.leak


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _badness(layer: LayerDigest) -> tuple[bool, bool, float, float, str]:
    return (not layer.leaks, not layer.now.frozen, -(layer.drift or 0.0), -layer.fullness, layer.name)
