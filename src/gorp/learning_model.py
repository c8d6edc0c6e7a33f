"""A base model with all that a run puts on it: the method, the encoder that feeds it, the evaluator that scores it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gorp._fsdp import shard
from gorp._quantized import quantized_layers
from gorp._ranks import ranks
from gorp.checkpoint import fitting, random_state, seed_everything
from gorp.errors import InputError, SpaceWarning
from gorp.evaluation import Evaluator, OnStep
from gorp.layer_inputs import collect_inputs
from gorp.likelihood import check_likelihoods
from gorp.matching import LabelMatcher, make_encoder
from gorp.methods import load_method
from gorp.protect import check_covered
from gorp.run_config import RunConfig
from gorp.space import GradientSpace
from gorp.stage_files import StageFiles
from gorp.tasks import Example, Task
from gorp.tasks.task import Metric
from gorp.training import Flight

HELD_OUT_ROWS = 32


class LearningModel:
    """A model that learns under a method; a base model is changed in place.

    Args:
        base: the base model, on its device.
        tokenizer: its tokenizer.
        config: the run's.
        files: what the last finished stage left; None before the first.
        run: the run folder, for messages.
        space: what to begin with before the first stage, as `gorp protect` made it.

    Raises:
        InputError: the targets or answers do not fit the model, or the files do not fit the run.
    """

    def __init__(
        self,
        base: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        config: RunConfig,
        files: StageFiles | None,
        run: Path,
        space: GradientSpace | None = None,
    ) -> None:
        self.base, self.config, self._run = base, config, run
        training, evaluation = config.training, config.evaluation
        self.encoder = make_encoder(base, tokenizer, training.max_source_length, training.max_target_length)
        self.method = load_method(config.method)(config)
        self.method.encoder = self.encoder
        self.evaluator = Evaluator(
            base, self.encoder, evaluation.batch_size, training.precision, self.method.prepare, evaluation.answers
        )
        if evaluation.answers == "options" and not isinstance(self.encoder, LabelMatcher):
            check_likelihoods(base, self.encoder)
        seed_everything(config.seed, 0)
        if files is None:
            self._begin(space)
        else:
            with fitting(run, "last finished task"):
                self.method.attach(base, files.space)
            self.put_back(files, "last finished task")
            if files.space_replaced:
                self.method.renew()
        if training.parallel == "shard" and ranks() > 1:
            self._shard()

    def _begin(self, space: GradientSpace | None) -> None:
        """Attach to a base model that has learnt nothing yet; of its protection what does not learn is left out."""
        protected = set(space.layers) if space else set()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SpaceWarning)  # of layers that are refused below
            self.method.attach(self.base, space)
        if space is not None:
            learning = self.method.layer_names()
            check_covered(protected, learning, str(self.config.protect))
            space.layers = {name: space.layers[name] for name in learning}

    def put_back(self, files: StageFiles, what: str) -> None:
        """Have the model answer as a stage left it; of two stages the later one comes later.

        Args:
            files: what the stage left.
            what: names it in messages.

        Raises:
            InputError: the files do not fit the run.
        """
        with fitting(self._run, what):
            self.method.load_weights(files.weights)
            self.method.load_state(files.method)

    def _shard(self) -> None:
        kept_whole = self.method.kept_whole()
        if kept_whole is None:
            raise InputError(
                f"training.parallel 'shard' is not for method {self.method.name!r}; accepted: gorp, or 'replicate'"
            )
        if any(quantized_layers(self.base)):
            raise InputError("training.parallel 'shard' is not for a base in 4 or 8 bits; accepted: 'replicate'")
        if self.config.evaluation.answers == "options":
            raise InputError(
                "training.parallel 'shard' has all ranks call the model equally often, which evaluation.answers "
                "'options' does not; accepted: 'generated'"
            )
        shard(self.base, kept_whole)

    def score_rows(self, examples: Sequence[Example], task: int | None, metric: Metric, on_step: OnStep) -> list[float]:
        """Score in percent on each of some examples.

        Args:
            task: position of the task that they are of, None if it is none of the run's.
            metric: how they are scored.
            on_step: as of `Evaluator.score_rows`.
        """
        self.method.select(task)
        scores = self.evaluator.score_rows(examples, on_step, metric)
        self.method.select(None)
        return scores

    def held_out_inputs(self, task: Task) -> dict[str, Tensor]:
        """Per layer that learns, inputs (n, in) on a few rows that are not trained on."""
        rows = self.encoder.rows((task.validation or task.test)[:HELD_OUT_ROWS])
        batches = (self.encoder.training_batch([row]) for row in rows)
        on_device = ({key: value.to(self.base.device) for key, value in batch.items()} for batch in batches)
        inputs = (self.encoder.forward_inputs(self.method.prepare(batch)) for batch in on_device)
        return collect_inputs(self.base, self.method.layer_names(), inputs)

    def in_flight(self, flight: Flight, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """All that goes on with a training that is interrupted now, the same on all ranks."""
        self.method.before_save()
        return {
            "flight": vars(flight) | {"skipped_refreshes": flight.skipped_refreshes + self.method.skipped_refreshes},
            "weights": self.method.weights(),
            "optimizer": optimizer.state_dict(),
            "random": random_state(),
        }

    def take_up(self, saved: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> tuple[Flight, dict[str, Any]]:
        """Put back what `in_flight` gave; returns how far the training had come, and the random state for it."""
        with fitting(self._run, "task in flight"):
            self.method.load_weights(saved["weights"])
            optimizer.load_state_dict(saved["optimizer"])
            return TypeAdapter(Flight).validate_python(saved["flight"]), saved["random"]
