"""Which rows are used: held-out parts and limits, chosen by hashes of the text, so that the same rows give the same
choice."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

Item = TypeVar("Item")

#: Of a train file, at most this share and number of rows become the validation part, unless a number is asked for.
VALIDATION_SHARE, VALIDATION_ROWS = 0.1, 500

#: The share of a data set without a test part that becomes one.
TEST_SHARE = 0.2


@dataclass(frozen=True)
class Limits:
    """How many rows of each part are used at most, ``None`` for all; ``seed`` decides which.

    ``validation_rows`` are split from train, ``None`` for a tenth of it and at most 500; they do not depend on the
    seed.
    """

    train_rows: int | None = None
    test_rows: int | None = None
    validation_rows: int | None = None
    seed: int = 0


def hold_out(
    items: Sequence[Item], count: int, text: Callable[[Item], str], salt: str
) -> tuple[list[Item], list[Item]]:
    """Split off ``count`` items, those whose text has the smallest hash: no seed, and the same on every machine.

    Returns the others and the held-out ones, each in the given order. Items with the text of a held-out one are
    dropped from the others, so that no text is on both sides.
    """
    order = sorted(range(len(items)), key=lambda index: (_hash(salt, text(items[index])), index))
    held = sorted(order[:count])
    held_texts = {text(items[index]) for index in held}
    return [item for item in items if text(item) not in held_texts], [items[index] for index in held]


def default_validation_rows(available: int) -> int:
    """Return how many of ``available`` training rows become the validation part."""
    return min(int(available * VALIDATION_SHARE), VALIDATION_ROWS)


def limit(
    items: Sequence[Item], count: int | None, text: Callable[[Item], str], group: Callable[[Item], str], seed: int
) -> list[Item]:
    """Return at most ``count`` items, as many of each group as of the others where there are enough, in a shuffled
    order.

    Which ones and in which order depends on ``seed`` and the texts alone. ``None`` returns all, as they are.
    """
    if count is None or count >= len(items):
        return list(items)
    groups: dict[str, list[int]] = {}
    order = sorted(range(len(items)), key=lambda index: (_hash(str(seed), text(items[index])), index))
    for index in order:
        groups.setdefault(group(items[index]), []).append(index)
    chosen: set[int] = set()
    left = sorted(groups.values(), key=len)
    for position, members in enumerate(left):  # the smallest first, so that the others make up for what it lacks
        chosen.update(members[: (count - len(chosen)) // (len(left) - position)])
    return [items[index] for index in order if index in chosen]


def _hash(salt: str, text: str) -> bytes:
    return hashlib.sha256(f"{salt}\0{text}".encode()).digest()
