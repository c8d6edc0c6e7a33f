"""Protect what a base model knows: a gradient space grown from general text, before the first task."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gorp._linalg import energy_rank
from gorp._sketch import sketch, sketched_rows
from gorp._taps import tap, weighed_inputs
from gorp.checkpoint import model_fingerprint
from gorp.config import GORPConfig
from gorp.encoding import Encoder, Row, answer_loss
from gorp.errors import GorpError, InputError, few
from gorp.evaluation import check_finite, evaluating
from gorp.layer_inputs import show_inputs
from gorp.space import INPUT, GradientSpace, LayerSpace, Side
from gorp.targets import input_read, layer_kind, learning_layers
from gorp.tasks.task import BASE

SHARES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99)
ENERGY = 0.7


@dataclass(frozen=True)
class BaseMemory:
    """What general text has shown of one input: rows that stand for it, and the layers that read it.

    Attributes:
        held: share of the energy shown that the rows hold, 0 to 1; less than all for inputs that are wider than
            `gorp._sketch.GRAM_WIDTH`.
    """

    layers: tuple[str, ...]
    rows: Tensor  # K, (n, in)
    held: float = 1.0

    @property
    def width(self) -> int:
        """Features of the input."""
        return self.rows.shape[1]

    def columns(self, shares: Sequence[float]) -> list[int]:
        """How many directions hold each of some shares of the energy; from one decomposition."""
        energies = torch.linalg.svdvals(self.rows.double()).square()
        total = float(energies.sum())
        return [energy_rank(energies, self.of_rows(share) * total) for share in shares]

    def of_rows(self, share: float) -> float:
        """What share of the rows' energy is a share of all energy, 0 to 1."""
        return min(1.0, share / self.held)


def remember_base(
    model: PreTrainedModel,
    encoder: Encoder,
    rows: Sequence[Row],
    config: GORPConfig,
    batch_size: int = 8,
    on_step: Callable[[int, int], None] | None = None,
) -> list[BaseMemory]:
    """Go through general text once, and remember the inputs of every layer that is to learn.

    Inputs are weighed as memory ``weighted_features`` weighs them, by the gradient of the pretraining loss; those of an
    encoder, which has no such loss, evenly. No gradient of a weight is formed.

    Args:
        model: the base model, not attached; frozen on return.
        encoder: the model's.
        rows: of `gorp.general_text.pretraining_rows`.
        config: tells the layers, and whether those that read the same share a memory.
        batch_size: rows a pass.
        on_step: told rows done and rows in all.

    Raises:
        InputError: the targets do not fit the model, or the variant is ``paper``, whose spaces are not of inputs.
        GorpError: a loss or an input is not finite.
    """
    if config.variant == "paper":
        raise InputError("key 'gorp.variant': the spaces of 'paper' are not of inputs; accepted: exact")
    readers: dict[Any, list[str]] = {}
    for name in [name for names in learning_layers(model, config) for name in names]:
        linear = cast(nn.Linear, model.get_submodule(name))
        readers.setdefault(input_read(name, linear, config), []).append(name)
    model.requires_grad_(False)
    found: dict[str, Tensor] = {}
    energies: dict[str, Tensor] = {}

    def see(owner: str, seen: Tensor) -> None:
        found[owner] = sketch(found.get(owner, seen[:0]), seen)
        energies[owner] = energies.get(owner, seen.new_zeros((), dtype=torch.float64)) + seen.double().square().sum()

    owners = {name: names[0] for names in readers.values() for name in names}
    reading = _Reading(model, encoder, rows, on_step or (lambda done, of: None))
    if encoder.kind == "encoder":
        reading.show_evenly(owners, see)
    else:
        reading.show_weighed(owners, see, batch_size)
    memories = []
    for names in readers.values():
        if names[0] not in found:
            raise GorpError(f"layer {names[0]} was never called on the text, so there is nothing to remember of it")
        if not bool(torch.isfinite(found[names[0]]).all()):
            raise GorpError(f"inputs of layer {names[0]} are not finite on the text; its weights may be damaged")
        rows_kept = sketched_rows(found[names[0]])
        memories.append(BaseMemory(tuple(names), rows_kept, _share_held(rows_kept, float(energies[names[0]]))))
    return memories


def room_left(
    memories: Sequence[BaseMemory], max_share: float, shares: Sequence[float] = SHARES
) -> dict[str, list[float]]:
    """Per kind of layer, the share of what its space may hold that each energy share would leave for tasks.

    A layer that wants more than it may hold has no room: it would be frozen.

    Returns:
        Means over the layers of a kind, 0 to 1, by the kind's name, block numbers replaced by ``*``.
    """
    kinds: dict[str, list[list[float]]] = {}
    for memory in memories:
        cap = int(max_share * memory.width)
        left = [max(0.0, 1 - columns / cap) if cap else 0.0 for columns in memory.columns(shares)]
        for name in memory.layers:
            kinds.setdefault(layer_kind(name), []).append(left)
    return {kind: [fmean(column) for column in zip(*lines, strict=True)] for kind, lines in kinds.items()}


