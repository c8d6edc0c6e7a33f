"""What seeds can tell: a mean with its 95% interval, and paired differences with an exact test. Pure functions."""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

#: 97.5 percent points of Student's t for 1, 2, ... degrees of freedom; beyond the last, Cornish and Fisher's expansion.
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
_NORMAL = 1.959964
_MOST_PAIRS_EXACTLY = 14  # 2^14 ways to turn the signs
_RANDOM_TURNS = 20_000


@dataclass(frozen=True)
class Mean:
    """A mean over ``count`` runs; ``margin`` is half its 95% interval (Student's t), None for a single run."""

    value: float
    margin: float | None
    count: int


@dataclass(frozen=True)
class Paired:
    """The mean difference of pairs of runs on the same stream with the same seed.

    Attributes:
        difference: the mean difference with its interval.
        p_value: two-sided, of the sign-flip permutation test; None for a single pair. With n pairs it is never below
            2 / 2^n, so three pairs cannot give less than 0.25.
    """

    difference: Mean
    p_value: float | None


def mean(values: Sequence[float]) -> Mean | None:
    """The mean of runs with its 95% interval; None of no runs."""
    if not values:
        return None
    if len(values) == 1:
        return Mean(values[0], None, 1)
    margin = student(len(values) - 1) * stdev(values) / len(values) ** 0.5
    return Mean(fmean(values), margin, len(values))


def paired(ours: Sequence[float], theirs: Sequence[float]) -> Paired | None:
    """How much ``ours`` lies above ``theirs``, pair by pair; None of no pairs.

    Raises ``ValueError`` if there are not as many of the one as of the other.
    """
    differences = [our - their for our, their in zip(ours, theirs, strict=True)]
    difference = mean(differences)
    return None if difference is None else Paired(difference, sign_flip_p_value(differences))


def sign_flip_p_value(differences: Sequence[float]) -> float | None:
    """Share of the ways to turn the differences' signs that give a sum at least as far from 0; None below two pairs.

    Exact up to 14 pairs; beyond, from 20,000 seeded random turns, the observed one counted in.
    """
    if len(differences) < 2:
        return None
    seen = abs(sum(differences)) - 1e-9 * sum(map(abs, differences))
    if len(differences) <= _MOST_PAIRS_EXACTLY:
        return _share(abs(sum(turned)) >= seen for turned in itertools.product(*((x, -x) for x in differences)))
    generator = random.Random(0)
    turns = (sum(generator.choice((x, -x)) for x in differences) for _ in range(_RANDOM_TURNS))
    return _share(itertools.chain([True], (abs(total) >= seen for total in turns)))


def student(freedom: int) -> float:
    """The 97.5 percent point of Student's t distribution for ``freedom`` >= 1 degrees of freedom, to 1e-3."""
    if freedom <= len(_STUDENT):
        return _STUDENT[freedom - 1]
    z, n = _NORMAL, float(freedom)
    first = (z**3 + z) / (4 * n)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * n**2)
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * n**3)
    return z + first + second + third


def _share(hits: Iterable[bool]) -> float:
    counted = [int(hit) for hit in hits]
    return sum(counted) / len(counted)
