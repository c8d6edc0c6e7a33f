"""What is kept of a cell, and the file that keeps it: JSON that says how every figure came about."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, field_validator, model_validator

from gorp.errors import InputError, first_problem
from gorp.files import locked, read_json, write_text_atomically
from gorp.methods import METHODS
from gorp.report.record import Matrix, RunRecord
from gorp.run_config import RunConfig
from gorp.run_setup import flatten

#: Settings that no result depends on.
FREE = ("report_to", "evaluation.batch_size", "training.save_every")


class Tuning(BaseModel):
    """What was tried on validation rows, on one stream with one seed, before the cell ran.

    Attributes:
        tried: per choice its settings (dotted key -> value) and its AP in percent; None where it was the
            only one and was not run.
        chosen: the settings of the best.
        conditions: what else those runs had set otherwise than the cell (dotted key -> value); None where nothing
            was run.
    """

    model_config = ConfigDict(extra="forbid")

    tried: list[tuple[dict[str, Any], float | None]]
    chosen: dict[str, Any]
    conditions: dict[str, Any] | None = None

    @field_validator("conditions", mode="before")
    @classmethod
    def _digests_tell_nothing(cls, value: object) -> object:
        """An earlier version kept a digest there; such tries are run again."""
        return None if isinstance(value, str) else value


class CellResult(BaseModel):
    """What a finished cell scored, at what cost, and how.

    Attributes:
        matrix, zero_shot, tasks: as in `RunRecord`, in percent.
        summary: AP, BWT and the other figures of `RunRecord.summary`, in percent.
        worst_leak_over_bound: the largest leak of any layer after any stage, as a share of what round-off may leave;
            None for a method that protects nothing.
        mean_fullness: of the spaces at the end, 0 to 1; None where there are none.
        frozen_layers: layers that stopped learning because their space was full.
        seconds: wall-clock time by part.
        peak_memory_bytes: of the process, or of the GPU where it ran on one; None where it was not measured.
        tuning: how its settings were chosen; None where they were given.
    """

    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="strings")

    cell: str
    method: str
    stream: str
    seed: int
    tasks: list[str]
    zero_shot: list[float | None]
    matrix: Matrix
    summary: dict[str, float | None]
    worst_leak_over_bound: float | None = None
    mean_fullness: float | None = None
    frozen_layers: int = 0
    seconds: dict[str, float] = Field(default_factory=dict)
    peak_memory_bytes: int | None = None
    config: dict[str, Any]
    environment: dict[str, Any]
    tuning: Tuning | None = None

    @model_validator(mode="after")
    def _is_of_a_finished_run(self) -> CellResult:
        count = len(self.tasks)
        if not count or {len(self.matrix), len(self.zero_shot), *map(len, self.matrix)} != {count}:
            raise ValueError(f"matrix and zero_shot must have a row, a column and a score for each of {count} tasks")
        return self

    @property
    def device(self) -> str | None:
        """What it ran on: ``cpu``, or a GPU's name; None where that was not taken down."""
        told: str | None = self.environment.get("device")
        return told

    @classmethod
    def of(cls, record: RunRecord, cell: str, peak_memory_bytes: int | None = None) -> CellResult:
        """What is kept of a finished run."""
        layers = [layer for stage in record.stages for layer in stage.layers.values()]
        last = record.stages[-1].layers.values()
        leaks = [layer.leak / layer.leak_bound for layer in layers if layer.leak is not None and layer.leak_bound]
        capped = [layer.fullness for layer in last if layer.cap]
        return cls(
            cell=cell,
            method=record.method,
            stream=stream_name(record.stream),
            seed=record.seed,
            tasks=record.tasks,
            zero_shot=record.zero_shot_row,
            matrix=record.matrix,
            summary=record.summary(),
            worst_leak_over_bound=worst(leaks),
            mean_fullness=statistics.fmean(capped) if capped else None,
            frozen_layers=sum(layer.frozen for layer in last),
            seconds=record.seconds,
            peak_memory_bytes=peak_memory_bytes,
            config=without_paths(record.config),
            environment=record.environment,
        )

    @property
    def settings(self) -> dict[str, Any] | None:
        """`settings_told` of its run, seed and stream left out; None where they are of another version."""
        try:
            return settings_told(RunConfig.from_mapping(self.config), without=("seed", "stream"))
        except InputError:
            return None

    @property
    def just_learnt(self) -> list[float | None]:
        """Per task its score when it had just been learnt; None throughout where all were learnt at once."""
        return [row[task] for task, row in enumerate(self.matrix)]

    def was_made_with(self, config: RunConfig) -> bool:
        """Whether a run of ``config`` would give this result: its settings agree in all that results depend on.

        Models and data are told by their names alone, and methods are taken to be what they were.
        """
        return self._agrees(config)

    def was_tuned_with(self, config: RunConfig) -> bool:
        """Whether a run of ``config`` would be one of those that chose its settings, but for what they chose."""
        if self.tuning is None or self.tuning.conditions is None:
            return False
        return self._agrees(config, overrides(self.tuning.conditions), self.tuning.chosen)

    def _agrees(self, config: RunConfig, changes: Iterable[str] = (), without: Iterable[str] = ()) -> bool:
        try:
            made_with = RunConfig.from_mapping(self.config, changes)
        except InputError:  # of another version, with settings that are gone
            return False
        return settings_told(config, without) == settings_told(made_with, without)


