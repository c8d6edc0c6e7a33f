"""What a task lost, and what the sampling error of its test rows leaves of that: pure functions.

Pseudo-rows keep the intervals honest for few rows, or rows that all agree: two of each pair (Agresti and Min 2005), a
hit and a miss of each score (Agresti and Caffo 2000). All figures are points of percent; an interval may reach beyond
100, for means are made of whole ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt
from statistics import NormalDist

from gorp.report.record import Loss
from gorp.report.sampling import shrunk


def paired_loss(before: Sequence[float], after: Sequence[float], confidence: float) -> Loss:
    """The mean loss of rows that were scored twice.

    Args:
        before, after: score of each row, 0 to 100, in the same order; at least one.
        confidence: of the interval, 0 to 1; at 0 it is the loss itself.
    """
    lost = [earlier - later for earlier, later in zip(before, after, strict=True)]
    count = len(lost) + 2  # one row that stays as it is, half a row that is lost, and half a row that is gained
    centre = sum(lost) / count
    spread = (sum(each * each for each in lost) + 100.0**2) / count - centre**2
    return _loss(sum(lost) / len(lost), centre, sqrt(spread / count), confidence)


def unpaired_loss(before: float, after: float, rows: int, confidence: float) -> Loss:
    """The loss of a score, where nothing is known of single rows; other scores than exact match vary less.

    Args:
        before, after: 0 to 100.
        rows: that each is the mean of, at least one.
        confidence: as of `paired_loss`.
    """
    shares = [shrunk(score, rows) for score in (before, after)]
    error = sqrt(sum(share * (1 - share) for share in shares) / (rows + 2))
    return _loss(before - after, 100 * (shares[0] - shares[1]), 100 * error, confidence)


def mean_loss(losses: Sequence[Loss]) -> Loss:
    """The mean of independent losses, at least one, at the confidence that they have.

    Pseudo-rows pull every interval towards zero; in the mean, which is of all rows, they count once, not once a loss.
    """
    count = len(losses)
    points = sum(loss.points for loss in losses) / count
    pull = points - sum(loss.low + loss.high for loss in losses) / 2 / count
    centre = points - pull / count
    half = sqrt(sum(((loss.high - loss.low) / 2) ** 2 for loss in losses)) / count
    return Loss(points=points, low=centre - half, high=centre + half)


def _loss(points: float, centre: float, error: float, confidence: float) -> Loss:
    if not confidence:
        return Loss(points=points, low=points, high=points)
    half = NormalDist().inv_cdf((1 + confidence) / 2) * error
    return Loss(points=points, low=centre - half, high=centre + half)
