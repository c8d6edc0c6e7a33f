"""The commands that are disturbed: where each begins, what it leaves at every instant, and what it comes to.

A run that is ended goes on to the identical run. What is done to a run, such as rolling it back, is done or not done
at every instant: opened again, the folder is exactly what it was or what it is to be, and learns from there.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from faults import disturbances as do
from faults.child import Child, Inject, Outcome, start
from faults.moments import IN_SECOND_TASK, Moment
from faults.tiny_run import TinyRun, assert_identical, assert_same_files, copy
from gorp.run_folder import RunFolder


class Work(Protocol):
    """A command on a folder.

    Attributes:
        name: for the table; empty for the run.
        saves_when_told: whether SIGTERM ends it with a message and exit code 0, as it does what takes long.
        open_to_others: moments at which it keeps no other process out.
        stale: of these, those after which it finds that another process has changed what it had opened.
    """

    name: str
    saves_when_told: bool
    open_to_others: tuple[str, ...]
    stale: tuple[str, ...]

    def begin(self, moment: Moment, out: Path) -> None:
        """Make the folder in which the moment is still to come."""

    def start(self, out: Path, inject: Inject | None = None) -> Child:
        """Start the command there; once ended, the same goes on."""

    def check_ended(self, moment: Moment, out: Path, number: signal.Signals | None) -> None:
        """See to what stands there now that it was ended, by a signal or a refusal."""

    def check_done(self, out: Path) -> None:
        """See that what stands there is what the command comes to undisturbed."""


def finish(work: Work, out: Path) -> None:
    """Give the same command again; it comes to what it comes to undisturbed.

    Raises:
        AssertionError: it does not.
    """
    outcome = work.start(out).wait()
    assert outcome.code == 0 and not complaints(outcome), f"the same again ended with {outcome.code}: {outcome.said}"
    work.check_done(out)


def complaints(outcome: Outcome) -> list[str]:
    """Messages and tracebacks; what a command has to tell of its success goes without."""
    return [line for line in outcome.lines if line.startswith(("gorp: ", "Traceback"))]


@dataclass(frozen=True)
class Running:
    """`gorp run`; ``first`` is the run with its first task learnt, ``whole`` at its end."""

    run: TinyRun
    first: Path
    whole: Path
    name: str = ""
    saves_when_told: bool = True
    open_to_others: tuple[str, ...] = ("model loading", "report")  # not opened yet, and done with
    stale: tuple[str, ...] = ()

    def begin(self, moment: Moment, out: Path) -> None:
        """Where the moment is in the second task, with the first one learnt."""
        if moment in IN_SECOND_TASK:
            copy(self.first, out)

    def start(self, out: Path, inject: Inject | None = None) -> Child:
        """Run, or go on."""
        return start(self.run.arguments(out), inject)

    def check_ended(self, moment: Moment, out: Path, number: signal.Signals | None) -> None:
        """A signal amid a step lets it end and be saved, though it is not one that is saved by its number."""
        if moment.name == "refresh step" and number in (signal.SIGTERM, signal.SIGINT):
            assert (out / "task-02-animal" / "step-000003").exists(), "the step at hand was not saved"

    def check_done(self, out: Path) -> None:
        """The record, weights, spaces and files of the undisturbed run."""
        assert_identical(out, self.whole)


@dataclass(frozen=True)
class Undoing:
    """`gorp rollback` or `gorp retract`: what is done to a finished run, in an instant.

    Attributes:
        given: behind ``gorp COMMAND RUN``.
        folder: where `make` puts what the command comes to, and what is learnt with it and without it.
        before: the run that it is done to.
    """

    run: TinyRun
    name: str
    command: str
    given: tuple[str, ...]
    folder: Path
    before: Path
    saves_when_told: bool = False
    open_to_others: tuple[str, ...] = ("opened",)
    stale: tuple[str, ...] = ("opened",)

    @property
    def after(self) -> Path:
        """The run that it comes to."""
        return self.folder / "after"

    def make(self) -> None:
        """Do it undisturbed, and learn one more task with it and without it."""
        outcome = self.start(copy(self.before, self.after)).wait()
        assert outcome.code == 0, f"{self.name} ended with {outcome.code}: {outcome.said}"
        for run in (self.before, self.after):
            self._learn_on(copy(run, self._learnt(run)))

    def begin(self, moment: Moment, out: Path) -> None:
        """A copy of the run."""
        copy(self.before, out)

    def start(self, out: Path, inject: Inject | None = None) -> Child:
        """The command, at a time that stands still, so that its history is the same byte for byte."""
        return start(self.arguments(out), partial(do.both, do.stop_clock, inject))

    def arguments(self, out: Path) -> list[str]:
        """The command line."""
        return [self.command, str(out), *self.given]

    def check_ended(self, moment: Moment, out: Path, number: signal.Signals | None) -> None:
        """Opened, it is the run as it was or as it is to be; after a kill it is seen to learn as that one does."""
        opened = copy(out, out.with_name(out.name + "-opened"))
        folder = RunFolder.of_run(opened)
        with folder.locked():
            files, before = folder.stage_files(), RunFolder(self.before).state
        assert files is not None
        done = folder.state != before
        stands = self.after if done else self.before
        assert_same_files(opened, stands, ignored=("report.html",))
        if number == signal.SIGKILL:
            self._learn_on(opened)
            assert_identical(opened, self._learnt(stands))

    def check_done(self, out: Path) -> None:
        """The very files, the report among them."""
        assert_same_files(out, self.after)

    def _learnt(self, run: Path) -> Path:
        return self.folder / ("learnt-after" if run == self.after else "learnt-before")

    def _learn_on(self, run: Path) -> None:
        rows = ["--test", str(self.run.data / "act-test.jsonl"), "--name", "one-more", "--quiet"]
        outcome = start(["learn", str(run), str(self.run.data / "act-train.jsonl"), *rows]).wait()
        assert outcome.code == 0 and not outcome.said, f"learning on ended with {outcome.code}: {outcome.said}"


@dataclass(frozen=True)
class Exporting:
    """`gorp export` of a run to where an earlier export of it stands; the folder holds both, side by side.

    Attributes:
        whole: the run.
        folder: where `make` puts the earlier export and the one that is to be, each in a folder beside such a run.
        to: task after which the earlier one was made.
    """

    whole: Path
    folder: Path
    to: str
    name: str = "export"
    saves_when_told: bool = False
    open_to_others: tuple[str, ...] = ("model loading",)
    stale: tuple[str, ...] = ()

    @property
    def before(self) -> Path:
        """A folder with the run and the earlier export."""
        return self.folder / "before"

    @property
    def after(self) -> Path:
        """A folder with the run and its export."""
        return self.folder / "after"

    def make(self) -> None:
        """Make both exports undisturbed."""
        copy(self.whole, self.before / "run")
        for folder, more in ((self.before, ["--to", self.to]), (self.after, [])):
            if folder == self.after:
                copy(self.before, folder)
            outcome = start([*self.arguments(folder), *more]).wait()
            assert outcome.code == 0 and not outcome.said, f"the export ended with {outcome.code}: {outcome.said}"

    def begin(self, moment: Moment, out: Path) -> None:
        """A copy of the run and of the earlier export."""
        copy(self.before, out)

    def start(self, out: Path, inject: Inject | None = None) -> Child:
        """Export to where the earlier one stands."""
        return start(self.arguments(out), inject)

    def check_ended(self, moment: Moment, out: Path, number: signal.Signals | None) -> None:
        """The earlier export, or the one that is to be; nothing happened to the run."""
        done = '"animal"' in (out / "export" / "gorp_export.json").read_text()
        assert_same_files(out / "export", (self.after if done else self.before) / "export")
        assert_same_files(out / "run", self.whole)

    def check_done(self, out: Path) -> None:
        """The export, the run, and nothing beside."""
        assert_same_files(out, self.after)

    @staticmethod
    def arguments(out: Path) -> list[str]:
        """The command line."""
        return ["export", str(out / "run"), str(out / "export"), "--quiet"]
