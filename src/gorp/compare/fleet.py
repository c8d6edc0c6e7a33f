"""Running cells to their end, some at a time: failures stay with their cell and are tried again."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gorp.compare.cell import CELL, GIVEN_BACK, RESULT
from gorp.compare.launchers import LOG, POLL_SECONDS, CellProcess, Launcher
from gorp.compare.results import FREE, CellResult, read_result
from gorp.errors import GorpError, InputError
from gorp.files import write_text_atomically
from gorp.report.record import RunRecord
from gorp.run_config import RunConfig
from gorp.run_setup import first_difference

_MOST_LOSSES, _FIRST_PAUSE = 5, 5.0


@dataclass
class Job:
    """A cell to run in its folder, and where it stands.

    Attributes:
        state: ``waiting``, ``running``, ``done`` or ``failed``.
        note: why it failed, the last time.
        attempts: how often it was started.
        failures: how often it failed.
        losses: how often it was given back, its node being lost or its folder in use.
        not_before: when it may be started, by the monotonic clock.
        log_start: where its log of this attempt begins, in bytes.
        result: once it is done.
    """

    key: str
    config: RunConfig
    folder: Path
    state: str = "waiting"
    note: str = ""
    attempts: int = 0
    failures: int = 0
    losses: int = 0
    not_before: float = 0.0
    log_start: int = 0
    result: CellResult | None = field(default=None, repr=False)

    def look(self) -> None:
        """Take up what an earlier run of the cell left.

        Raises:
            InputError: the folder holds the cell with other settings.
        """
        saved = RunConfig.from_yaml(self.folder / CELL) if (self.folder / CELL).exists() else self.config
        if different := first_difference(self.config, saved, FREE):
            raise InputError(f"{self.folder}: was run with {different}; choose another folder, or put the setting back")
        if (self.folder / RESULT).exists():
            result = read_result(self.folder / RESULT)
            if not result.was_made_with(self.config):
                raise InputError(
                    f"{self.folder / RESULT}: is of a run with other settings; remove the folder to run it"
                )
            self.result, self.state = result, "done"

    def take_up(self) -> None:
        """As `look`, but that a job whose folder holds other settings has failed, and leaves the others alone."""
        try:
            self.look()
        except InputError as error:
            self.state, self.note = "failed", str(error)

    def stages(self) -> tuple[int, int]:
        """How many stages are finished, and how many tasks there are; (0, 0) before the run has a record."""
        try:
            record = RunRecord.load(self.folder)
        except InputError:
            return 0, 0
        return len(record.stages), len(record.tasks)


def run_jobs(
    jobs: Sequence[Job],
    launcher: Launcher,
    retries: int = 1,
    on_change: Callable[[Job | None], None] = lambda job: None,
) -> None:
    """Run jobs to their end, as many at a time as there is room for; a failed one is tried again after the others.

    One that SIGTERM has stopped goes on after the others. What ends this function ends the jobs by SIGTERM, and waits
    until they have saved where they are.

    Args:
        jobs: those that are ``waiting`` are run, in order.
        launcher: where.
        retries: further attempts of a job that failed other than by bad input. A job that is given back does not use
            them up; it waits a while, longer each time, and fails the fifth time.
        on_change: called with a job whose state has changed, and now and then with None.

    Raises:
        GorpError: no cell can run where it was put.
    """
    waiting = [job for job in jobs if job.state == "waiting"]
    running: dict[CellProcess, Job] = {}
    try:
        while waiting or running:
            due = [job for job in waiting if job.not_before <= time.monotonic()]
            for job in due[: max(0, launcher.room() - len(running))] if due else []:
                waiting.remove(job)
                running[_start(job, launcher)] = job
                on_change(job)
            for process, code in [(process, process.poll()) for process in running]:
                if code is None:
                    continue
                job = running.pop(process)
                _finish(job, code)
                if job.state == "failed" and _may_go_on(job, code, retries):
                    job.state = "waiting"
                if job.state == "waiting":
                    waiting.append(job)
                on_change(job)
            on_change(None)
            time.sleep(POLL_SECONDS)
    finally:
        for process in running:
            process.stop()
        for process in running:
            process.wait()


def raise_for_failures(jobs: Sequence[Job]) -> None:
    """Nothing if no job failed.

    Raises:
        GorpError: some did; the message says why. The others were run and are kept.
    """
    failed = [job for job in jobs if job.state == "failed"]
    if failed:
        reasons = "; ".join(f"{job.key}: {job.note}" for job in failed[:3])
        more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
        raise GorpError(f"{len(failed)} of {len(jobs)} cells failed ({reasons}{more}); run again to retry")


def _start(job: Job, launcher: Launcher) -> CellProcess:
    job.folder.mkdir(parents=True, exist_ok=True)
    write_text_atomically(job.folder / CELL, job.config.to_yaml())
    job.state, job.note = "running", ""
    job.attempts += 1
    log = job.folder / LOG
    job.log_start = log.stat().st_size if log.exists() else 0
    return launcher.start(job.folder)


def _finish(job: Job, code: int) -> None:
    job.take_up()
    if job.state in ("done", "failed"):
        return
    if code in (0, -signal.SIGTERM):
        job.state = "waiting"
        return
    log = job.folder / LOG
    said = log.read_bytes()[job.log_start :].decode(errors="replace").strip().splitlines() if log.exists() else []
    ended = f"ended by signal {-code}; " if code < 0 else ""
    if code == GIVEN_BACK:
        job.losses += 1
        ended = "given back; "
        job.not_before = time.monotonic() + _FIRST_PAUSE * 2 ** (job.losses - 1)
    else:
        job.failures += 1
    last = f"last line: {said[-1]}" if ended and said else said[-1] if said else f"ended with {code}, saying nothing"
    job.state, job.note = "failed", ended + last


def _may_go_on(job: Job, code: int, retries: int) -> bool:
    if code == GIVEN_BACK:
        return job.losses < _MOST_LOSSES
    return code not in (0, InputError.exit_code) and job.failures <= retries
