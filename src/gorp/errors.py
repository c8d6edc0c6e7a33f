"""The errors that gorp raises for its users; the command line turns them into one message and an exit code."""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails


class GorpError(Exception):
    """What went wrong and what to do about it, in one message; ``exit_code`` is what the command line leaves with."""

    exit_code: ClassVar[int] = 1


class InputError(GorpError):
    """Bad input: the message names the file, line or key and what would be accepted."""

    exit_code: ClassVar[int] = 2


class BusyError(GorpError):
    """Another process holds what this one needs; it may be had later."""


class BudgetExceeded(GorpError):  # noqa: N818 - a run that stops as it was told to is no error
    """Earlier tasks lost more than the run's forgetting budget allows."""

    exit_code: ClassVar[int] = 3


class SpaceWarning(UserWarning):
    """What protection costs the task at hand or those to come."""


class FullSpaceWarning(SpaceWarning):
    """Layers have no room left: they keep what they know and learn no more."""


class NearlyFullWarning(SpaceWarning):
    """Layers have little room left for what later tasks need."""


class MostlyBlockedWarning(SpaceWarning):
    """Protection leaves little of what a task asks to be changed."""


def nearest(name: str, accepted: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the accepted name most like ``name``, or ``""`` if none is like it."""
    candidates = list(accepted)
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    matches = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f" (did you mean {by_lower[matches[0]]!r}?)" if matches else ""


def nearest_choice(problem: ErrorDetails) -> str:
    """`nearest` for a value that is none of the choices of its key; ``""`` for any other problem of a validation."""
    if problem["type"] != "literal_error" or not isinstance(problem["input"], str):
        return ""
    return nearest(problem["input"], re.findall(r"'([^']*)'", problem["ctx"]["expected"]))


def few(names: Sequence[str], most: int = 3) -> str:
    """Return ``"a, b, c and 4 more"``: the first names of many."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def command_line(*words: object) -> str:
    """Return a command as a shell takes it, words with blanks in quotes."""
    return shlex.join(map(str, words))


def first_problem(error: ValidationError) -> str:
    """Return ``"key 'a.b': what is wrong (and 2 more)"`` of a validation that failed."""
    problems = error.errors(include_url=False, include_context=False)
    first = problems[0]
    key = ".".join(str(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ")
    rest = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    return (f"key '{key}': " if key else "") + message + rest
