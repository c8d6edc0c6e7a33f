"""What a continual-learning method is: what learns, from which rows, with what penalty, and what is kept afterwards."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from gorp.run_config import RunConfig
    from gorp.space import GradientSpace
    from gorp.tasks import Example, Task

Batch = Mapping[str, Tensor]


class Method(ABC):
    """One way to learn a stream. The learner calls, in this order::

        attach                                                        once, on the base model
          begin_task, training_rows, optimizer, penalty ..., end_task     per task
          weights, state                                                  after each task, and while one is in flight

    To go on with a saved run the learner attaches to a fresh base model, then calls `load_weights` and `load_state`
    with what it saved after the last finished task, then `begin_task` as before; in the middle of a task,
    `load_weights` again and the optimizer's ``load_state_dict``.
    """

    name: ClassVar[str]
    #: Learns all tasks together in a single stage, instead of one after the other.
    learns_jointly: ClassVar[bool] = False

    model: nn.Module

    def __init__(self, config: RunConfig) -> None:
        self.config = config

    @abstractmethod
    def attach(self, model: nn.Module, space: GradientSpace | None = None) -> None:
        """Prepare the base model in place and keep it as ``self.model``; only what learns may require a gradient.

        Args:
            model: the base model.
            space: what `space` was after the last finished task of a saved run.

        Raises:
            InputError: the configured targets do not fit the model.
        """

    @abstractmethod
    def layer_names(self) -> Sequence[str]:
        """Dotted names, in the base model, of the linear layers that learn."""

    @abstractmethod
    def effective_weights(self) -> dict[str, Tensor]:
        """Per layer that learns, the weight (out, in) that the layer computes with now, fp32, a copy."""

    @abstractmethod
    def optimizer(self) -> torch.optim.Optimizer:
        """A fresh optimizer for the task that has just begun."""

    def begin_task(self, task: Task, index: int) -> None:
        """Called before task ``index`` (from 0) is trained; may draw random numbers."""

    def training_rows(self, task: Task, index: int) -> Sequence[Example]:
        """The rows to train on: the task's own; a method with a memory adds to them."""
        return task.train

    def penalty(self, batch: Batch) -> Tensor | None:
        """A scalar added to the loss of a batch, or None."""
        return None

    def end_task(self, task: Task, index: int) -> None:
        """Called after task ``index`` is trained and before it is evaluated: remember, merge, start anew."""

    def weights(self) -> dict[str, Tensor]:
        """Every tensor of the model that this method may have changed, by its name in ``model.state_dict()``."""
        prefixes = tuple(f"{name}." for name in self.layer_names())
        return {name: value for name, value in self.model.state_dict().items() if name.startswith(prefixes)}

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back what `weights` returned."""
        self.model.load_state_dict(dict(tensors), strict=False)

    def state(self) -> dict[str, Tensor]:
        """What else must be kept between tasks, as tensors."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` returned."""

    @property
    def space(self) -> GradientSpace | None:
        """The gradient space, for methods that keep one."""
        return None

    @property
    def skipped_refreshes(self) -> int:
        """Refreshes skipped in the task at hand."""
        return 0
