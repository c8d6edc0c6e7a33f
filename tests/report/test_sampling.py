from __future__ import annotations

import random

import pytest

from gorp.report.sampling import difference_interval


def test_the_interval_is_agresti_and_caffos() -> None:
    interval = difference_interval([80.0], [60.0], [(48, 98)])
    ours, theirs = (0.8 * 48 + 1) / 50, (0.6 * 98 + 1) / 100
    margin = 1.959964 * (ours * (1 - ours) / 50 + theirs * (1 - theirs) / 100) ** 0.5
    assert (interval.low, interval.high) == pytest.approx(
        (100 * (ours - theirs - margin), 100 * (ours - theirs + margin))
    )
    assert not interval.holds_zero


def test_full_marks_on_few_rows_leave_much_open() -> None:
    assert difference_interval([100.0], [90.0], [(10, 10)]).holds_zero


def test_it_covers_the_truth_about_nineteen_times_in_twenty() -> None:
    """Of the mean difference of three tasks, drawn 2,000 times."""
    generator = random.Random(0)
    truths, rows = [(0.9, 0.8), (0.5, 0.55), (0.99, 0.97)], [(100, 100), (80, 80), (60, 60)]
    mean = 100 * sum(ours - theirs for ours, theirs in truths) / 3

    def draw(share: float, count: int) -> float:
        return 100 * sum(generator.random() < share for _ in range(count)) / count

    held = 0
    for _ in range(2000):
        ours = [draw(our, count) for (our, _), (count, _) in zip(truths, rows, strict=True)]
        theirs = [draw(their, count) for (_, their), (_, count) in zip(truths, rows, strict=True)]
        interval = difference_interval(ours, theirs, rows)
        held += interval.low <= mean <= interval.high
    assert 0.94 <= held / 2000 <= 0.975


def test_a_difference_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one task"):
        difference_interval([], [], [])