def protecting_space(
    model: nn.Module, memories: Sequence[BaseMemory], energy: float, max_share: float
) -> GradientSpace:
    """The space that holds a share of the energy of general text, as that of a model whose first task it was.

    Args:
        model: the base model, as for `remember_base`.
        memories: of `remember_base`.
        energy: share to hold, 0 to 1; of an input whose rows hold less, all that they hold.
        max_share: cap of every side; a layer that needs more is frozen.
    """
    space = GradientSpace(max_share, str(getattr(model, "name_or_path", "")))
    space.base_fingerprint = model_fingerprint(model)
    for memory in memories:
        side = Side.empty(memory.width, memory.rows.dtype)
        first, *others = memory.layers
        space.layers |= {name: LayerSpace(side) for name in memory.layers}
        space.extend(first, memory.rows.cpu(), memory.of_rows(energy))
        for layer in (space.layers[name] for name in others):
            layer.frozen = space.layers[first].frozen
            layer.growth.append(0)
            if not layer.frozen:
                layer.note_shares(INPUT, len(space.tasks), memory.rows.cpu())
    space.tasks.append(BASE)
    return space


def load_protection(path: str | Path, fingerprint: str, max_share: float) -> GradientSpace:
    """Read the space that a run is to begin with.

    Args:
        path: a file that `gorp protect` wrote.
        fingerprint: of the run's base model.
        max_share: what the run lets a space hold.

    Raises:
        InputError: no readable file, or the space of another base model.
    """
    space = GradientSpace.load(path)
    if not space.base_fingerprint:
        raise InputError(f"{path}: does not tell of which weights it is; accepted: what `gorp protect` writes")
    if space.base_fingerprint != fingerprint:
        raise InputError(
            f"{path}: protects another base model ({space.base_model or 'unnamed'}, or the same in another dtype); "
            "accepted: the space that `gorp protect` makes of this one"
        )
    space.max_share = max_share
    return space


def check_covered(protected: Collection[str], learning: Sequence[str], path: str | Path) -> None:
    """Refuse to have layers learn that a space does not protect.

    Raises:
        InputError: there are such.
    """
    if missing := [name for name in learning if name not in protected]:
        raise InputError(
            f"{path}: does not protect layer {few(missing, 1)}, which learn{'s' if len(missing) == 1 else ''}; "
            "accepted: the space that `gorp protect --config` makes with this run's configuration"
        )


@contextmanager
def _watched(model: nn.Module, owners: Mapping[str, str], see: Callable[[str, Tensor, Tensor], None]) -> Iterator[None]:
    """Show inputs and output gradients of layers in every backward pass; nothing else needs to require a gradient."""

    def tapped(owner: str, module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        watched = output if output.requires_grad else output.detach().requires_grad_()
        return tap(watched, args[0], partial(see, owner))

    handles = [
        model.get_submodule(name).register_forward_hook(partial(tapped, owner)) for name, owner in owners.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _share_held(rows: Tensor, energy: float) -> float:
    """The share that rows hold of an energy; round-off is no loss."""
    held = float(rows.double().square().sum()) / energy if energy else 1.0
    return held if held < 1 - 1e-4 else 1.0


@dataclass(frozen=True)
class _Reading:
    """One pass over general text, in which layers' inputs, rows (n, in), are shown by the layer that owns them."""

    model: PreTrainedModel
    encoder: Encoder
    rows: Sequence[Row]
    on_step: Callable[[int, int], None]

    def show_weighed(self, owners: Mapping[str, str], see: Callable[[str, Tensor], None], batch_size: int) -> None:
        """By the gradient of the pretraining loss."""

        def weigh(owner: str, delta: Tensor, inputs: Tensor) -> None:
            see(owner, weighed_inputs(inputs, delta, weighted=True))

        with evaluating(self.model), _watched(self.model, owners, weigh):
            for first in range(0, len(self.rows), batch_size):
                part = self.rows[first : first + batch_size]
                batch = self._on_device(self.encoder.training_batch(part))
                loss = answer_loss(self.encoder.logits(self.model, batch), batch["labels"])
                check_finite(loss[None])
                loss.backward()
                self.on_step(first + len(part), len(self.rows))

    def show_evenly(self, owners: Mapping[str, str], see: Callable[[str, Tensor], None]) -> None:
        """All the same, a text at a time."""

        def batches() -> Iterator[Mapping[str, Tensor]]:
            for done, row in enumerate(self.rows, start=1):
                yield self._on_device(self.encoder.prompt_batch([row.prompt]))
                self.on_step(done, len(self.rows))

        def widen(owner: str, inputs: Tensor) -> None:
            see(owner, inputs.to(torch.promote_types(inputs.dtype, torch.float32)))

        show_inputs(self.model, list(dict.fromkeys(owners.values())), batches(), widen)

    def _on_device(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        return {name: value.to(self.model.device) for name, value in batch.items()}
