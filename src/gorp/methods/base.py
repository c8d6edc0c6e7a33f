"""What a continual-learning method is: what learns, from which rows, with what penalty, and what is kept afterwards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor, nn

from gorp._quantized import quantized_layers
from gorp._shards import load_whole, whole
from gorp.encoding import Batch, Encoder
from gorp.errors import InputError, nearest

if TYPE_CHECKING:
    from gorp.run_config import RunConfig
    from gorp.space import GradientSpace
    from gorp.tasks import Example, Task


class MethodOptions(BaseModel):
    """The settings that a method has of its own, given under ``options``; a method with none has this class itself."""

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)


class Method(ABC):
    """One way to learn a stream. The learner calls, in this order::

        attach, effective_weights, space                              once, on the base model
          begin_task, optimizer, training_rows                            per task
            prepare, penalty                                                  per batch
          end_task, weights, state                                        after each task (the last two while it is in
                                                                          flight, too)
          select, prepare ...                                             per task that is scored

    To go on with a saved run the learner attaches to a fresh base model, then calls `load_weights` and `load_state`
    with what it saved after the last finished task, then `begin_task` as before; in the middle of a task,
    `load_weights` again and the optimizer's ``load_state_dict``.
    """

    name: ClassVar[str]
    #: One line each, for `gorp list methods`: where it comes from, what it keeps of the past, and what it costs.
    source: ClassVar[str]
    keeps: ClassVar[str]
    costs: ClassVar[str]
    Options: ClassVar[type[MethodOptions]] = MethodOptions
    #: Trains on rows of earlier tasks, which the other methods do without.
    keeps_old_rows: ClassVar[bool] = False
    #: Is told, when a task is scored, which one it is; the other methods are not.
    told_task: ClassVar[bool] = False
    #: Learns all tasks together in a single stage, instead of one after the other.
    learns_jointly: ClassVar[bool] = False

    #: May begin with a space that `gorp protect` made.
    begins_with_space: ClassVar[bool] = False
    #: Learns on a base in 4 or 8 bits, too; the other methods change its weights themselves.
    on_quantized: ClassVar[bool] = False

    model: nn.Module
    #: Turns rows into batches that fit the model; set before `attach`.
    encoder: Encoder

    def __init__(self, config: RunConfig) -> None:
        self.config = config
        self.options: Any = self.read_options(config.options)

    @classmethod
    def read_options(cls, values: Mapping[str, Any]) -> MethodOptions:
        """The method's own settings, checked.

        Raises:
            InputError: a key or value is wrong; the message says what would be accepted.
        """
        try:
            return cls.Options.model_validate(dict(values))
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            key = ".".join(str(part) for part in ("options", *first["loc"]))
            if first["type"] != "extra_forbidden":
                message = first["msg"].removeprefix("Value error, ")
                raise InputError(f"key '{key}': {message}, found {first['input']!r}") from None
            accepted = list(cls.Options.model_fields)
            hint = nearest(str(first["loc"][-1]), accepted)
            known = f"accepted: {', '.join(accepted)}" if accepted else "it has no options"
            raise InputError(f"unknown key '{key}' for method {cls.name!r}{hint}; {known}") from None

    def whole_layers(self, model: nn.Module) -> Sequence[str]:
        """Of a base that is to be quantised, the linear layers that must not be; none if not overridden.

        Args:
            model: its like, of which only names and shapes are looked at.

        Raises:
            InputError: the configured targets do not fit the model.
        """
        return ()

    @abstractmethod
    def attach(self, model: nn.Module, space: GradientSpace | None = None) -> None:
        """Prepare the base model in place and keep it as ``self.model``; only what learns may require a gradient.

        Args:
            model: the base model.
            space: what `space` was after the last finished task of a saved run.

        Raises:
            InputError: the configured targets do not fit the model.
        """

    def kept_whole(self) -> set[nn.Parameter] | None:
        """Parameters that every rank needs whole where it has some rows of the others; None: they cannot be spread."""
        return None

    @abstractmethod
    def layer_names(self) -> Sequence[str]:
        """Dotted names, in the base model, of the linear layers that learn."""

    @abstractmethod
    def effective_weights(self) -> dict[str, Tensor]:
        """Per layer that learns, the weight (out, in) that the layer computes with now, fp32, a copy, on any device."""

    @abstractmethod
    def optimizer(self) -> torch.optim.Optimizer:
        """A fresh optimizer for the task that has just begun."""

    def begin_task(self, task: Task, index: int) -> None:
        """Called before task ``index`` (from 0) is trained; may draw random numbers."""

    def training_rows(self, task: Task, index: int) -> Sequence[Example]:
        """The rows to train on: the task's own; a method with a memory adds to them."""
        return task.train

    def prepare(self, batch: Batch) -> Batch:
        """What the model is given for a batch of prompts, in training and when it answers; a prompt is put in here."""
        return batch

    def virtual_tokens(self, tasks: int) -> int:
        """The most tokens that `prepare` puts before an input once so many tasks are learnt."""
        return 0

    def penalty(self, batch: Batch, logits: Tensor) -> Tensor | None:
        """A scalar added to the loss of a batch (the mean over its answer tokens), or None.

        Of an accumulated step, each batch's counts by its share of the answer tokens, as its loss does.

        Args:
            batch: as `prepare` left it.
            logits: (batch, longest answer, vocabulary), with their graph; of an encoder (batch, 1, classes), the
                lowest fp32 number where a class is not an option of the row.
        """
        return None

    def before_save(self) -> None:
        """Called before a training in flight is saved: what ranks keep apart becomes the same on all of them."""

    def end_task(self, task: Task, index: int) -> None:
        """Called after task ``index`` is trained and before it is evaluated: remember, merge, start anew."""

    def select(self, index: int | None) -> None:
        """Called before rows are scored: they are of task ``index``, or of none that is known. None ends it.

        Only a method with ``told_task`` may make use of it.
        """

    def weights(self) -> dict[str, Tensor]:
        """Every tensor of the model that this method may have changed, by its name in ``model.state_dict()``."""
        learnt = tuple(f"{name}." for name in self.layer_names())
        codes = tuple(f"{name}." for name, _ in quantized_layers(self.model))
        state = self.model.state_dict().items()
        return {name: whole(value) for name, value in state if name.startswith(learnt) and not name.startswith(codes)}

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `weights` returned.

        Raises:
            ValueError: a tensor is missing, or is none of the model's.
        """
        unknown = load_whole(self.model, tensors)
        if odd := sorted({*unknown} | self.weights().keys() - tensors.keys()):
            raise ValueError(f"tensor {odd[0]!r} is missing, or is none of the model's")

    def state(self) -> dict[str, Tensor]:
        """What else must be kept between tasks, as tensors."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` returned."""

    def renew(self) -> None:
        """Called between tasks where `space` is no longer what it was when the weights were saved."""

    @property
    def space(self) -> GradientSpace | None:
        """The gradient space, for methods that keep one."""
        return None

    @property
    def skipped_refreshes(self) -> int:
        """Refreshes skipped in the task at hand."""
        return 0
