"""Running an experiment in a folder: settings are chosen on validation rows first, then every cell is run."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gorp.compare.experiment import Cell, Experiment
from gorp.compare.fleet import Job, run_jobs
from gorp.compare.launchers import Launcher
from gorp.compare.results import CellResult, Results, Tuning, keep, overrides, read_results, settings_told
from gorp.errors import InputError
from gorp.run_config import RunConfig

RESULTS_FILE = "results.json"
_LONGEST_NAME = 120


class Comparison:
    """An experiment in its folder: ``tuning/CELL/CHOICE``, ``cells/CELL/STREAM/SEED``, the results.

    Args:
        experiment: what to run.
        folder: where; what an earlier run of the experiment left there is gone on with.
        settings: ``key=value`` overrides of every cell.
        only, streams, seeds: the cells to run, as of `Experiment.plan`.
        kept: by key, results of runs elsewhere. A cell that is among them with the same settings is not run again, nor
            is a choice of its grid that was tried for one.

    Attributes:
        configs: by the cells' names, how each begins, before a grid of several choices has chosen.

    Raises:
        InputError: a cell does not exist, is no valid run, or was run here with other settings.
    """

    def __init__(
        self,
        experiment: Experiment,
        folder: Path,
        settings: Sequence[str] = (),
        only: Sequence[str] = (),
        streams: Sequence[str] = (),
        seeds: Sequence[int] = (),
        kept: Results | None = None,
    ) -> None:
        self.experiment, self.folder, self.settings, self._kept = experiment, folder, tuple(settings), kept or {}
        self.cells = experiment.plan(only, streams, seeds)
        choices = {cell.name: experiment.choices(cell.name) for cell in self.cells}
        grids = {name: several for name, several in choices.items() if len(several) > 1}
        gridded = {key for several in choices.values() for choice in several for key in choice}
        for setting in self.settings:
            if setting.partition("=")[0] in gridded:
                raise InputError(
                    f"--set {setting}: is what a grid chooses; give its values there, or leave the grid out"
                )
        self.configs = {cell.name: experiment.config(cell, self.settings) for cell in self.cells}
        self.tuning_jobs = {
            name: [self._tuning_job(name, choice) for choice in several] for name, several in grids.items()
        }
        self._kept_scores = {key: score for name in self.tuning_jobs for key, score in self._scores_kept(name)}
        self.jobs: list[Job] = [
            job for jobs in self.tuning_jobs.values() for job in jobs if job.key not in self._kept_scores
        ]

    def run(
        self,
        launcher: Launcher,
        retries: int = 1,
        on_change: Callable[[Job | None], None] = lambda job: None,
        on_result: Callable[[Results], None] = lambda results: None,
    ) -> None:
        """Run what is not finished yet; ``results.json`` holds every finished cell. Which failed, `jobs` tells.

        Args:
            launcher: where.
            retries: further attempts of a cell that failed.
            on_change: as of `run_jobs`.
            on_result: called with every cell as it is finished, or is found finished in the folder.

        Raises:
            GorpError: no cell can run where the launcher puts it.
        """
        run_jobs(self.jobs, launcher, retries, on_change)
        tunings = {name: self._tuning(name) for name in dict.fromkeys(cell.name for cell in self.cells)}

        def changed(job: Job | None) -> None:
            if job is not None and job.result is not None:
                found = {job.key: job.result.model_copy(update={"tuning": self._told(job, tunings[job.result.cell])})}
                try:
                    keep(self.folder / RESULTS_FILE, found)
                    if found[job.key] != self._kept.get(job.key):
                        on_result(found)
                except InputError as error:
                    job.state, job.note = "failed", f"{error}; the cell's own result stands in {job.folder}"
            on_change(job)

        finals = [
            self._job(cell, overrides(tuning.chosen if (tuning := tunings[cell.name]) else {}))
            for cell in self.cells
            if cell.name not in self.tuning_jobs or tunings[cell.name]
        ]
        self.jobs += finals
        for job in finals:
            changed(job)
        run_jobs(finals, launcher, retries, changed)

    def results(self) -> tuple[Results, list[str]]:
        """What is finished of the whole experiment, and the keys of what is left out: made with other settings."""
        stored, current, stale = read_results(self.folder / RESULTS_FILE), {}, []
        for cell in self.experiment.plan():
            if (result := stored.get(cell.key)) is None:
                continue
            if self._is_current(cell, result):
                current[cell.key] = result
            else:
                stale.append(cell.key)
        return current, stale

    def _is_current(self, cell: Cell, result: CellResult) -> bool:
        """Whether it has the cell's settings: of several choices of a grid the one made now, if that is known."""
        choices, chosen = self.experiment.choices(cell.name), {}
        if len(choices) > 1:
            now = self._tuning(cell.name) if cell.name in self.tuning_jobs else None
            accepted = choices if now is None else [now.chosen]
            if result.tuning is None or result.tuning.chosen not in accepted:
                return False
            chosen = result.tuning.chosen
        try:
            return result.was_made_with(self.experiment.config(cell, [*self.settings, *overrides(chosen)]))
        except InputError:  # the cell cannot be run as it is written now
            return False

    def _job(self, cell: Cell, chosen: Sequence[str]) -> Job:
        """A cell that was run with other settings, its grid having changed since, fails; the others go on."""
        config = self.experiment.config(cell, [*self.settings, *chosen])
        job = Job(cell.key, _named(config, cell), self.folder / "cells" / cell.key)
        kept = self._kept.get(cell.key)
        if kept is not None and kept.was_made_with(config):
            job.state, job.result = "done", kept
        else:
            job.take_up()
        return job

    def _tuning_job(self, name: str, choice: dict[str, Any]) -> Job:
        """On the first stream and seed of the cell in the whole experiment, so that the choice is always the same."""
        cell = self.experiment.plan([name])[0]
        chosen = overrides(choice)
        config = self.experiment.config(cell, [*self.settings, *chosen], tuning=True)
        place = self.folder / "tuning" / name / _folder_of(",".join(chosen))
        job = Job(f"tuning {name} {json.dumps(choice)}", _named(config, cell), place)
        job.take_up()
        return job

    def _tuning(self, name: str) -> Tuning | None:
        """How the settings of a cell were chosen: by AP, the first of equals.

        None without a grid, or where nothing could be chosen, for a try failed or none had a score; it has failed then.
        """
        choices, jobs = self.experiment.choices(name), self.tuning_jobs.get(name)
        if jobs is None:
            return Tuning(tried=[(choices[0], None)], chosen=choices[0]) if choices[0] else None
        scores = {**self._kept_scores, **{job.key: job.result.summary["AP"] for job in jobs if job.result is not None}}
        if any(job.key not in scores for job in jobs):
            return None
        tried = [(choice, scores[job.key]) for choice, job in zip(choices, jobs, strict=True)]
        scored = [(choice, score) for choice, score in tried if score is not None and not math.isnan(score)]
        if not scored:
            for job in jobs:
                job.state, job.note = "failed", "no task has validation rows to choose by; raise data.validation_rows"
            return None
        chosen, _ = max(scored, key=lambda found: found[1])
        return Tuning(tried=tried, chosen=chosen)

    def _told(self, job: Job, tuning: Tuning | None) -> Tuning | None:
        """How a finished cell's settings were chosen, with what the tries had otherwise; as is known if not here."""
        assert job.result is not None
        if tuning is None or job.result.cell not in self.tuning_jobs:
            return job.result.tuning or tuning
        tried, own = (
            settings_told(config, without=tuning.chosen)
            for config in (self.tuning_jobs[job.result.cell][0].config, job.config)
        )
        conditions = {key: value for key, value in tried.items() if key not in own or own[key] != value}
        return tuning.model_copy(update={"conditions": conditions})

    def _scores_kept(self, name: str) -> Iterator[tuple[str, float]]:
        """By a job's key, what a choice scored when it was tried, in the same way, for a cell that is kept."""
        choices, jobs = self.experiment.choices(name), self.tuning_jobs[name]
        for cell in self.experiment.plan([name]):
            kept = self._kept.get(cell.key)
            if kept is None or kept.tuning is None or not kept.was_tuned_with(jobs[0].config):
                continue
            for job, choice in zip(jobs, choices, strict=True):
                scores = (score for tried, score in kept.tuning.tried if tried == choice and score is not None)
                yield from ((job.key, score) for score in scores)


def _folder_of(choice: str) -> str:
    """A choice's folder, whose name is its own and no file system finds too long."""
    name = re.sub(r"[^\w.=,+-]+", "_", choice)
    if name == choice and len(name) <= _LONGEST_NAME:
        return name
    return f"{name[:_LONGEST_NAME]}-{hashlib.blake2s(choice.encode(), digest_size=8).hexdigest()}"


def _named(config: RunConfig, cell: Cell) -> RunConfig:
    return config.model_copy(update={"name": cell.name})
