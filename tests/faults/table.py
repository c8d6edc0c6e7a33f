"""Every cell of the fault table: what is done, and what has to follow.

A run that is disturbed goes on to the identical record, or stops with one clear message and the last good state intact:
the same command, once the cause is gone, ends in the identical record. Where the table says ``-``:

- SIGTERM ends what is done in an instant (rollback, retract, export) as it ends any program; a run saves and says so.
- disk full: no file is written at that moment, and whatever is next has a row of its own.
- read-only: likewise, but for two moments that show that the next file is then refused.
- clock jumps last until the run ends; two processes meet anywhere between two files: a few moments stand for all.
- NaN and Inf enter by the loss, a gradient or an activation, which there are in steps, and activations in evaluation.
  What a space is extended by and what is merged is summed from finite steps; files hold what was computed before.
- damage befalls files that lie on the disk, at no moment of a run. ``environment.json`` and ``report.html`` are for
  people; nothing is read from them.
"""

from __future__ import annotations

import math
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from faults import disturbances as do
from faults import hindered
from faults.child import Inject, gorp, warm_up
from faults.damage import CHANGES, cut, flip
from faults.hindered import assert_stopped
from faults.moments import (
    AT_START,
    EXPORTING,
    IN_SECOND_TASK,
    PUTTING_BACK,
    RETRACTING,
    ROLLING_BACK,
    Moment,
    at_call,
    renamed,
)
from faults.tiny_run import TinyRun, assert_finite, assert_identical, copy, tree
from faults.together import MODES, RANKS, finish_together, run_together
from faults.works import Exporting, Running, Undoing, Work
from gorp.report.record import RunRecord

SIGNALS = {"SIGKILL": signal.SIGKILL, "SIGTERM": signal.SIGTERM, "Ctrl-C": signal.SIGINT}
DAMAGES = ("bit flipped", "truncated", "emptied", "missing")
FLIPS = 9
DISKS = (16, 150, 300, 500, 700)
FIRST_TASK_LEARNT = renamed("gradient_space.safetensors", 2, "").arm
#: Steps of the second task, from 0; new directions are chosen every two.
SKIPPED = {"first step": range(1), "plain step": range(1, 2), "refresh step": range(2, 3), "five steps": range(1, 6)}
LEAN_MOMENTS = ("task start", "refresh step", "space extension", "evaluation")
RANK_MOMENTS = ("task start", "refresh step", "space extension", "merge", "evaluation", "stage named")
FROZEN_MOMENTS = ("task start", "evaluation")  # layers without room are neither refreshed nor extended


@dataclass(frozen=True)
class Cell:
    """One cell; ``check`` is given a folder of its own and says what happened; AssertionError if that is wrong."""

    row: str
    column: str
    check: Callable[[Path], str]


@dataclass(frozen=True)
class Undisturbed:
    """A run of the tiny run: as it is with its first task learnt, and as it ends.

    Attributes:
        inject: what gives it gradients that say little.
        settings: ``key=value`` overrides.
    """

    folder: Path
    inject: Inject | None = None
    settings: tuple[str, ...] = ()

    @property
    def first(self) -> Path:
        """The run with its first task learnt."""
        return self.folder / "first"

    @property
    def whole(self) -> Path:
        """The run at its end."""
        return self.folder / "whole"

    def make(self, run: TinyRun) -> None:
        """Run, stop after the first task, go on from a copy of that."""
        stop = partial(FIRST_TASK_LEARNT, do.send(signal.SIGKILL))
        outcome = run.run(self.first, partial(do.both, self.inject, stop), *self.settings)
        assert outcome.code == -signal.SIGKILL, f"the first task was never learnt: {outcome}"
        run.finish(copy(self.first, self.whole), self.inject, *self.settings)


