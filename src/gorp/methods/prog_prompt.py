"""prog-prompt: every task learns a prompt that goes before those of all earlier tasks, which are frozen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor

from gorp.encoding import Batch
from gorp.methods._prompts import put_in_front
from gorp.methods.base import MethodOptions
from gorp.methods.prompt_tuning import PromptTuning

if TYPE_CHECKING:
    from gorp.run_config import RunConfig
    from gorp.tasks import Task


class ProgPrompt(PromptTuning):
    """Progressive Prompts, Razdaibiedina et al. 2023: the model reads [P_k, ..., P_1, x] in task k (section 3).

    A task is scored with the prompts up to its own, which never change again: nothing is forgotten. One that is not
    known or not learnt yet is scored with all there are. Not built: the residual MLP through which the paper may pass a
    prompt while it learns.
    """

    name = "prog-prompt"
    source = "Razdaibiedina et al. 2023, Progressive Prompts (ICLR)"
    keeps = "the prompt of every task"
    costs = "inputs that grow by a prompt a task"
    told_task = True

    class Options(MethodOptions):
        """Size of a prompt."""

        length: int = Field(10, ge=1, description="virtual tokens of a task's prompt")

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self._selected: int | None = None

    def begin_task(self, task: Task, index: int) -> None:
        """Freeze the prompts there are, and add one that starts as random words."""
        self.embedding.requires_grad_(False)
        self.embedding.add_prompt(self.options.length)

    def prepare(self, batch: Batch) -> Batch:
        """Put the prompts up to the selected task's in front, the latest first."""
        prompts, length = len(self.embedding.prompts), self.options.length
        if self._selected is not None:
            prompts = min(prompts, self._selected + 1)
        tokens = torch.arange(prompts * length, device=batch["input_ids"].device).view(prompts, length).flip(0)
        ids = self.embedding.first_id + tokens.flatten()
        return put_in_front(batch, ids.expand(len(batch["input_ids"]), -1))

    def virtual_tokens(self, tasks: int) -> int:
        """A prompt a task."""
        return tasks * self.options.length

    def select(self, index: int | None) -> None:
        """Use the prompts up to task ``index``; all of them where it is None or not learnt yet."""
        self._selected = index

    def load_weights(self, tensors: Mapping[str, Tensor]) -> None:
        """Put back the prompts, as many as there were."""
        while len(self.embedding.prompts) < len(tensors):
            self.embedding.add_prompt(self.options.length)
        super().load_weights(tensors)
