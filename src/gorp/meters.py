"""Live meters of protection: what leaks, what room is left, what refreshes catch, what protection removes.

Each is a share, part / whole, of one layer or of all layers taken together (the sums of their parts and wholes).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gorp._attach import learned_layers, unwrap
from gorp._precision import without_autocast
from gorp._tally import Tally, felt_and_whole
from gorp.errors import MostlyBlockedWarning, NearlyFullWarning, SpaceWarning, few
from gorp.learned_layer import LearnedLayer
from gorp.space import GradientSpace

NEARLY_FULL = 0.1
"""Room left, as a share of the cap, below which a layer is called nearly full."""

MOSTLY_BLOCKED = 0.9
"""Share of a task's gradient energy, removed so far, above which the task is called mostly blocked."""

NAMES = ("leak", "capacity_left", "captured_energy", "blocked_energy")

Share = tuple[float, float]


@dataclass(frozen=True)
class Meter:
    """What one layer, or all of them together, show; None where there is nothing to tell yet.

    Attributes:
        leak: ||D S|| / ||D|| of the weight's change D since the task began; of a full-rank layer, whose change is
            merged in pieces, the sum of their ||C S|| over that of their ||C||. Below 1e-5, round-off, if all is well.
        capacity_left: columns that may still be kept, of those that may be at most; of the fuller side. 0 if frozen.
        captured_energy: share of the free gradient's energy that the full-rank directions caught at the last refresh.
        blocked_energy: share of the gradients' energy that protection removed since the last reading: exact for LoRA
            factors, estimated at refreshes for gradient projections, that of the inputs for random ones.
    """

    leak: float | None
    capacity_left: float | None
    captured_energy: float | None
    blocked_energy: float | None

    @classmethod
    def of(cls, shares: Mapping[str, Share]) -> Meter:
        """From parts and wholes by name."""
        return cls(**{name: _ratio(*shares[name]) for name in NAMES})


@dataclass(frozen=True)
class Reading:
    """The meters at one moment: of all layers taken together, and of each by its dotted name."""

    overall: Meter
    layers: dict[str, Meter]

    def as_logs(self) -> dict[str, float]:
        """``gorp/leak`` and so on, of all layers together, as far as there is something to tell."""
        return {f"gorp/{name}": value for name, value in _told(self.overall)}

    def layers_as_logs(self) -> dict[str, float]:
        """``gorp/leak/LAYER`` and so on."""
        return {f"gorp/{name}/{layer}": value for layer, meter in self.layers.items() for name, value in _told(meter)}


class Meters:
    """Reads the meters of a model that learns; from when this is made, its layers count what the meters need.

    Counting adds a few sums a step on the layers' devices, for which the host does not wait; a reading does wait, once.
    In data-parallel training a replica tells of the gradients of its own rows.

    Args:
        model: attached, bare or wrapped.

    Raises:
        ValueError: :func:`gorp.attach` has not been called on the model.
    """

    def __init__(self, model: nn.Module) -> None:
        self.layers = learned_layers(model)
        self.space: GradientSpace = unwrap(model).gradient_space  # type: ignore[assignment]
        self._task = -1
        for layer in self.layers.values():
            layer.tally = layer.tally or Tally.on(layer.holder.weight.device)
        self._begin_task()

    def _begin_task(self) -> None:
        """The sums over the task at hand begin anew once there is another."""
        if self._task != len(self.space.tasks):
            self._task, self._passed, self._called_blocked = len(self.space.tasks), (0.0, 0.0), False

    def read(self) -> Reading:
        """The meters now; what `blocked_energy` counts begins anew."""
        self._begin_task()
        shares = {
            name: _shares(self.space, name, numbers) for name, numbers in _numbers_of(list(self.layers.items())).items()
        }
        overall = {name: _sum([of_layer[name] for of_layer in shares.values()]) for name in NAMES}
        self._passed = _sum([self._passed, overall["blocked_energy"]])
        return Reading(Meter.of(overall), {layer: Meter.of(of_layer) for layer, of_layer in shares.items()})

    def warnings(self) -> Iterator[tuple[str, type[SpaceWarning]]]:
        """What should be warned of, given what has been read: of each layer once, and of each task once."""
        self._begin_task()
        full = {
            name: left
            for name, layer in self.layers.items()
            if not layer.space.frozen and (left := self.space.capacity(name)) < NEARLY_FULL
        }
        tallies = {name: tally for name in full if (tally := self.layers[name].tally) is not None}
        if new := [name for name, tally in tallies.items() if not tally.called_full]:
            for name in new:
                tallies[name].called_full = True
            yield _nearly_full(self.space, {name: full[name] for name in new}), NearlyFullWarning
        blocked = _ratio(*self._passed)
        if blocked is not None and blocked > MOSTLY_BLOCKED and not self._called_blocked:
            self._called_blocked = True
            yield _mostly_blocked(self.space, blocked), MostlyBlockedWarning


