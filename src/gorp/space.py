"""The gradient space: per layer, the directions that earlier tasks depend on and later ones must leave alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, Field, Json, ValidationError
from safetensors import SafetensorError, safe_open
from torch import Tensor

from gorp._linalg import extend_basis, project_out
from gorp.checksums import CHECKSUM, tensors_checksum
from gorp.errors import InputError, first_problem
from gorp.files import sync
from gorp.tensor_file import write_tensors

FORMAT_VERSION = 1
_UNIT = 0.02
"""What rounding, at most to bfloat16, may do to the length of a column."""

INPUT, OUTPUT = "input", "output"


@dataclass
class Side:
    """An orthonormal basis (width, rank) of one side of a layer, with the energy each column was kept for."""

    basis: Tensor  # (width, rank)
    energy: Tensor  # (rank,) shares of the energy of the task that added the column

    @classmethod
    def empty(cls, width: int, dtype: torch.dtype = torch.float32, device: torch.device | None = None) -> Side:
        """A side that holds nothing yet."""
        return cls(torch.zeros(width, 0, dtype=dtype, device=device), torch.zeros(0, dtype=dtype, device=device))

    @property
    def width(self) -> int:
        """Features of this side of the layer."""
        return self.basis.shape[0]

    @property
    def rank(self) -> int:
        """Directions held."""
        return self.basis.shape[1]

    def to(self, device: torch.device, dtype: torch.dtype) -> None:
        """Move in place."""
        self.basis, self.energy = self.basis.to(device, dtype), self.energy.to(device, dtype)

    def project(self, rows: Tensor) -> Tensor:
        """Rows (n, width) less what lies in the basis."""
        return project_out(rows, self.basis.to(rows)) if self.rank else rows


@dataclass
class LayerSpace:
    """What one layer must not overwrite: its input side S and, for LoRA's B, its output side R.

    Layers that read the same input may hold the same `Side`, which then grows with each of them. ``shares`` tells by
    side, (tasks, rank), how much of the energy of each task's memory lies in each column: what a task relies on. It is
    zero for columns that came later, and a row is NaN where the task is protected otherwise, or by nothing.
    """

    input: Side
    output: Side | None = None
    frozen: bool = False
    growth: list[int] = field(default_factory=list)  # input columns that it added with each task, to a shared side, too
    shares: dict[str, Tensor] = field(default_factory=dict)

    def shares_of(self, name: str, tasks: int) -> Tensor:
        """``shares`` of one side for so many tasks and all the columns there are, a copy."""
        side = self.side(name)
        assert side is not None
        known = self.shares.get(name, torch.zeros(0, 0))
        whole = torch.full((tasks, side.rank), torch.nan)
        whole[: len(known)] = 0
        whole[: len(known), : known.shape[1]] = known
        whole[: len(known)][known.isnan().any(dim=1)] = torch.nan
        return whole

    def note_shares(self, name: str, task: int, rows: Tensor) -> None:
        """Take down how much of the energy of a task's memory, rows (n, width), each column holds."""
        side = self.side(name)
        assert side is not None
        known = self.shares_of(name, task + 1)
        total = rows.double().square().sum()
        if torch.isfinite(total):
            held = (rows.double() @ side.basis.to(rows.device).double()).square().sum(dim=0)
            known[task] = (held / total if total > 0 else held).cpu()
        self.shares[name] = known

    def follow(self, name: str, device: torch.device) -> None:
        """Have one side, if there is any, where the layer's factors are: a model may be moved after it was attached."""
        side = self.side(name)
        if side is not None and side.basis.device != device:
            side.to(device, side.basis.dtype)

    def side(self, name: str) -> Side | None:
        """The side called INPUT or OUTPUT."""
        return self.input if name == INPUT else self.output

    @property
    def basis(self) -> Tensor:
        """S, (in, s)."""
        return self.input.basis

    @property
    def energy(self) -> Tensor:
        """(s,)."""
        return self.input.energy

    @property
    def output_basis(self) -> Tensor | None:
        """R, (out, r_s)."""
        return self.output.basis if self.output else None

    @property
    def output_energy(self) -> Tensor | None:
        """(r_s,)."""
        return self.output.energy if self.output else None


