"""Running cells as processes, some at a time: failures stay with their cell and are tried again."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gorp.compare.cell import CELL, RESULT
from gorp.compare.results import FREE, CellResult, read_result
from gorp.errors import GorpError, InputError
from gorp.files import write_text_atomically
from gorp.report.record import RunRecord
from gorp.run_config import RunConfig
from gorp.run_setup import first_difference

LOG = "cell.log"
_POLL_SECONDS = 0.3


@dataclass
class Job:
    """A cell to run in its folder, and where it stands.

    Attributes:
        state: ``waiting``, ``running``, ``done`` or ``failed``.
        note: why it failed.
        attempts: how often it was started.
        log_start: where its log of this attempt begins, in bytes.
        result: once it is done.
    """

    key: str
    config: RunConfig
    folder: Path
    state: str = "waiting"
    note: str = ""
    attempts: int = 0
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
            self.result = read_result(self.folder / RESULT)
            self.state = "done"

    def stages(self) -> tuple[int, int]:
        """How many stages are finished, and how many tasks there are; (0, 0) before the run has a record."""
        try:
            record = RunRecord.load(self.folder)
        except InputError:
            return 0, 0
        return len(record.stages), len(record.tasks)


def run_jobs(
    jobs: Sequence[Job], workers: int, retries: int = 1, on_change: Callable[[Job | None], None] = lambda job: None
) -> None:
    """Run jobs to their end, ``workers`` at a time; a failed one is tried again after the others, ``retries`` times.

    Args:
        jobs: those that are ``waiting`` are run, in order.
        workers: processes at a time; they share the cores.
        retries: further attempts of a job that failed other than by bad input.
        on_change: called with a job whose state has changed, and now and then with None.
    """
    waiting = deque(job for job in jobs if job.state == "waiting")
    running: dict[subprocess.Popen[bytes], Job] = {}
    try:
        while waiting or running:
            while waiting and len(running) < workers:
                job = waiting.popleft()
                running[_start(job, workers)] = job
                on_change(job)
            for process in [process for process in running if process.poll() is not None]:
                job = running.pop(process)
                _close(process)
                _finish(job, process.returncode)
                if job.state == "failed" and process.returncode != InputError.exit_code and job.attempts <= retries:
                    job.state = "waiting"
                    waiting.append(job)
                on_change(job)
            on_change(None)
            time.sleep(_POLL_SECONDS)
    finally:
        for process in running:
            process.kill()
            _close(process)


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


def _start(job: Job, workers: int) -> subprocess.Popen[bytes]:
    job.folder.mkdir(parents=True, exist_ok=True)
    write_text_atomically(job.folder / CELL, job.config.to_yaml())
    job.state, job.note = "running", ""
    job.attempts += 1
    with (job.folder / LOG).open("ab") as log:
        job.log_start = log.tell()
        return subprocess.Popen(
            [sys.executable, "-m", "gorp.compare.cell", str(job.folder)],
            stdin=subprocess.PIPE,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(os.environ, workers),
        )


def _close(process: subprocess.Popen[bytes]) -> None:
    process.wait()
    if process.stdin is not None:
        process.stdin.close()


def _environment(given: Mapping[str, str], workers: int) -> dict[str, str]:
    """The cores are shared out: two processes with a thread a core each would wait for each other."""
    threads = given.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // workers))
    return {**given, "OMP_NUM_THREADS": threads}


def _finish(job: Job, code: int) -> None:
    job.look()
    if job.state != "done":
        said = (job.folder / LOG).read_bytes()[job.log_start :].decode(errors="replace").strip().splitlines()
        ended = f"ended by signal {-code}; last line: " if code < 0 else ""
        job.state, job.note = "failed", ended + (said[-1] if said else f"ended with {code}, saying nothing")