@without_autocast
@torch.no_grad()
def _numbers_of(layers: Sequence[tuple[str, LearnedLayer]]) -> dict[str, list[float]]:
    """Per layer passed, captured and written of its tally, what is not merged yet included; one wait of the host."""
    rows: list[Tensor] = []
    for _, layer in layers:
        tally = layer.tally
        if tally is None:
            raise RuntimeError(f"{layer.name} keeps no tally")
        left, right = layer.change()
        pending = felt_and_whole(left.double(), right.double(), layer.space)
        rows.append(torch.cat([tally.passed, tally.captured, tally.written + pending.to(tally.written)]))
        tally.passed = torch.zeros_like(tally.passed)
    numbers = torch.stack([row.to(rows[0].device) for row in rows]).tolist()
    return {name: values for (name, _), values in zip(layers, numbers, strict=True)}


def _shares(space: GradientSpace, name: str, numbers: Sequence[float]) -> dict[str, Share]:
    """Part and whole of each meter of a layer, from its `_numbers_of`."""
    passed, came, captured, free, felt, written = numbers
    return {
        "leak": (felt, written),
        "capacity_left": _columns_left(space, name),
        "captured_energy": (min(captured, free), free),
        "blocked_energy": (max(came - passed, 0.0), came),
    }


def _columns_left(space: GradientSpace, name: str) -> Share:
    layer = space.layers[name]
    sides = [(space.cap(side) - side.rank, space.cap(side)) for side in (layer.input, layer.output) if side is not None]
    left, cap = min(sides, key=lambda side: side[0] / max(side[1], 1))
    return (0.0 if layer.frozen else float(left), float(cap))


def _nearly_full(space: GradientSpace, left: Mapping[str, float]) -> str:
    named = few([f"{name} ({share:.0%} left)" for name, share in left.items()])
    return (
        f"{len(left)} of {len(space.layers)} layers are nearly full: {named}. A layer that "
        "cannot hold what a task needs is frozen for later ones. To keep it learning, raise max_share (it is "
        f"{space.max_share:g}; model.gradient_space.max_share may be set), lower energy, or let more layers learn: "
        "docs/drop_in.md"
    )


def _mostly_blocked(space: GradientSpace, blocked: float) -> str:
    return (
        f"protection removes {blocked:.0%} of the gradient's energy in this task, after {len(space.tasks)} others: it "
        "needs directions that they use, and may hardly be learnt. If its scores are too low, train for longer, let "
        "layers learn that have more room (blocked_energy of each layer tells), or lower energy for the tasks to come: "
        "docs/drop_in.md"
    )


def _sum(shares: Sequence[Share]) -> Share:
    finite = [share for share in shares if all(map(math.isfinite, share))]
    return sum(part for part, _ in finite), sum(whole for _, whole in finite)


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole and math.isfinite(part) and math.isfinite(whole) else None


def _told(meter: Meter) -> Iterator[tuple[str, float]]:
    return ((name, value) for name in NAMES if (value := getattr(meter, name)) is not None)
