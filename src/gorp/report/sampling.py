"""What the rows of a test set can tell: the sampling error of scores. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

_NORMAL = 1.959964  # 97.5 percent point


@dataclass(frozen=True)
class Interval:
    """A 95% interval, in points of percent."""

    low: float
    high: float

    @property
    def holds_zero(self) -> bool:
        """Whether no difference at all is within it."""
        return self.low <= 0 <= self.high


def difference_interval(ours: Sequence[float], theirs: Sequence[float], rows: Sequence[tuple[int, int]]) -> Interval:
    """The interval of ``mean(ours) - mean(theirs)``, scores in percent, each the mean over so many test rows.

    Agresti and Caffo's (The American Statistician 54, 2000): one success and one failure more in every sample. The
    variance of a share bounds that of any score of 0 to 100 percent with the same mean, so the interval holds for
    ROUGE-L, too. Both scores of a task are taken for independent; on the same rows they mostly rise and fall
    together, and the true interval is narrower.

    Args:
        ours, theirs: one score per task.
        rows: how many rows each pair was scored on.

    Raises:
        ValueError: there is no task, or as many of the one are not there of the other.
    """
    if not ours:
        raise ValueError("a difference needs at least one task")
    centre, variance = 0.0, 0.0
    for our, their, (our_rows, their_rows) in zip(ours, theirs, rows, strict=True):
        mine, other = shrunk(our, our_rows), shrunk(their, their_rows)
        centre += mine - other
        variance += mine * (1 - mine) / (our_rows + 2) + other * (1 - other) / (their_rows + 2)
    margin = _NORMAL * math.sqrt(variance)
    return Interval(100 * (centre - margin) / len(ours), 100 * (centre + margin) / len(ours))


def shrunk(score: float, rows: int) -> float:
    """The share that a score of 0 to 100, the mean over so many rows, stands for with a hit and a miss more."""
    return (min(max(score / 100, 0.0), 1.0) * rows + 1) / (rows + 2)