Results = dict[str, CellResult]
Content = TypeVar("Content")
_ADAPTER = TypeAdapter(Results)


def without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration without what only one machine knows: where the model and the data lie."""
    data = {key: value for key, value in config["data"].items() if key != "dir"}
    model, stream = config["model"], config["stream"]
    short = {"model": model and Path(model).name, "stream": stream and stream_name(stream), "data": data}
    return {**config, **short}


def _not_read(config: RunConfig) -> tuple[str, ...]:
    """Sections and settings that the method does not read, where that is known."""
    if config.method == "gorp":
        return ("lora",)
    return ("gorp", "training.full_rank_lr") if METHODS.get(config.method, "").startswith("gorp.methods.") else ()


def settings_told(config: RunConfig, without: Iterable[str] = ()) -> dict[str, Any]:
    """The settings that results depend on (dotted key -> value), but for those ``without`` (keys or sections).

    What a method does not read is no part of it, so that a setting added there makes no difference.
    """
    unused = {*FREE, "name", *without, *_not_read(config)}
    settings = flatten(without_paths(config.model_dump(mode="json")))
    return {key: value for key, value in settings.items() if not unused & {key, key.partition(".")[0]}}


def overrides(settings: Mapping[str, Any]) -> list[str]:
    """Settings by dotted key as ``key=value``."""
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in settings.items()]


def worst(leaks: Iterable[float]) -> float | None:
    """The largest of leaks as shares of what round-off may leave, NaN before all others; None of none."""
    return max(leaks, default=None, key=lambda leak: math.inf if math.isnan(leak) else leak)


def stream_name(stream: str) -> str:
    """A stream's name, or its YAML file's without the folder."""
    return Path(stream).name if stream.endswith((".yaml", ".yml")) else stream


def read_result(path: Path) -> CellResult:
    """The result of one cell.

    Raises:
        InputError: the file is damaged, or is not a result.
    """
    return _checked(TypeAdapter(CellResult), read_json(path, "result"), path)


def read_results(file: str | Path) -> Results:
    """The cells of a results file by key; none if the file does not exist.

    Raises:
        InputError: the file is damaged, or is not of results.
    """
    path = Path(file)
    if not path.exists():
        return {}
    return _comparable(_checked(_ADAPTER, read_json(path, "results"), path), path)


def _comparable(results: Results, path: Path) -> Results:
    first: dict[str, str] = {}
    runs: dict[tuple[str, str, int], str] = {}
    for key, result in results.items():
        if (other := runs.setdefault((result.cell, result.stream, result.seed), key)) != key:
            raise InputError(f"{path}: {other} and {key} are both of cell {result.cell!r} on one stream; remove one")
        other = first.setdefault(result.stream, key)
        if results[other].tasks != result.tasks:
            raise InputError(
                f"{path}: {other} and {key} are both of stream {result.stream!r}, with other tasks; "
                "remove one of them, or choose another file"
            )
    return results


def _checked(kind: TypeAdapter[Content], content: object, path: Path) -> Content:
    try:
        return kind.validate_python(content)
    except ValidationError as error:
        raise InputError(f"{path}: {first_problem(error)}") from None


def keep(file: str | Path, results: Mapping[str, CellResult]) -> None:
    """Add cells to a results file, replacing those of the same key; several processes may do so at once.

    Raises:
        InputError: the file is damaged, or holds other tasks under the name of one of these streams; it stays as it is.
    """
    path = Path(file)
    with locked(path.with_name(f".{path.name}.lock"), "keeps results there", wait=True):
        both = _comparable({**read_results(path), **results}, path)
        text = _ADAPTER.dump_json(dict(sorted(both.items())), indent=1).decode()
        write_text_atomically(path, text + "\n")
