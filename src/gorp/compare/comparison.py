"""Running an experiment in a folder: settings are chosen on validation rows first, then every cell is run."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gorp.compare.experiment import Cell, Experiment
from gorp.compare.fleet import Job, run_jobs
from gorp.compare.results import Results, Tuning, digest, keep
from gorp.errors import InputError
from gorp.run_config import RunConfig

RESULTS_FILE = "results.json"


class Comparison:
    """An experiment in its folder: ``tuning/CELL/N`` per choice of a grid, ``cells/CELL/STREAM/SEED``, the results.

    Args:
        experiment: what to run.
        folder: where; what an earlier run of the experiment left there is gone on with.
        settings: ``key=value`` overrides of every cell.
        only, streams, seeds: the cells to run, as of `Experiment.plan`.
        kept: by key, results of runs elsewhere. A cell that is among them with the same settings is not run again, nor
            is a grid tried that chose the settings of one.

    Attributes:
        configs: by the cells' names, how each begins, before its grid has chosen.

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
        self.configs = {cell.name: experiment.config(cell, self.settings) for cell in self.cells}
        grids = {name: choices for name in self.configs if len(choices := experiment.choices(name)) > 1}
        gridded = {key for choices in grids.values() for choice in choices for key in choice}
        for setting in self.settings:
            if setting.partition("=")[0] in gridded:
                raise InputError(
                    f"--set {setting}: is what a grid chooses; give its values there, or leave the grid out"
                )
        tuning_jobs = {
            name: [self._tuning_job(name, number, choice) for number, choice in enumerate(choices)]
            for name, choices in grids.items()
        }
        self._kept_tunings = {
            name: tuning for name, jobs in tuning_jobs.items() if (tuning := self._kept_tuning(name, jobs))
        }
        self.tuning_jobs = {name: jobs for name, jobs in tuning_jobs.items() if name not in self._kept_tunings}
        self.jobs: list[Job] = [job for jobs in self.tuning_jobs.values() for job in jobs]

    def run(
        self,
        workers: int = 1,
        retries: int = 1,
        on_change: Callable[[Job | None], None] = lambda job: None,
        on_result: Callable[[Results], None] = lambda results: None,
    ) -> None:
        """Run what is not finished yet; ``results.json`` holds every finished cell. Which failed, `jobs` tells.

        Args:
            workers: processes at a time.
            retries: further attempts of a cell that failed.
            on_change: as of `run_jobs`.
            on_result: called with every cell as it is finished, or is found finished in the folder.
        """
        run_jobs(self.jobs, workers, retries, on_change)
        tunings = {name: self._tuning(name) for name in dict.fromkeys(cell.name for cell in self.cells)}

        def changed(job: Job | None) -> None:
            if job is not None and job.result is not None:
                is_kept = job.result is self._kept.get(job.key)
                tuning = job.result.tuning if is_kept else tunings[job.result.cell]
                found = {job.key: job.result.model_copy(update={"tuning": tuning})}
                keep(self.folder / RESULTS_FILE, found)
                if not is_kept:
                    on_result(found)
            on_change(job)

        finals = [
            self._job(cell, _overrides(tuning.chosen if (tuning := tunings[cell.name]) else {}))
            for cell in self.cells
            if all(job.state == "done" for job in self.tuning_jobs.get(cell.name, ()))
        ]
        self.jobs += finals
        for job in finals:
            changed(job)
        run_jobs(finals, workers, retries, changed)

    def _job(self, cell: Cell, chosen: Sequence[str]) -> Job:
        """A cell that was run with other settings, its grid having changed since, fails; the others go on."""
        config = self.experiment.config(cell, [*self.settings, *chosen])
        job = Job(cell.key, _named(config, cell), self.folder / "cells" / cell.key)
        kept = self._kept.get(cell.key)
        if kept is not None and kept.was_made_with(config):
            job.state, job.result = "done", kept
            return job
        try:
            job.look()
        except InputError as error:
            job.state, job.note = "failed", str(error)
        return job

    def _tuning_job(self, name: str, number: int, choice: dict[str, Any]) -> Job:
        """On the first stream and seed of the cell in the whole experiment, so that the choice is always the same."""
        cell = self.experiment.plan([name])[0]
        config = self.experiment.config(cell, [*self.settings, *_overrides(choice)], tuning=True)
        place = self.folder / "tuning" / name / str(number)
        job = Job(f"tuning {name} {json.dumps(choice)}", _named(config, cell), place)
        job.look()
        return job

    def _tuning(self, name: str) -> Tuning | None:
        """How the settings of a cell were chosen: by AP, the first of equals, now or for cells that are kept.

        None without a grid, or if a try failed.

        Raises:
            InputError: there were no validation rows to choose by.
        """
        choices = self.experiment.choices(name)
        if name in self._kept_tunings:
            return self._kept_tunings[name]
        if name not in self.tuning_jobs:
            return Tuning(tried=[(choices[0], None)], chosen=choices[0]) if choices[0] else None
        results = [job.result for job in self.tuning_jobs[name] if job.result is not None]
        if len(results) < len(choices):
            return None
        scores = [result.summary["AP"] for result in results]
        best = max((score for score in scores if score is not None), default=None)
        if best is None:
            raise InputError(f"cell {name}: no task has validation rows to choose by; raise data.validation_rows")
        tried = list(zip(choices, scores, strict=True))
        return Tuning(
            tried=tried, chosen=choices[scores.index(best)], conditions=_conditions(choices, self.tuning_jobs[name])
        )

    def _kept_tuning(self, name: str, jobs: Sequence[Job]) -> Tuning | None:
        """How the settings of kept cells were chosen, if by the very runs that would choose now."""
        choices = self.experiment.choices(name)
        for cell in self.experiment.plan([name]):
            tuning = self._kept[cell.key].tuning if cell.key in self._kept else None
            if (
                tuning is not None
                and [choice for choice, _ in tuning.tried] == choices
                and tuning.conditions == _conditions(choices, jobs)
            ):
                return tuning
        return None


def _conditions(choices: Sequence[dict[str, Any]], jobs: Sequence[Job]) -> str:
    """What a grid was tried under: a digest of all settings but its own."""
    return digest(jobs[0].config, without=choices[0])


def _named(config: RunConfig, cell: Cell) -> RunConfig:
    return config.model_copy(update={"name": cell.name})


def _overrides(choice: dict[str, Any]) -> list[str]:
    return [f"{key}={json.dumps(value)}" for key, value in choice.items()]
