"""Settings of a run as a flat list, and where those of two runs differ."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

NOT_SET = "(not set)"


def flattened(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(dotted key, value as text) of nested settings."""
    for key, value in values.items():
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value, default=str)


def differing(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(dotted key, ours, theirs) where they differ, in the order of ours."""
    mine, others = dict(flattened(ours)), dict(flattened(theirs))
    return [
        (key, mine.get(key, NOT_SET), others.get(key, NOT_SET))
        for key in {**mine, **others}
        if mine.get(key, NOT_SET) != others.get(key, NOT_SET)
    ]
