"""One task, learnt: what is remembered of the weights before, the training, what the method keeps, what is measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

from gorp.interference import kept_directions, measure, stored_weights
from gorp.learning_model import LearningModel
from gorp.plan import Plan
from gorp.progress import Progress
from gorp.report.record import LayerMeter
from gorp.tasks import Task
from gorp.training import Flight, train_task


class Lesson:
    """A task that a model is about to learn; `train`, `keep` and `meters` are called once each, in this order.

    Args:
        learning: the model as after the task before.
        task: to learn.
        index: its position in the stream, from 0.

    Attributes:
        optimizer: fresh, of this task.
        copies: of the layers' weights (out, in), all that are held for measuring; more of them at the end.
        inputs: per layer, held-out inputs (n, in) of the task, once it is kept; none of several tasks at once.
    """

    def __init__(self, learning: LearningModel, task: Task, index: int) -> None:
        self._learning, self._task, self._index = learning, task, index
        method, self._names = learning.method, learning.method.layer_names()
        self._before, self._stored_before = method.effective_weights(), stored_weights(learning.base, self._names)
        self.copies: list[Mapping[str, Tensor]] = [self._before, self._stored_before]
        self._protected = kept_directions(method.space)
        method.begin_task(task, index)
        self.optimizer = method.optimizer()
        self.inputs: dict[str, Tensor] = {}

    def train(
        self,
        plan: Plan,
        progress: Progress,
        save: Callable[[Flight], None],
        flight: Flight | None = None,
        random_then: dict[str, Any] | None = None,
    ) -> None:
        """Train to the plan's end; arguments as of `gorp.training.train_task`."""
        learning = self._learning
        train_task(
            learning.base, learning.method, self.optimizer, learning.encoder, plan, progress, save, flight, random_then
        )

    def keep(self) -> None:
        """Have the method keep what it needs of the task."""
        method = self._learning.method
        method.end_task(self._task, self._index)
        if not method.learns_jointly:
            self.inputs = self._learning.held_out_inputs(self._task)

    def meters(self, inputs: Mapping[str, Mapping[str, Tensor]]) -> dict[str, LayerMeter]:
        """What the task did to the earlier ones, per layer.

        Args:
            inputs: per earlier task and layer, held-out inputs (n, in).
        """
        method, stored_after = self._learning.method, stored_weights(self._learning.base, self._names)
        stored = {name: weight - self._stored_before[name] for name, weight in stored_after.items()}
        self.copies += [stored_after, stored]
        after = method.effective_weights()
        return measure(self._before, after, self._protected, method.space, inputs, stored or None)
