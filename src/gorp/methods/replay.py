"""replay: seq-lora that goes on seeing some rows of earlier tasks, drawn evenly from all that it ever saw."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, TypeVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from gorp.methods.base import MethodOptions
from gorp.methods.plain_lora import PlainLoRA
from gorp.tasks import Example

if TYPE_CHECKING:
    from gorp.run_config import RunConfig
    from gorp.tasks import Task

Item = TypeVar("Item")


class Replay(PlainLoRA):
    """One LoRA for all tasks, trained on each task's rows and on old rows out of a reservoir.

    Old rows are drawn once a task and mixed with its own; the paper joins every batch with as many, drawn anew. All
    randomness comes from the seed and the task's index: a task taken up again sees the same rows.
    """

    name = "replay"
    source = "Chaudhry et al. 2019, On Tiny Episodic Memories; reservoir by Vitter 1985, algorithm R"
    keeps = "rows of earlier tasks, up to a capacity"
    costs = "LoRA's, and the old rows that are trained on again"
    keeps_old_rows = True

    class Options(MethodOptions):
        """What is kept, and how much of it is seen again."""

        capacity: int = Field(1000, ge=1, description="rows kept of all tasks together")
        share: float = Field(0.1, ge=0, description="old rows added to a task, as a share of its own rows")

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self._rows: list[Example] = []
        self._seen = 0

    def training_rows(self, task: Task, index: int) -> Sequence[Example]:
        """The task's rows, and ``share`` as many old ones, each at most once; fewer where fewer are kept."""
        count = min(round(self.options.share * len(task.train)), len(self._rows))
        return [*task.train, *self._random("training", index).sample(self._rows, count)]

    def end_task(self, task: Task, index: int) -> None:
        """Let the task's own rows pass by the reservoir."""
        generator = self._random("reservoir", index)
        self._rows = fill_reservoir(self._rows, self._seen, task.train, self.options.capacity, generator)
        self._seen += len(task.train)

    def state(self) -> dict[str, Tensor]:
        """The rows as lines of JSON, in bytes (uint8), and the number of rows seen."""
        lines = "".join(f"{row.to_json()}\n" for row in self._rows)
        rows = np.frombuffer(lines.encode(), np.uint8).copy()
        return {"rows": torch.from_numpy(rows), "seen": torch.tensor(self._seen)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` returned."""
        lines = state["rows"].numpy().tobytes().decode().splitlines()
        self._rows, self._seen = [Example.from_json(line) for line in lines], int(state["seen"])

    def _random(self, purpose: str, index: int) -> random.Random:
        return random.Random(f"{purpose}/{self.config.seed}/{index}")


def fill_reservoir(
    kept: Sequence[Item], seen: int, arriving: Iterable[Item], capacity: int, generator: random.Random
) -> list[Item]:
    """A uniform sample of everything seen, from one of what was seen before (Vitter 1985, algorithm R).

    Args:
        kept: min(seen, capacity) items, a uniform sample of those seen before.
        seen: how many there were.
        arriving: what comes next.
        capacity: items kept at most.
        generator: of the random numbers, one an item once the reservoir is full.
    """
    sample = list(kept)
    for position, item in enumerate(arriving, start=seen):
        if len(sample) < capacity:
            sample.append(item)
        elif (place := generator.randrange(position + 1)) < capacity:
            sample[place] = item
    return sample
