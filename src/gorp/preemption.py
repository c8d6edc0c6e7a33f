"""Ending early with nothing lost: what SIGTERM, by which a machine is wanted back, and Ctrl-C do to a run.

Only commands listen to signals (`stopped_by`); a program that uses gorp as a library keeps its own handlers. A
training in flight makes its step to the end and is saved (`until_the_step_ends`, `asked`); anything else ends at once,
since what is saved stands at every instant.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stopped(BaseException):
    """The process was asked to end. No error, so that nothing which deals with errors goes on in spite of it.

    Attributes:
        number: the signal's.
        exit_code: 130 after Ctrl-C, as shells expect; else 0, for whoever starts preempted jobs again.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        interrupted = number == signal.SIGINT
        self.exit_code = 130 if interrupted else 0
        cause = "interrupted" if interrupted else f"stopped by {signal.Signals(number).name}"
        super().__init__(f"{cause}; what was saved stands, and the same command goes on from there")


class _Request:
    """The last signal that asked this process to end, and whether a step is to be made to its end first."""

    number: int | None = None
    mid_step = False


@contextmanager
def stopped_by(*numbers: signal.Signals) -> Iterator[None]:
    """Raise `Stopped` on these signals; around a command, as a decorator or not. In other threads it does nothing.

    A signal that is ignored, as SIGINT is under nohup, stays so.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in numbers}
    heard = {number: handler for number, handler in before.items() if handler is not signal.SIG_IGN}
    for number in heard:
        signal.signal(number, _receive)
    try:
        yield
    finally:
        for number, handler in heard.items():
            signal.signal(number, handler)
        _Request.number = None


@contextmanager
def until_the_step_ends() -> Iterator[None]:
    """Have signals wait for `asked`, or for the end of this block; a second Ctrl-C does not wait.

    Raises:
        Stopped: at the end of the block, if nobody has asked since the signal.
    """
    _Request.mid_step = True
    try:
        yield
    finally:
        _Request.mid_step = False
    if stop := asked():
        raise stop


def asked() -> Stopped | None:
    """What to raise once everything is saved, if the process was asked to end."""
    return None if _Request.number is None else Stopped(_Request.number)


def _receive(number: int, frame: FrameType | None) -> None:
    impatient = number == _Request.number == signal.SIGINT
    _Request.number = number
    if impatient or not _Request.mid_step:
        raise Stopped(number)