class GradientSpace:
    """The spaces of all layers that learn, by dotted layer name; one portable safetensors file.

    Args:
        max_share: cap of every side, as a share of its width. A side that needs more refuses it, and its layer is
            frozen for all later tasks, which protects it wholly.
        base_model: name of the model that the space belongs to.

    ``base_fingerprint`` tells that model from any other; it is empty where that was not asked for.
    """

    def __init__(self, max_share: float = 0.75, base_model: str = "") -> None:
        if not 0 < max_share <= 1:
            raise ValueError(f"max_share must be above 0 and at most 1, but is {max_share}")
        self.max_share = max_share
        self.base_model = base_model
        self.base_fingerprint = ""
        self.tasks: list[str] = []
        self.retracted: list[str] = []
        self.layers: dict[str, LayerSpace] = {}

    @property
    def input_sides(self) -> list[Side]:
        """The input sides of all layers, one that several share once."""
        return list({id(layer.input): layer.input for layer in self.layers.values()}.values())

    def cap(self, side: Side) -> int:
        """Most columns a side may hold."""
        return int(self.max_share * side.width)

    def extend(
        self,
        name: str,
        rows: Tensor,
        share: float,
        output_rows: Tensor | None = None,
        of_remainder: bool = False,
    ) -> int:
        """Let one layer's space hold a share of the energy of the gradient rows that a task left behind.

        A side whose cap that would pass takes none of it, and the layer is marked ``frozen``.

        Args:
            name: the layer.
            rows: K, (n, in); not finite or empty adds nothing.
            share: eps, 0 to 1.
            output_rows: likewise for the output side, (m, out).
            of_remainder: the paper's rule instead of GPM's, see `gorp._linalg.extend_basis`.

        Returns:
            Columns added to the input side.
        """
        layer = self.layers[name]
        wanted = [(layer.input, rows)]
        if layer.output is not None and output_rows is not None:
            wanted.append((layer.output, output_rows))
        added = [_columns(side, rows, share, of_remainder) for side, rows in wanted]
        for (side, _), (columns, _) in zip(wanted, added, strict=True):
            layer.frozen = layer.frozen or side.rank + columns.shape[1] > self.cap(side)
        if layer.frozen:
            layer.growth.append(0)
            return 0
        for (side, _), (columns, energies) in zip(wanted, added, strict=True):
            side.basis = torch.cat([side.basis, columns], dim=1)
            side.energy = torch.cat([side.energy, energies])
        layer.note_shares(INPUT, len(self.tasks), rows)
        if layer.output is not None and output_rows is not None:
            layer.note_shares(OUTPUT, len(self.tasks), output_rows)
        layer.growth.append(added[0][0].shape[1])
        return layer.growth[-1]

    def project(self, name: str, rows: Tensor) -> Tensor:
        """rows (n, in) of one layer, less what its space holds."""
        return self.layers[name].input.project(rows)

    def capacity(self, name: str) -> float:
        """Share of one layer's cap that is still free, 0 to 1; the fuller of its sides counts."""
        layer = self.layers[name]
        sides = [side for side in (layer.input, layer.output) if side is not None]
        return 0.0 if layer.frozen else min(1 - side.rank / max(1, self.cap(side)) for side in sides)

    def save(self, path: str | Path) -> None:
        """Write one safetensors file, durably, whole or not at all.

        Per layer ``<name>.basis`` (in, s), ``<name>.energy`` (s), and where kept ``<name>.output_basis`` (out, r_s)
        and ``<name>.output_energy`` (r_s); where known ``<name>.shares`` and ``<name>.output_shares`` (tasks, columns).
        What several layers share stands under the first one's name, which ``shared`` in the metadata tells of the
        others.

        Raises:
            OSError: the disk refuses; what stood at ``path`` before is untouched.
        """
        first: dict[int, str] = {}
        shared = {
            name: owner
            for name, layer in self.layers.items()
            if (owner := first.setdefault(id(layer.input), name)) != name
        }
        tensors = {
            f"{name}.{part}": value.contiguous().cpu()
            for name, layer in self.layers.items()
            for part in ("basis", "energy", "output_basis", "output_energy")
            if (value := getattr(layer, part)) is not None and not (name in shared and part in ("basis", "energy"))
        }
        tensors |= {
            f"{name}.{'output_' if side == OUTPUT else ''}shares": shares.contiguous()
            for name, layer in self.layers.items()
            for side, shares in layer.shares.items()
        }
        metadata = {
            "format_version": str(FORMAT_VERSION),
            "base_model": self.base_model,
            "max_share": repr(self.max_share),
            "tasks": json.dumps(self.tasks),
            "retracted": json.dumps(self.retracted),
            "frozen": json.dumps([name for name, layer in self.layers.items() if layer.frozen]),
            "growth": json.dumps({name: layer.growth for name, layer in self.layers.items()}),
            "shared": json.dumps(shared),
            **({"base_fingerprint": self.base_fingerprint} if self.base_fingerprint else {}),
        }
        path = Path(path)
        unfinished = path.with_name(f".{path.name}.tmp")
        write_tensors(unfinished, tensors, {**metadata, CHECKSUM: tensors_checksum(tensors, metadata)})
        sync(unfinished)
        unfinished.replace(path)
        sync(path.parent)

    @classmethod
    def load(cls, path: str | Path) -> GradientSpace:
        """Read a file that `save` wrote.

        Raises:
            InputError: the file is missing, damaged, not safetensors, of another version, or lacks a layer's tensors.
        """
        try:
            with safe_open(str(path), framework="pt") as file:
                metadata = file.metadata() or {}
                # copies, aligned as torch's own tensors are: otherwise products could round otherwise
                tensors = {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 (not a mapping)
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; a gradient space is saved by GradientSpace.save") from None
        except (SafetensorError, OSError) as error:
            raise InputError(f"{path}: not a readable safetensors file ({error})") from None
        version = metadata.get("format_version")
        if version != str(FORMAT_VERSION):
            raise InputError(f"{path}: format_version is {version!r}; this gorp reads {str(FORMAT_VERSION)!r}")
        try:
            told = _Metadata.model_validate(metadata)
        except ValidationError as error:
            raise InputError(f"{path}: metadata, {first_problem(error)}; the file is damaged") from None
        rest = {key: value for key, value in metadata.items() if key != CHECKSUM}
        if told.checksum not in (None, tensors_checksum(tensors, rest)):
            raise InputError(f"{path}: is damaged (its checksum is not that of its content); put back a copy of it")
        space = cls(told.max_share, told.base_model)
        space.tasks, space.retracted, space.base_fingerprint = told.tasks, told.retracted, told.base_fingerprint
        for name, growth in told.growth.items():
            owner = told.shared.get(name)
            if owner is not None and owner not in space.layers:
                raise InputError(f"{path}: {name} shares the space of {owner!r}, which the file does not hold")
            space.layers[name] = LayerSpace(
                space.layers[owner].input if owner is not None else _read_side(tensors, name, "", path),
                _read_side(tensors, name, "output_", path) if f"{name}.output_basis" in tensors else None,
                frozen=name in told.frozen,
                growth=growth,
            )
            space.layers[name].shares = _read_shares(tensors, name, space.layers[name], path)
        return space


class _Metadata(BaseModel):
    """What a space file says of itself, as text."""

    model_config = ConfigDict(extra="forbid")

    format_version: str
    max_share: float = Field(gt=0, le=1)
    base_model: str
    tasks: Json[list[str]]
    growth: Json[dict[str, list[int]]]
    frozen: Json[list[str]]
    retracted: Json[list[str]] = Field(default_factory=list)
    shared: Json[dict[str, str]] = Field(default_factory=dict)  # which, as the next ones, some older files lack
    base_fingerprint: str = ""
    checksum: str | None = None


def _columns(side: Side, rows: Tensor, share: float, of_remainder: bool) -> tuple[Tensor, Tensor]:
    rows = rows if bool(torch.isfinite(rows).all()) else rows[:0]
    return extend_basis(side.basis, rows.to(side.basis), share, of_remainder)


def _read_shares(tensors: Mapping[str, Tensor], name: str, layer: LayerSpace, path: str | Path) -> dict[str, Tensor]:
    found = {}
    for side_name, prefix in ((INPUT, ""), (OUTPUT, "output_")):
        side, shares = layer.side(side_name), tensors.get(f"{name}.{prefix}shares")
        if side is None or shares is None:
            continue
        fits = shares.ndim == 2 and shares.shape[1] <= side.rank and shares.is_floating_point()
        if not fits or bool(shares.isinf().any()):
            raise InputError(f"{path}: {name}.{prefix}shares needs finite numbers for each task and column")
        found[side_name] = shares
    return found


def _read_side(tensors: Mapping[str, Tensor], name: str, prefix: str, path: str | Path) -> Side:
    try:
        side = Side(tensors[f"{name}.{prefix}basis"], tensors[f"{name}.{prefix}energy"])
    except KeyError as key:
        raise InputError(f"{path}: tensor {key} is missing") from None
    if side.basis.ndim != 2 or side.rank > side.width or side.energy.shape != (side.rank,):
        raise InputError(f"{path}: {name}.{prefix}basis {tuple(side.basis.shape)} needs one energy a column")
    for part, values in (("basis", side.basis), ("energy", side.energy)):
        if not values.is_floating_point() or not bool(torch.isfinite(values.float()).all()):
            raise InputError(f"{path}: {name}.{prefix}{part} holds what is no finite number; the file is damaged")
    if side.rank and not bool((side.basis.float().norm(dim=0) - 1).abs().max() < _UNIT):
        raise InputError(f"{path}: {name}.{prefix}basis has a column that is not of length 1; the file is damaged")
    return side