class Table:
    """The cells, over one tiny run and what it comes to undisturbed.

    Args:
        run: the tiny run, made.
        folder: where the undisturbed runs are.
    """

    def __init__(self, run: TinyRun, folder: Path) -> None:
        self.run, self.folder = run, folder
        self.plain = Undisturbed(folder / "plain")
        self.lean = {name: Undisturbed(folder / name, *how) for name, how in LEAN.items()}
        self.stopped = folder / "stopped"
        self.running = Running(run, self.plain.first, self.plain.whole)
        self.retracting = Undoing(run, "retract", "retract", ("animal",), folder / "retract", folder / "given-back")
        retracted = self.retracting.after
        self.rolling_back = Undoing(run, "rollback", "rollback", ("--to", "colour"), folder / "rollback", retracted)
        rolled = self.rolling_back.after
        self.putting_back = Undoing(run, "put back", "rollback", ("--to", "animal"), folder / "put-back", rolled)
        self.exporting = Exporting(self.plain.whole, folder / "export", "colour")
        self.done_to_runs: dict[Work, list[Moment]] = {
            self.retracting: RETRACTING,
            self.rolling_back: ROLLING_BACK,
            self.putting_back: PUTTING_BACK,
            self.exporting: EXPORTING,
        }

    def prepare(self) -> None:
        """Make the undisturbed runs, and one that stands in its second task."""
        for undisturbed in (self.plain, *self.lean.values()):
            undisturbed.make(self.run)
        stop = partial(at_call("gorp.run_folder:RunFolder.save_flight", 2, after=True), do.send(signal.SIGKILL))
        assert self.run.run(copy(self.plain.first, self.stopped), stop).code == -signal.SIGKILL
        assert (self.stopped / "task-02-animal" / "step-000004").exists()
        for mode in MODES:
            finish_together(self.run, copy(self.plain.first, self._together(mode)), mode)
        for steps in SKIPPED.values():
            self.run.run(copy(self.plain.first, self._skipping(steps)), do.spoil_loss(math.nan, steps))
            self.run.finish(self._skipping(steps))
        given_back = copy(self.plain.first, self.retracting.before)  # something that a roll-back may lose, too
        assert gorp(["retract", str(given_back), "colour"]).code == 0
        self.run.finish(self.retracting.before)
        for work in (self.retracting, self.rolling_back, self.putting_back, self.exporting):
            work.make()
            warm_up(work.arguments(copy(work.before, self.folder / f"warm-{work.name}")))

    def cells(self) -> Iterator[Cell]:
        """All of them, in the order of the table."""
        yield from self._hindered(self.running, (*AT_START, *IN_SECOND_TASK))
        for moment in (moment for moment in IN_SECOND_TASK if moment.name in ("flight.safetensors", "evaluation")):
            for undoing in (self.rolling_back, self.retracting):
                met = partial(hindered.two_at_once, self.running, moment, undoing)
                yield Cell(moment.name, f"{undoing.name} meanwhile", met)
        for work, moments in self.done_to_runs.items():
            yield from self._hindered(work, moments)
        for file in self._files():
            for damage in DAMAGES:
                yield Cell(file, damage, partial(self._damage, file, damage))
        for value in (math.nan, math.inf):
            for row, steps in SKIPPED.items():
                for what, spoil in SPOILS.items():
                    yield Cell(f"{row}, {value}", what, partial(self._not_finite, spoil, value, steps))
            yield Cell(f"evaluation, {value}", "activation", partial(self._not_finite_answers, value))
        for name, undisturbed in self.lean.items():
            moments = LEAN_MOMENTS if undisturbed.inject else FROZEN_MOMENTS
            for moment in (moment for moment in IN_SECOND_TASK if moment.name in moments):
                yield Cell(name, moment.name, partial(self._lean, undisturbed, moment))
        for name, change in CHANGES.items():
            yield Cell(name, "before going on", partial(self._changed, change))
        for mode in MODES:
            for moment in (moment for moment in IN_SECOND_TASK if moment.name in RANK_MOMENTS):
                for rank in range(1 if moment.name == "stage named" else RANKS):  # which the first alone does
                    killed = partial(self._rank_ended, moment, mode, rank, signal.SIGKILL)
                    yield Cell(f"{mode}, {moment.name}", f"rank {rank} killed", killed)
            told = next(moment for moment in IN_SECOND_TASK if moment.name == "refresh step")
            yield Cell(
                f"{mode}, {told.name}", "SIGTERM to rank 1", partial(self._rank_ended, told, mode, 1, signal.SIGTERM)
            )
        for kilobytes in DISKS:
            yield Cell(f"disk of {kilobytes} kB", "as it fills", partial(self._small_disk, kilobytes))

    @staticmethod
    def _hindered(work: Work, moments: Iterable[Moment]) -> Iterator[Cell]:
        """A command at each of its moments: ended, hindered, met by another of its like."""
        for moment in moments:
            row = f"{work.name}, {moment.name}" if work.name else moment.name
            for name, number in SIGNALS.items():
                yield Cell(row, name, partial(hindered.ended, work, moment, number))
            if moment.writes:
                yield Cell(row, "disk full", partial(hindered.on_full_disk, work, moment))
            if moment.writes or moment.name in ("task start", "evaluation"):
                yield Cell(row, "read-only", partial(hindered.read_only, work, moment))
            if not moment.writes or moment.name == "flight.safetensors":
                yield Cell(row, "clock jumps", partial(hindered.with_jumping_clocks, work, moment))
                yield Cell(row, "two processes", partial(hindered.two_at_once, work, moment, work))

    def _together(self, mode: str) -> Path:
        return self.folder / f"together-{mode}"

    def _skipping(self, steps: range) -> Path:
        return self.folder / f"skipping-{steps.start}-{steps.stop}"

    def _assert_as_undisturbed(self, out: Path) -> None:
        self.run.finish(out)
        assert_identical(out, self.plain.whole)

    # files are damaged

    def _files(self) -> list[str]:
        """The files that a run is gone on with from, by their path in the run folder."""
        unread = ("run.lock", "environment.json", "report.html")
        files = (path for path in self.stopped.rglob("*") if path.is_file() and path.name not in unread)
        kept = {str(path.relative_to(self.stopped)) for path in files}
        return sorted(kept, key=lambda name: (name.count("/"), name))

    def _damage(self, file: str, damage: str, out: Path) -> str:
        if damage == "bit flipped":
            size = (self.stopped / file).stat().st_size
            places = sorted({min(size - 1, size * part // (FLIPS - 1)) for part in range(FLIPS)})
            outcomes = {self._damaged(file, partial(flip, place), out / str(place)) for place in places}
            return " or ".join(sorted(outcomes))
        way = {"truncated": partial(cut, 0.5), "emptied": partial(cut, 0.0), "missing": Path.unlink}[damage]
        return self._damaged(file, way, out)

    def _damaged(self, file: str, way: Callable[[Path], object], out: Path) -> str:
        copy(self.stopped, out)
        way(out / file)
        before = tree(out)
        outcome = self.run.run(out)
        if outcome.code == 0:
            assert not outcome.said, f"ended with 0, saying {outcome.said}"
            if file.endswith("checksums.json") and (self.plain.whole / file).exists():  # an earlier version wrote none
                shutil.copyfile(self.stopped / file, out / file)
            assert_identical(out, self.plain.whole)
            return "identical"
        name = Path(file).name
        if name == "checksums.json":  # what it is damaged in is a file beside it, to all appearances
            name = str(Path(file).parent) if "/" in file else str(out)
        assert_stopped(outcome, 2, name)
        assert tree(out) == before, "the refused run has changed the folder"
        if "step-" in file:  # the message says that the flight may be deleted
            assert "or delete" in outcome.said, outcome.said
            shutil.rmtree((out / file).parent)
        else:
            shutil.copyfile(self.stopped / file, out / file)
        self._assert_as_undisturbed(out)
        return "message"

    # numbers that are not finite, and gradients that say little

    def _not_finite(self, spoil: do.Spoil, value: float, steps: range, out: Path) -> str:
        """The steps are skipped and counted, however they were spoilt, and nothing else differs."""
        outcome = self.run.run(copy(self.plain.first, out), spoil(value, steps))
        if len(steps) >= 5:
            assert_stopped(outcome, 1, "not finite in 5 steps in a row")
            self.run.finish(out)
        else:
            assert outcome.code == 0 and not outcome.said, f"ended with {outcome.code}: {outcome.said}"
        assert RunRecord.load(out).stages[1].skipped_steps == len(steps), "skipped steps are not counted"
        assert_finite(out)
        assert_identical(out, self._skipping(steps), ignored=("skipped_refreshes",))
        return "message" if len(steps) >= 5 else "skipped"

    def _not_finite_answers(self, value: float, out: Path) -> str:
        outcome = self.run.run(copy(self.plain.first, out), do.spoil_answers(value, 1))
        assert_stopped(outcome, 1, "not finite")
        self._assert_as_undisturbed(out)
        return "message"

    def _lean(self, undisturbed: Undisturbed, moment: Moment, out: Path) -> str:
        """Nothing is poisoned; killed and gone on with it comes to the same."""
        inject, settings = undisturbed.inject, undisturbed.settings
        killed = partial(do.both, inject, partial(moment.arm, do.send(signal.SIGKILL)))
        outcome = self.run.run(copy(undisturbed.first, out), killed, *settings)
        assert outcome.code == -signal.SIGKILL, f"{moment.name} never came: {outcome}"
        self.run.finish(out, inject, *settings)
        assert_finite(out)
        assert_identical(out, undisturbed.whole)
        return "identical"

    # one of several ranks

    def _rank_ended(self, moment: Moment, mode: str, rank: int, number: signal.Signals, out: Path) -> str:
        """The others end with it, and two ranks go on to what two ranks come to undisturbed."""
        outcomes = run_together(self.run, copy(self.plain.first, out), mode, rank, partial(moment.arm, do.send(number)))
        if number == signal.SIGKILL:
            assert outcomes[rank].code == -number, f"{moment.name} never came: {outcomes[rank]}"
        else:
            for outcome in outcomes:
                assert outcome.code == 0 and "stopped by SIGTERM" in outcome.said, f"ended with {outcome}"
        finish_together(self.run, out, mode)
        assert_identical(out, self._together(mode))
        return "identical"

    # something else than before

    def _changed(self, change: Callable[[TinyRun], None], out: Path) -> str:
        other = TinyRun(out.with_name(out.name + "-other"))
        for path in (self.run.model, self.run.data):
            shutil.copytree(path, other.folder / path.name)
        stream, own = other.data / "stream.yaml", other.config
        own.write_text(self.run.config.read_text().replace(str(self.run.folder), str(other.folder)))
        copy(self.stopped, out)
        before = tree(out)
        content = tree(other.folder)
        change(other)
        assert_stopped(other.run(out), 2, "")
        assert tree(out) == before, "the refused run has changed the folder"
        for name, bytes_ in content.items():
            (other.folder / name).write_bytes(bytes_)
        assert stream.exists()
        other.finish(out)
        assert_identical(out, self.plain.whole)
        return "message"

    def _small_disk(self, kilobytes: int, out: Path) -> str:
        """A file system of its own that fills up, and is then made larger."""
        out.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "none", str(out)]
        if subprocess.run(mount, capture_output=True, check=False).returncode:
            return "- (no right to mount)"
        try:
            run = out / "run"
            assert_stopped(self.run.run(run), 1, "No space left on device")
            subprocess.run(["mount", "-o", "remount,size=64m", str(out)], check=True)
            self._assert_as_undisturbed(run)
        finally:
            subprocess.run(["umount", str(out)], check=True)
        return "message"


SPOILS: dict[str, do.Spoil] = {
    "loss": do.spoil_loss,
    "gradient": do.spoil_gradient,
    "activation": do.spoil_activations,
}
LEAN: dict[str, tuple[Inject | None, tuple[str, ...]]] = {
    "zero gradients": (do.no_gradient, ()),
    "rank-deficient gradients": (do.one_row, ()),
    "a full space": (None, ("gorp.max_share=0.1",)),
    "a space without room": (None, ("gorp.max_share=0.01",)),
}


def run_cell(cell: Cell) -> tuple[bool, str]:
    """Whether a cell is green, and what happened."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return True, cell.check(Path(folder) / "run")
        except AssertionError as error:
            return False, str(error)
        except Exception as error:  # a cell that breaks is red, and the others go on
            return False, f"{type(error).__name__}: {error}"
