"""per-task: a LoRA of its own for every task, which has to be told at evaluation; nothing is shared or forgotten."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from torch import Tensor, nn

from gorp._injection import ADAPTER
from gorp.methods.plain_lora import PlainLoRA

if TYPE_CHECKING:
    from gorp.run_config import RunConfig
    from gorp.tasks import Task


class PerTask(PlainLoRA):
    """Every task starts from fresh factors on the base model and keeps them to itself.

    Whenever no task is selected or in training, the model is the base model.
    """

    name = "per-task"
    source = "Hu et al. 2022, LoRA (ICLR), one for each task; the bound of methods that are told the task"
    keeps = "the factors of every task"
    costs = "LoRA's; storage grows by one LoRA a task"
    told_task = True

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self._learnt: dict[int, dict[str, Tensor]] = {}

    def begin_task(self, task: Task, index: int) -> None:
        """Start the factors anew: A at random, B = 0."""
        for layer in self._layers.values():
            layer.reset_lora_parameters(ADAPTER, init_lora_weights=True)

    def end_task(self, task: Task, index: int) -> None:
        """Put the task's factors away."""
        self._learnt[index] = {name: factor.clone() for name, factor in self.weights().items()}

    def select(self, index: int | None) -> None:
        """Put the factors of a learnt task in place; for any other, B = 0: the base model."""
        if index is not None and index in self._learnt:
            self.load_weights(self._learnt[index])
        else:
            for layer in self._layers.values():
                nn.init.zeros_(layer.lora_B[ADAPTER].weight)

    def state(self) -> dict[str, Tensor]:
        """Every learnt task's factors, as ``index.name``."""
        return {f"{index}.{name}": factor for index, kept in self._learnt.items() for name, factor in kept.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` returned."""
        self._learnt.clear()
        for key, factor in state.items():
            index, _, name = key.partition(".")
            self._learnt.setdefault(int(index), {})[name] = factor
