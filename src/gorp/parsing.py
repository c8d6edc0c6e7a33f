"""JSON and YAML from anywhere as plain values: whatever else a text asks for, or costs, is an error of its format."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

#: Lists within lists and keys within keys, at most; what walks through values does so by recursion.
MOST_NESTED = 100

#: Values of a YAML text, at most, each counted wherever an alias repeats it: nine lines of aliases can be gigabytes.
MOST_VALUES = 100_000

_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
_PLAIN = (str, int, float, bool, type(None))


def parse_json(text: str) -> Any:
    """What a JSON text holds.

    Raises:
        json.JSONDecodeError: it is not JSON, is nested too deep, or holds half a character.
    """
    try:
        content = json.loads(text)
        surrogate = _SURROGATE.search(text)
        if surrogate or text.count("[") + text.count("{") > MOST_NESTED:
            _check(content)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise json.JSONDecodeError(f"nested deeper than {MOST_NESTED}", text, 0) from None
    except ValueError as error:  # ours, and Python's of a number with thousands of digits
        raise json.JSONDecodeError(str(error), text, 0) from None
    return content


def parse_yaml(text: str) -> Any:
    """What a YAML text holds: texts, numbers, true, false, null, lists, and keys with values.

    Raises:
        yaml.YAMLError: it is not YAML, holds something else, is nested too deep or very large, or holds half a
            character.
    """
    try:
        content = yaml.safe_load(text)
        _check(content, MOST_VALUES)
    except yaml.YAMLError:
        raise
    except RecursionError:
        raise yaml.YAMLError(f"nested deeper than {MOST_NESTED}") from None
    except Exception as error:  # ours, and what PyYAML lets through of a value that does not fit its tag
        raise yaml.YAMLError(str(error) or type(error).__name__) from None
    return content


def _check(content: object, most: float = float("inf")) -> None:
    """Raise ``ValueError`` at the first value that is not plain; the message names its key."""
    waiting: list[tuple[object, tuple[object, ...]]] = [(content, ())]
    seen = 0
    while waiting:
        value, keys = waiting.pop()
        seen += 1
        if len(keys) >= MOST_NESTED and isinstance(value, (dict, list)):
            raise ValueError(f"nested deeper than {MOST_NESTED}")
        if seen > most:
            raise ValueError(f"more than {most} values, counted where aliases repeat them")
        if isinstance(value, dict):
            waiting += [(inner, (*keys, key)) for key, inner in value.items()]
            waiting += [(key, keys) for key in value]
        elif isinstance(value, list):
            waiting += [(inner, (*keys, number)) for number, inner in enumerate(value)]
        elif isinstance(value, str):
            if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
                raise ValueError(f"{_place(keys)}half of a surrogate pair, which is no character")
        elif not isinstance(value, _PLAIN):
            raise ValueError(f"{_place(keys)}{type(value).__name__}; put it in quotes to make it a text")


def _place(keys: tuple[object, ...]) -> str:
    name = ".".join(map(str, keys)).encode("ascii", "backslashreplace").decode()
    return f"key '{name}': " if keys else ""
