"""A run's model as the last task left it, or an earlier one: opened to be exported or asked, never to learn on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from gorp.errors import InputError, nearest
from gorp.learning_model import LearningModel
from gorp.report.record import RunRecord
from gorp.run_config import RunConfig
from gorp.run_folder import RunFolder
from gorp.run_setup import base_of_run
from gorp.run_state import KnownTask
from gorp.stage_files import StageFiles


@dataclass(frozen=True)
class LearntModel:
    """A model with all that its run put on it.

    Attributes:
        folder: of the run, its state that of the task which the model is as of.
        source: where the base model is: a built-in name, a folder or a hub id.
        task: which the model answers for, where the method has to be told.
    """

    folder: RunFolder
    config: RunConfig
    record: RunRecord
    source: str
    learning: LearningModel
    files: StageFiles
    task: str | None = None

    @property
    def tasks(self) -> list[KnownTask]:
        """Those learnt so far."""
        return self.folder.state.tasks if self.folder.state else []


def open_learnt(
    run: str | Path,
    to: str | None = None,
    task: str | None = None,
    model: str | None = None,
    device: torch.device | str = "cpu",
) -> LearntModel:
    """Load a run's model.

    Args:
        run: the run folder.
        to: the task after which; the last one learnt if not given.
        task: the one that a method with weights or prompts per task is to answer for.
        model: where the base model is now, if not where the run's configuration says.
        device: where the model goes, unless it is quantised.

    Raises:
        InputError: no run there, no such task in it, its base model cannot be found or is another one.
    """
    folder = RunFolder.of_run(run)
    wind_back(folder, to)
    files = folder.stage_files()
    if folder.state is None or files is None:
        raise InputError(f"{run}: no task is learnt yet; gorp run or gorp learn teaches one")
    config = folder.config()
    backbone = base_of_run(folder, model)
    base = backbone.model
    if getattr(base, "hf_device_map", None) is None:
        base.to(device)  # type: ignore[arg-type]  # transformers
    learning = LearningModel(base, backbone.tokenizer, config, files, folder.path)
    select(learning, [known.name for known in folder.state.tasks], task)
    return LearntModel(folder, config, folder.record(), backbone.name, learning, files, task)


def wind_back(folder: RunFolder, to: str | None) -> None:
    """Have a folder's state, in memory alone, tell what it told after a task, by name; None for the last one learnt.

    Raises:
        InputError: it is not learnt, or what it left is not kept.
    """
    state = folder.state
    if state is None or not state.stages:
        return
    names = [known.name for known in state.tasks[: state.stages]]
    index = find_task(names, to) if to is not None else len(names) - 1
    after = state.stage_folder(index + 1) if to is not None else state.after
    if after is None or not (folder.path / after).is_dir():
        raise InputError(f"{folder.path}: the model as it was after task {to!r} is not kept; accepted: {names[-1]!r}")
    events = [event for event in state.events if event.stages <= index + 1]
    tasks, stages = state.tasks[: index + 1], index + 1
    folder.state = replace(state, tasks=tasks, stages=stages, after=after, events=events, flight=None)


def find_task(names: list[str], name: str) -> int:
    """The position of a task among those learnt.

    Raises:
        InputError: it is none of them.
    """
    if name not in names:
        raise InputError(f"no task {name!r} is learnt in this run{nearest(name, names)}; accepted: {', '.join(names)}")
    return names.index(name)


def select(learning: LearningModel, names: list[str], task: str | None) -> None:
    """Have the model answer for a task, where the method keeps something apart for each.

    Raises:
        InputError: it does and none is named, or it does not know the one that is.
    """
    method = learning.method
    if task is not None:
        method.select(find_task(names, task))
    elif method.told_task:
        raise InputError(
            f"method {method.name!r} keeps something apart for each task, and has to be told which (--task); "
            f"accepted: {', '.join(names)}"
        )
