"""lwf: seq-lora that goes on answering, on each new task's rows, as the model did before that task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor
from torch.func import functional_call
from torch.nn import functional as F

from gorp.encoding import IGNORED, Batch
from gorp.evaluation import evaluating
from gorp.methods.base import MethodOptions
from gorp.methods.plain_lora import PlainLoRA

if TYPE_CHECKING:
    from gorp.run_config import RunConfig
    from gorp.tasks import Task


class LwF(PlainLoRA):
    """Learning without forgetting: the model before the task teaches the model in training, on the task's own rows::

        penalty = strength T^2 KL(softmax(teacher / T) || softmax(student / T)), mean over answer tokens

    Li and Hoiem 2017 take the cross entropy (eq. 2), whose gradient is the same, and no T^2, by which Hinton et al.
    2015 keep the gradient's size independent of the temperature T. Their old tasks have outputs of their own; here all
    share one vocabulary.
    """

    name = "lwf"
    source = "Li and Hoiem 2017, Learning without Forgetting (TPAMI), eq. 2"
    keeps = "nothing between tasks; the factors from before the task while it trains"
    costs = "LoRA's, and a second forward pass a batch"

    class Options(MethodOptions):
        """How strongly the old answers are held to, and how soft they are."""

        strength: float = Field(1.0, ge=0, description="weight of the penalty")
        temperature: float = Field(2.0, gt=0, description="what logits are divided by, T in the paper")

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self._teacher: dict[str, Tensor] = {}

    def begin_task(self, task: Task, index: int) -> None:
        """Copy the factors as they are before the task; before the first task there is nothing to hold to."""
        if index:
            learning = {name: factor for name, factor in self.model.named_parameters() if factor.requires_grad}
            self._teacher = {name: factor.detach().clone() for name, factor in learning.items()}

    def penalty(self, batch: Batch, logits: Tensor) -> Tensor | None:
        """The divergence of the student's answers from the teacher's; None in the first task."""
        if not self._teacher:
            return None
        answered = batch["labels"] != IGNORED  # (batch, longest answer)
        teacher, student = (
            F.log_softmax(softened(values[answered].float(), self.options.temperature), dim=-1)  # (tokens, vocabulary)
            for values in (self.teacher_logits(batch), logits)
        )
        divergence = F.kl_div(student, teacher, reduction="sum", log_target=True) / answered.sum().clamp_min(1)
        return self.options.strength * self.options.temperature**2 * divergence

    @torch.no_grad()
    def teacher_logits(self, batch: Batch) -> Tensor:
        """Logits (batch, longest answer, vocabulary) of the model before the task, without dropout.

        No parameter is touched, so that the student's graph stays good.
        """

        def teacher(**inputs: Any) -> Any:
            return functional_call(self.model, self._teacher, kwargs=inputs)

        with evaluating(self.model):
            return self.encoder.logits(teacher, batch)


def softened(logits: Tensor, temperature: float) -> Tensor:
    """Logits over a temperature; those of what is no option stay finite."""
    return (logits / temperature).clamp_min(torch.finfo(logits.dtype).min)
