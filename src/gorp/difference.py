"""What changed in a run between two of its stages: which layers moved, how far and where, and what each task lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gorp.budget import Judge
from gorp.learning_model import LearningModel
from gorp.report.record import Loss, RunRecord, Stage
from gorp.retraction import owners
from gorp.run_config import RunConfig
from gorp.run_folder import RunFolder
from gorp.run_setup import base_of_run, count_rows
from gorp.space import GradientSpace
from gorp.tasks.task import BASE
from gorp.timeline import find_stage

_ENERGY = 0.95
_WIDEST = 2048  # beyond, the directions of a change are not counted: that takes minutes a layer


@dataclass(frozen=True)
class LayerMove:
    """How one layer changed, by D, its weight (out, in) after less before.

    Attributes:
        moved: ``||D|| / ||W||``.
        directions: the fewest singular directions of D that hold 95% of its energy; None for very wide layers.
        shares: per task, the share of D's energy that lies in input directions the space took for it.
    """

    moved: float
    directions: int | None
    shares: dict[str, float]


@dataclass(frozen=True)
class TaskChange:
    """A task's score after either stage, and what it lost; ``old`` if it was learnt by the first of them."""

    before: float | None
    after: float | None
    lost: Loss | None
    old: bool


@dataclass(frozen=True)
class Difference:
    """Two stages of a run, by the tasks that they ended with."""

    first: str
    second: str
    layers: dict[str, LayerMove]
    tasks: dict[str, TaskChange]


def compare_stages(folder: RunFolder, first: str, second: str, model: str | None = None) -> Difference:
    """What changed between two stages of a run.

    Args:
        folder: the run's.
        first, second: tasks with which the stages ended; ``base`` is before the first one.
        model: where the base model is now, if not where the run says.

    Raises:
        InputError: no such stage, or its files are damaged, or the base model cannot be found.
    """
    record, config = folder.record(), folder.config()
    ends = [find_stage(record, name, folder.path) for name in (first, second)]
    weights, space = _weights_and_space(folder, sorted({*ends}), model)
    before, after = (weights[end] for end in ends)
    layers = {name: _move(name, weight, after[name], space) for name, weight in before.items()}
    return Difference(first, second, layers, _tasks(folder, record, config, *ends))


def _weights_and_space(
    folder: RunFolder, stages: Sequence[int], model: str | None
) -> tuple[dict[int, dict[str, Tensor]], GradientSpace | None]:
    """Weights (out, in) that the layers compute with after so many tasks, ascending, and the space after the last."""
    backbone = base_of_run(folder, model)
    learning = LearningModel(backbone.model, backbone.tokenizer, folder.config(), None, folder.path)
    weights, space = {}, None
    for learnt in stages:
        if files := folder.stage_files(learnt):
            learning.put_back(files, f"first {learnt} tasks")
            space = files.space
        effective = learning.method.effective_weights()
        weights[learnt] = {name: weight.cpu() for name, weight in effective.items()}
    return weights, space


def _move(name: str, before: Tensor, after: Tensor, space: GradientSpace | None) -> LayerMove:
    change = after.double() - before.double()
    whole, size = float(change.norm()), float(before.double().norm())
    directions = _directions(change) if min(change.shape) <= _WIDEST else None
    return LayerMove(whole / size if size else 0.0, directions, _shares(name, change, space) if whole else {})


def _directions(change: Tensor) -> int:
    energies = torch.linalg.svdvals(change).square()
    held = energies.cumsum(0)
    return int((held < _ENERGY * held[-1]).sum()) + 1 if float(energies.sum()) else 0


def _shares(name: str, change: Tensor, space: GradientSpace | None) -> dict[str, float]:
    if space is None or name not in space.layers or space.layers[name].input.width != change.shape[1]:
        return {}
    layer = space.layers[name]
    sharing = [other for other in space.layers.values() if other.input is layer.input]
    owner = owners([other.shares_of("input", len(space.tasks)) for other in sharing])
    energies = (change @ layer.basis.double()).square().sum(dim=0) / change.square().sum()
    return {task: float(energies[owner == at].sum()) for at, task in enumerate(space.tasks)}


def _tasks(folder: RunFolder, record: RunRecord, config: RunConfig, first: int, second: int) -> dict[str, TaskChange]:
    judge = Judge(record, folder.row_scores(), count_rows(folder.tasks(), config.evaluation.split))
    scored = {stage.index + 1: stage for stage in record.stages}
    before, after = (scored.get(at, Stage(index=0, task=BASE, scores=record.zero_shot)) for at in (first, second))
    found = {}
    for position, task in enumerate(record.tasks):
        scores = [dict(enumerate(stage.scores)).get(position) for stage in (before, after)]
        lost = judge.loss_between(task, before, after, config.budget.confidence)
        found[task] = TaskChange(scores[0], scores[1], lost, position < min(first, second))
    return found
