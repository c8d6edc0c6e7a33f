"""A command that is ended or hindered at a moment, or met by another one: what has to follow, whichever it is."""

from __future__ import annotations

import os
import signal
from functools import partial
from pathlib import Path

from faults import disturbances as do
from faults.child import Outcome
from faults.moments import Moment
from faults.works import Work, complaints, finish


def ended(work: Work, moment: Moment, number: signal.Signals, out: Path) -> str:
    """A signal ends it; the same command again comes to the identical."""
    work.begin(moment, out)
    outcome = work.start(out, partial(moment.arm, do.send(number))).wait()
    if number == signal.SIGKILL or (number == signal.SIGTERM and not work.saves_when_told):
        assert outcome.code == -number, f"{moment.name} never came: ended with {outcome.code}: {outcome.said}"
    else:
        said = "interrupted" if number == signal.SIGINT else "stopped by SIGTERM"
        assert_stopped(outcome, 130 if number == signal.SIGINT else 0, said)
    work.check_ended(moment, out, number)
    finish(work, out)
    return "identical"


def with_jumping_clocks(work: Work, moment: Moment, out: Path) -> str:
    """Clocks jump until it ends."""
    work.begin(moment, out)
    outcome = work.start(out, partial(moment.arm, do.jump_clocks)).wait()
    assert outcome.code == 0 and not complaints(outcome), f"ended with {outcome.code}: {outcome.said}"
    work.check_done(out)
    return "identical"


def on_full_disk(work: Work, moment: Moment, out: Path) -> str:
    """From the moment on nothing more can be written; with room again the same command comes to the identical."""
    assert moment.writes is not None
    work.begin(moment, out)
    outcome = work.start(out, partial(moment.writes, do.fill_disk)).wait()
    assert_stopped(outcome, 1, str(out))
    work.check_ended(moment, out, None)
    finish(work, out)
    return "message"


def read_only(work: Work, moment: Moment, out: Path) -> str:
    """From the moment on the folder may not be written; likewise."""
    work.begin(moment, out)
    out.mkdir(exist_ok=True)
    outcome = work.start(out, partial((moment.writes or moment.arm), do.make_read_only(out))).wait()
    do.make_writable(out)
    assert_stopped(outcome, 1, str(out))
    work.check_ended(moment, out, None)
    finish(work, out)
    return "message"


def two_at_once(work: Work, moment: Moment, other: Work, out: Path) -> str:
    """It waits at the moment until another command has come to the same folder and gone, or was refused there."""
    work.begin(moment, out)
    arrived, go_on = os.pipe(), os.pipe()

    def wait() -> None:
        os.write(arrived[1], b".")
        os.read(go_on[0], 1)

    first = work.start(out, partial(moment.arm, wait))
    os.read(arrived[0], 1)
    second = other.start(out).wait()
    os.write(go_on[1], b".")
    outcome = first.wait()
    if moment.name in work.open_to_others:
        assert second.code == 0 and not complaints(second), f"the second ended with {second.code}: {second.said}"
    else:
        assert_stopped(second, 1, f"process {first.pid} ")
    if moment.name in work.stale:
        assert_stopped(outcome, 1, "another process has gone on with this run")
    else:
        assert outcome.code == 0 and not complaints(outcome), f"the first ended with {outcome.code}: {outcome.said}"
    work.check_done(out)
    return "identical"


def assert_stopped(outcome: Outcome, code: int, named: str) -> None:
    """One message, no traceback, and the code that goes with it.

    Raises:
        AssertionError: it ended otherwise.
    """
    assert outcome.code == code, f"ended with {outcome.code}, not {code}: {outcome.said.strip()[-600:]}"
    assert len(outcome.lines) == 1 and outcome.said.startswith("gorp: "), f"said {outcome.said!r}"
    assert named in outcome.said, f"does not name {named}: {outcome.said!r}"
