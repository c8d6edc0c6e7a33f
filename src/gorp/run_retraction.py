"""Retract a task of a run: give back the room that it took, durably, and tell what that leaves of the others."""

from __future__ import annotations

from dataclasses import dataclass

from gorp.errors import InputError
from gorp.events import Event
from gorp.retraction import Retracted, covered, retract
from gorp.run_folder import RunFolder


@dataclass(frozen=True)
class Retraction:
    """What a retraction did.

    Attributes:
        layers: by name.
        before, after: per task that stays, the share of the energy of its held-out inputs that is covered.
        repeated: whether it was done before, so that nothing was left to do.
    """

    layers: dict[str, Retracted]
    before: dict[str, float]
    after: dict[str, float]
    repeated: bool = False

    @property
    def note(self) -> str:
        """In words, for the record."""
        if self.repeated:
            return "its directions were given back before"
        freed, wanted = self._count("freed"), self._count("wanted")
        return f"{freed} of {wanted} directions given back"

    def _count(self, what: str) -> int:
        return sum(sum(getattr(layer, what).values()) for layer in self.layers.values())


def retract_task(folder: RunFolder, task: str, tolerance: float = 0.01) -> Retraction:
    """Give back what a task of a run took in its gradient space; weights stay as they are.

    If that is the last that happened to the run, nothing is done: a retraction which was ended may be repeated.

    Args:
        folder: the run's, locked by the caller.
        task: the one that is no longer wanted.
        tolerance: share of its energy that any other task may lose of what protects it.

    Raises:
        InputError: the run keeps no gradient space, the task is none that it protects, or another is in flight.
    """
    state, files, config = folder.state, folder.stage_files(), folder.config()
    if state is None or files is None or files.space is None:
        raise InputError(f"{folder.path}: keeps no gradient space; there is nothing to give back")
    if state.flight is not None:
        raise InputError(f"{folder.path}: a task is in flight ({state.flight}); go on with it, or roll back, before")
    energy = float(config.options.get("energy", config.gorp.energy))
    inputs = {name: layers for name, layers in folder.inputs().items() if name not in (task, *files.space.retracted)}
    before = covered(files.space, inputs)
    if any(event.kind == "retracted" and event.task == task for event in state.events[-1:]):
        return Retraction({}, before, before, repeated=True)
    try:
        layers = retract(files.space, task, energy, tolerance)
    except InputError as error:
        raise InputError(f"{folder.path}: {error}") from None
    retraction = Retraction(layers, before, covered(files.space, inputs))
    folder.replace_space(files.space, Event.now("retracted", task, state.stages, note=retraction.note))
    return retraction
