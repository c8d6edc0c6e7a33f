"""What a person sees while cells run: a live table on a terminal, a line per event in a log, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from rich import box
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from gorp.compare.fleet import Job
from gorp.progress import describe_duration
from gorp.report.words import change, score

_STYLES = {"waiting": "dim", "running": "bold", "done": "green", "failed": "red"}
_REFRESH_SECONDS = 2.0
_MOST_ROWS = 40

OnChange = Callable[[Job | None], None]


@contextmanager
def open_display(jobs: Sequence[Job], quiet: bool = False, console: Console | None = None) -> Iterator[OnChange]:
    """A function to call with every job that changes; ``jobs`` may grow while it runs."""
    console = console or Console(stderr=True)
    if quiet:
        yield lambda job: None
    elif not console.is_terminal:
        yield lambda job: _print_line(job, jobs)
    else:
        live = LiveTable(jobs)
        with Live(live.table(), console=console, auto_refresh=False) as view:
            yield lambda job: live.refresh(job, view)
            view.update(live.table(), refresh=True)


class LiveTable:
    """The cells with what each is doing; those waiting beyond a screenful are counted, not listed."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self._jobs, self._started, self._drawn = jobs, time.monotonic(), 0.0
        self._began: dict[str, float] = {}

    def refresh(self, job: Job | None, view: Live) -> None:
        """Draw again when something has changed, or after a while."""
        if job is not None and job.state == "running":
            self._began[job.key] = time.monotonic()
        if job is not None or time.monotonic() - self._drawn > _REFRESH_SECONDS:
            view.update(self.table(), refresh=True)

    def table(self) -> Table:
        """The table as of now."""
        self._drawn = time.monotonic()
        table = Table(box=box.SIMPLE_HEAD, title=self._title(), title_justify="left", pad_edge=False)
        for heading in ("cell", "state", "stage", "AP", "BWT", ""):
            table.add_column(heading, justify="left" if heading in ("cell", "state", "") else "right")
        order = sorted(self._jobs, key=lambda job: ["running", "failed", "done", "waiting"].index(job.state))
        for job in order[:_MOST_ROWS]:
            table.add_row(*self._row(job))
        if len(order) > _MOST_ROWS:
            table.add_row(f"and {len(order) - _MOST_ROWS} more", *[""] * 5)
        return table

    def _title(self) -> Text:
        counts = {state: sum(job.state == state for job in self._jobs) for state in _STYLES}
        told = ", ".join(f"{count} {state}" for state, count in counts.items() if count)
        return Text(f"{told}; {describe_duration(time.monotonic() - self._started)}", style="bold")

    def _row(self, job: Job) -> list[Text]:
        stage, figures = "", ("", "")
        note = job.note
        if job.state == "running":
            done, tasks = job.stages()
            stage = f"{done}/{tasks}" if tasks else ""
            note = describe_duration(time.monotonic() - self._began.get(job.key, self._started))
        if job.result is not None:
            figures = (score(job.result.summary["AP"]), change(job.result.summary["BWT"]))
            note = describe_duration(sum(job.result.seconds.values()))
        cells = (job.key, job.state, stage, *figures, note)
        return [Text(cell, style=_STYLES[job.state], overflow="ellipsis", no_wrap=True) for cell in cells]


def _print_line(job: Job | None, jobs: Sequence[Job]) -> None:
    if job is None or (job.state == "waiting" and not job.note):
        return
    finished = sum(other.state in ("done", "failed") for other in jobs)
    told = job.state
    if job.result is not None:
        told = f"AP {score(job.result.summary['AP'])}, BWT {change(job.result.summary['BWT'])}"
    elif job.note:
        told = f"{job.state}: {job.note}"
    print(f"{finished}/{len(jobs)} {job.key}: {told}", file=sys.stderr, flush=True)
