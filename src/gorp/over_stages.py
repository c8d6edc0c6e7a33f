"""Measure a run's model again: as it was before any task, and as each finished stage left it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from transformers import PreTrainedModel

from gorp.checkpoint import fitting, load_tensors, model_fingerprint
from gorp.encoding import Encoder
from gorp.errors import InputError
from gorp.general_text import pretraining_rows, text_loss
from gorp.learning_model import LearningModel
from gorp.matching import make_encoder
from gorp.methods.base import Method
from gorp.run_folder import RunFolder
from gorp.run_setup import check_model, describe_model, load_base
from gorp.run_state import task_folder

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

    Args:
        run: a run folder.
        measure: called once a stage, in their order.
        model: where the base model is now, if not where the run says.
        last_alone: leave out the stages between the first and the last.

    Raises:
        InputError: no run there, it has learnt nothing yet, or its base model cannot be found or is another.
    """
    folder = RunFolder.of_run(run)
    config, files = folder.config(), folder.stage_files()
    if files is None or folder.state is None:
        raise InputError(f"{run}: has learnt no task yet; accepted: a run with a finished stage")
    backbone = load_base(config, model)
    base, tokenizer = backbone.model, backbone.tokenizer
    check_model(folder, model_fingerprint(base), describe_model(base, tokenizer))
    training = config.training
    encoder = make_encoder(base, tokenizer, training.max_source_length, training.max_target_length)
    found = {BEFORE: measure(base, encoder, None)}
    method = LearningModel(base, tokenizer, config, files, folder.path).method
    learnt = [(position, task.name) for position, task in enumerate(folder.state.tasks[: folder.state.stages])]
    stages = [(name, folder.path / task_folder(position, name) / "after") for position, name in learnt]
    stages = [(name, after) for name, after in stages if after.exists()]
    for name, after in stages[-1:] if last_alone else stages:
        with fitting(folder.path, f"task {name!r}"):
            method.load_weights(load_tensors(after / "weights.safetensors"))
            method.load_state(load_tensors(after / "method.safetensors"))
        found[name] = measure(base, encoder, method)
    return found
