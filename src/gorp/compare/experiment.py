"""What an experiment file says: which cells there are, and the configuration of each."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from gorp.compare.results import overrides, stream_name
from gorp.errors import InputError, first_problem, nearest
from gorp.files import read_yaml, stay_inside
from gorp.run_config import RunConfig
from gorp.run_setup import flatten, settle_options

NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
#: What a cell is told by its place in the experiment.
PLACE = {"seed": "seeds", "stream": "streams"}
#: What should be alike in cells that are compared: base model, data and budget.
LIKE = (
    "model",
    "dtype",
    "quantize",
    *(f"data.{key}" for key in ("train_rows", "test_rows", "validation_rows", "name_task_in_prompt")),
    *(f"training.{key}" for key in ("epochs", "max_source_length", "max_target_length")),
)


class CellKeys(BaseModel):
    """The keys of a cell that are not settings of its run."""

    model_config = ConfigDict(extra="ignore", strict=True)

    grid: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(default_factory=dict)
    streams: list[str] = Field(default_factory=list)
    seeds: list[int] = Field(default_factory=list)


@dataclass(frozen=True)
class Cell:
    """One run of an experiment: a named choice of method and settings, on one stream, with one seed."""

    name: str
    stream: str
    seed: int

    @property
    def key(self) -> str:
        """``NAME/STREAM/SEED``, the cell's place in a folder and in a file of results, wherever a stream's file is."""
        return f"{self.name}/{re.sub(r'^[.]+$|[^A-Za-z0-9._-]+', '-', stream_name(self.stream))}/{self.seed}"


class Experiment(BaseModel):
    """An experiment file.

    Attributes:
        about: what it asks, in a line.
        base: a run configuration that all cells begin with.
        cells: by name, what differs from the base; ``grid`` (dotted key -> values to try on validation rows),
            ``streams`` and ``seeds`` (its own, instead of the experiment's) are not part of the run.
        streams: the streams to learn; that of the base if not given.
        seeds: of every cell.
        tuning: what is different while a grid is tried, such as fewer rows; always scored on validation rows.
        against: the cell that the others are compared with, pair by pair.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str = Field(pattern=NAME)
    about: str = ""
    base: dict[str, Any] = Field(default_factory=dict)
    cells: dict[Annotated[str, Field(pattern=NAME)], dict[str, Any]] = Field(min_length=1)
    streams: list[str] = Field(default_factory=list)
    seeds: list[int] = Field(default_factory=lambda: [0], min_length=1)
    tuning: dict[str, Any] = Field(default_factory=dict)
    against: str = "gorp"

    @model_validator(mode="after")
    def _is_consistent(self) -> Experiment:
        settings = [("base.seed", "seed" in self.base)] + [
            (f"cells.{name}.{key}", key in change) for name, change in self.cells.items() for key in PLACE
        ]
        for key, given in settings:
            if given:
                raise ValueError(f"{key} cannot be given; {PLACE[key.rpartition('.')[2]]}: [...] can")
        if not isinstance(self.base.get("stream", ""), str):
            raise ValueError(f"base.stream is {self.base['stream']!r}; accepted: a stream's name or file")
        if "against" in self.model_fields_set and self.against not in self.cells:
            hint = nearest(self.against, list(self.cells))
            raise ValueError(f"against names no cell: '{self.against}'{hint}; accepted: {', '.join(self.cells)}")
        return self

    @cached_property
    def _keys(self) -> dict[str, CellKeys]:
        """Each cell's own keys.

        Raises:
            InputError: one is wrong.
        """
        keys = {}
        fixed = {*flatten(self.tuning), "evaluation.split"}
        for name, change in self.cells.items():
            try:
                keys[name] = CellKeys.model_validate(change)
            except ValidationError as error:
                first = error.errors(include_url=False)[0]
                key = ".".join(map(str, first["loc"]))
                raise InputError(
                    f"experiment {self.name}: key 'cells.{name}.{key}': {first['msg']}; accepted: grid (lists of "
                    "values by dotted key, such as training.lr: [1.0e-3, 3.0e-3]), streams and seeds (lists)"
                ) from None
            if both := fixed.intersection(keys[name].grid):
                raise InputError(
                    f"experiment {self.name}: cells.{name}.grid tries {min(both)}, which tuning sets for every try"
                )
        return keys

    @classmethod
    def read(cls, path: str | Path) -> Experiment:
        """Read an experiment from YAML; with ``extends`` it says only what differs from another file beside it.

        A cell given as null is left out.

        Raises:
            InputError: the file cannot be read, or a key or value is wrong; the message names file and key.
        """
        file = Path(path)
        try:
            return cls.model_validate({"name": file.stem, **_read(file)})
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            if first["type"] != "extra_forbidden":
                raise InputError(f"{file}: {first_problem(error)}") from None
            key, accepted = str(first["loc"][-1]), [*cls.model_fields, "extends"]
            hint = nearest(key, accepted)
            raise InputError(f"{file}: unknown key '{key}'{hint}; accepted: {', '.join(accepted)}") from None

    def plan(self, only: Sequence[str] = (), streams: Sequence[str] = (), seeds: Sequence[int] = ()) -> list[Cell]:
        """The cells, seed by seed as they are declared, so that an experiment cut short has compared something.

        Args:
            only: names of cells to keep; all if empty.
            streams: streams to keep; all if empty.
            seeds: seeds to keep; all if empty.

        Raises:
            InputError: a name, stream or seed is not the experiment's, or no cell is of all those given; or two streams
                have the same name, in a folder or in a file of results.
        """
        cells = [
            Cell(name, stream, seed)
            for name, keys in self._keys.items()
            for stream in dict.fromkeys(keys.streams or self._declared)
            for seed in dict.fromkeys(keys.seeds or self.seeds)
        ]
        named: dict[str, str] = {}
        for cell in cells:
            like = named.setdefault(stream_name(cell.stream), cell.stream)
            if like != cell.stream:
                raise InputError(
                    f"experiment {self.name}: streams {like!r} and {cell.stream!r} would be one in the results, which "
                    "tell streams by their files' names; rename a file"
                )
        by_key = {cell.key: cell for cell in cells}
        if other := next((cell for cell in cells if by_key[cell.key] != cell), None):
            like = by_key[other.key].stream
            raise InputError(f"experiment {self.name}: streams {other.stream!r} and {like!r} would share a folder")
        for what, given, known in (
            ("cell", only, [cell.name for cell in cells]),
            ("stream", streams, [cell.stream for cell in cells]),
            ("seed", [str(seed) for seed in seeds], [str(cell.seed) for cell in cells]),
        ):
            for name in given:
                if name not in known:
                    there = ", ".join(dict.fromkeys(known))
                    raise InputError(f"no {what} {name!r} in {self.name}{nearest(name, known)}: {there}")
        kept = [
            cell
            for cell in cells
            if (not only or cell.name in only)
            and (not streams or cell.stream in streams)
            and (not seeds or cell.seed in seeds)
        ]
        if not kept:
            raise InputError(f"experiment {self.name}: no cell is of the cells, streams and seeds chosen all at once")
        return sorted(kept, key=lambda cell: (self._all_seeds.index(cell.seed), self._streams.index(cell.stream)))

    def config(self, cell: Cell, settings: Sequence[str] = (), tuning: bool = False) -> RunConfig:
        """The run configuration of a cell; what its grid gives but one value has it.

        Args:
            cell: one of the plan's.
            settings: ``key=value`` overrides.
            tuning: whether the run is to choose settings by, not to be kept.

        Raises:
            InputError: a key or value of the cell is wrong.
        """
        for setting in settings:
            key = setting.partition("=")[0]
            if key in PLACE:
                raise InputError(
                    f"--set {setting}: a cell's {key} is its place in the experiment; --{PLACE[key]} chooses"
                )
        own = CellKeys.model_fields
        change = {key: value for key, value in self.cells[cell.name].items() if key not in own}
        values = merged(self.base, {**change, "stream": cell.stream, "seed": cell.seed})
        source = f"experiment {self.name}: cell {cell.name}"
        choices = self.choices(cell.name)
        sole = overrides(choices[0]) if len(choices) == 1 else []
        config = RunConfig.from_mapping(values, [*sole, *settings], source)
        if tuning:
            smaller = merged(self.tuning, {"evaluation": {"split": "validation"}})
            config = RunConfig.from_mapping(merged(config.model_dump(mode="json"), smaller), source=source)
        return settle_options(config)

    def choices(self, name: str) -> list[dict[str, Any]]:
        """The combinations of a cell's grid, each dotted key -> value; one empty choice where it has no grid."""
        grid = self._keys[name].grid
        return [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]

    @property
    def _declared(self) -> list[str]:
        return self.streams or [self.base.get("stream", "builtin")]

    @property
    def _streams(self) -> list[str]:
        """All of them, those that only a cell names last."""
        named = [stream for keys in self._keys.values() for stream in keys.streams]
        return list(dict.fromkeys([*self._declared, *named]))

    @property
    def _all_seeds(self) -> list[int]:
        """All of them, those that only a cell names last."""
        named = [seed for keys in self._keys.values() for seed in keys.seeds]
        return list(dict.fromkeys([*self.seeds, *named]))


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `change`, section by section."""
    both = dict(base)
    for key, value in change.items():
        both[key] = merged(both[key], value) if isinstance(value, dict) and isinstance(both.get(key), dict) else value
    return both


def unlike(configs: Mapping[str, RunConfig]) -> Iterator[str]:
    """Where cells do not learn the same: a sentence for every setting of data, budget or base model that differs."""
    for key in LIKE:
        values: dict[str, list[str]] = {}
        for name, config in configs.items():
            values.setdefault(str(attrgetter(key)(config)), []).append(name)
        if len(values) > 1:
            parts = "; ".join(f"{value} for {', '.join(names)}" for value, names in values.items())
            yield f"the cells differ in {key}: {parts}"


def _read(file: Path, extended_by: tuple[Path, ...] = ()) -> dict[str, Any]:
    if file in extended_by:
        raise InputError(f"{file}: extends itself, by way of {', '.join(map(str, extended_by))}")
    values = read_yaml(file, "experiment")
    if values is None:
        raise InputError(f"{file}: is empty; expected keys such as base, cells, seeds")
    if "extends" in values:
        try:
            extended = stay_inside(str(values.pop("extends")))
        except ValueError as error:
            raise InputError(f"{file}: key 'extends': {error}") from None
        parent = _read(file.parent / extended, (*extended_by, file))
        values = merged({key: value for key, value in parent.items() if key != "name"}, values)
    if isinstance(values.get("cells"), dict):
        values["cells"] = {name: change for name, change in values["cells"].items() if change is not None}
    return values
