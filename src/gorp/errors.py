"""The errors that gorp raises for its users; the command line turns them into one message and an exit code."""

import difflib
from collections.abc import Iterable
from typing import ClassVar


class GorpError(Exception):
    """What went wrong and what to do about it, in one message; ``exit_code`` is what the command line leaves with."""

    exit_code: ClassVar[int] = 1


class InputError(GorpError):
    """Bad input: the message names the file, line or key and what would be accepted."""

    exit_code: ClassVar[int] = 2


class FullSpaceWarning(UserWarning):
    """Layers have no room left: they keep what they know and learn no more."""


def nearest(name: str, accepted: Iterable[str]) -> str:
    """Return ``" (did you mean 'x'?)"`` for the accepted name most like ``name``, or ``""`` if none is like it."""
    candidates = list(accepted)
    by_lower = {candidate.lower(): candidate for candidate in candidates}
    matches = difflib.get_close_matches(name.lower(), by_lower, n=1)
    return f" (did you mean {by_lower[matches[0]]!r}?)" if matches else ""
