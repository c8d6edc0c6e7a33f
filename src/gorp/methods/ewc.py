"""ewc: seq-lora held back, factor by factor, by how much the answers of earlier tasks depend on each."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from pydantic import Field
from torch import Tensor

from gorp.encoding import Batch, answer_loss
from gorp.evaluation import autocast, evaluating
from gorp.methods.base import MethodOptions
from gorp.methods.plain_lora import PlainLoRA

if TYPE_CHECKING:
    from gorp.run_config import RunConfig
    from gorp.tasks import Example, Task


class EWC(PlainLoRA):
    """Elastic weight consolidation, Kirkpatrick et al. 2017, eq. 3, with one quadratic for each earlier task t::

        penalty = strength / 2 sum_t sum_i F_t,i (theta_i - theta_t,i)^2

    theta are the LoRA factors, theta_t what they were after task t, and F_t the diagonal of the empirical Fisher
    information there: the mean, over rows, of the squared gradient of the log-likelihood of a row's answer. A sum of
    quadratics is a quadratic, so that sum_t F_t and the mean of theta_t weighted by F_t say it all but for a constant.
    """

    name = "ewc"
    source = "Kirkpatrick et al. 2017, Overcoming Catastrophic Forgetting in Neural Networks (PNAS), eq. 3"
    keeps = "two numbers a factor's entry: summed Fisher information and where the penalty is least"
    costs = "LoRA's, and one backward pass a row for some rows after each task"

    class Options(MethodOptions):
        """How strongly the factors are held, and how well that is estimated."""

        strength: float = Field(100.0, ge=0, description="weight of the penalty, lambda in the paper")
        rows: int = Field(200, ge=1, description="rows of a task that its Fisher information is estimated from")

    def __init__(self, config: RunConfig) -> None:
        super().__init__(config)
        self._fisher: dict[str, Tensor] = {}
        self._anchor: dict[str, Tensor] = {}

    def penalty(self, batch: Batch, logits: Tensor) -> Tensor | None:
        """strength / 2 (sum_t F_t) (theta - anchor)^2, summed over all factors; None before a task is learnt."""
        if not self._fisher:
            return None
        terms = [
            (self._fisher[name] * (factor - self._anchor[name]).square()).sum()
            for name, factor in self._factors().items()
        ]
        return self.options.strength / 2 * torch.stack(terms).sum()

    def end_task(self, task: Task, index: int) -> None:
        """Add the task's quadratic."""
        generator = random.Random(f"{self.config.seed}/{index}")
        rows = generator.sample(task.train, min(self.options.rows, len(task.train)))
        fisher = self.fisher(rows)
        for name, factor in self._factors().items():
            here = factor.detach().clone()
            before = self._fisher.get(name, torch.zeros_like(here)), self._anchor.get(name, here)
            self._fisher[name], self._anchor[name] = add_quadratics(before, (fisher[name], here))

    def fisher(self, rows: Sequence[Example]) -> dict[str, Tensor]:
        """Per factor, the mean over rows of the squared gradient of log p(answer | prompt), without dropout."""
        factors = self._factors()
        sums = {name: torch.zeros_like(factor) for name, factor in factors.items()}
        device = next(iter(factors.values())).device
        with evaluating(self.model):
            for row in self.encoder.rows(rows):
                batch = {key: value.to(device) for key, value in self.encoder.training_batch([row]).items()}
                with autocast(device, self.config.training.precision):
                    loss = answer_loss(self.encoder.logits(self.model, batch), batch["labels"])
                gradients = torch.autograd.grad(loss, [*factors.values()], materialize_grads=True)  # 0 where unused
                for total, gradient in zip(sums.values(), gradients, strict=True):
                    total += gradient.square() / len(rows)
        return sums

    def state(self) -> dict[str, Tensor]:
        """``fisher.NAME`` and ``anchor.NAME`` for every factor."""
        kept = {"fisher": self._fisher, "anchor": self._anchor}
        return {f"{kind}.{name}": value for kind, values in kept.items() for name, value in values.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put back what `state` returned."""
        if state:
            for name, factor in self._factors().items():
                self._fisher[name] = state[f"fisher.{name}"].to(factor.device)
                self._anchor[name] = state[f"anchor.{name}"].to(factor.device)

    def _factors(self) -> dict[str, Tensor]:
        return {name: factor for name, factor in self.model.named_parameters() if factor.requires_grad}


def add_quadratics(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    """Of F (x - m)^2, as (F, m), elementwise, the sum of two, but for a constant; where both F are 0, m is the first's.

    F (x - m)^2 + f (x - a)^2 = (F + f) (x - m - f / (F + f) (a - m))^2 + constant
    """
    (curvature, centre), (added, at) = first, second
    total = curvature + added
    return total, centre + torch.where(total > 0, added / total, 0.0) * (at - centre)
