"""Measure a run's model again: as it was before any task, and as each finished stage left it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from transformers import PreTrainedModel

from gorp.encoding import Encoder
from gorp.errors import InputError
from gorp.general_text import pretraining_rows, text_loss
from gorp.learning_model import LearningModel
from gorp.matching import make_encoder
from gorp.methods.base import Method
from gorp.run_folder import RunFolder
from gorp.run_setup import base_of_run

BEFORE = "before"
Found = TypeVar("Found")
Measure = Callable[[PreTrainedModel, Encoder, "Method | None"], Found]
"""Given a model, its encoder, and the method that it learns under, None before it does."""


def text_loss_of(texts: Sequence[str], tokens: int, source: str = "the text") -> Measure[float]:
    """To measure: the loss of a model's pretraining objective on general text, cut into pieces of so many tokens."""

    def measure(model: PreTrainedModel, encoder: Encoder, method: Method | None) -> float:
        return text_loss(model, encoder, pretraining_rows(encoder, texts, tokens, source=source), method=method)

    return measure


def over_stages(
    run: str | Path, measure: Measure[Found], model: str | None = None, last_alone: bool = False
) -> dict[str, Found]:
    """What is measured of a run's model, by stage: under ``before``, then under the name of each task learnt.

    A method that is told the task answers for the last one of the stage.

    Args:
        run: a run folder.
        measure: called once a stage, in their order.
        model: where the base model is now, if not where the run says.
        last_alone: leave out the stages between the first and the last.

    Raises:
        InputError: no run there, it has learnt nothing yet, or its base model cannot be found or is another.
    """
    folder = RunFolder.of_run(run)
    if folder.state is None or not folder.state.stages:
        raise InputError(f"{run}: has learnt no task yet; accepted: a run with a finished stage")
    backbone = base_of_run(folder, model)
    base, tokenizer = backbone.model, backbone.tokenizer
    config, training = folder.config(), folder.config().training
    encoder = make_encoder(base, tokenizer, training.max_source_length, training.max_target_length)
    found = {BEFORE: measure(base, encoder, None)}
    learning = LearningModel(base, tokenizer, config, None, folder.path)
    learnt = list(folder.record().stages_by_task.items())
    for name, stages in learnt[-1:] if last_alone else learnt:
        if files := folder.stage_files(stages):
            learning.put_back(files, f"task {name!r}")
        method = learning.method
        if method.told_task:
            method.select(stages - 1)
        found[name] = measure(base, encoder, method)
        method.select(None)
    return found
