"""What the optimizer asks of a layer that learns under GORP, of whatever kind it is."""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from gorp._linalg import NOISE
from gorp._precision import without_autocast
from gorp._ranks import mean_over_ranks, rank
from gorp._shards import gathered, own_rows
from gorp._tally import Tally
from gorp._taps import input_rows
from gorp._weights import HasWeight, add_product, read_weight
from gorp.config import GORPConfig
from gorp.space import INPUT, LayerSpace


class LearnedLayer(ABC):
    """A layer under GORP: its trainable factors, and how their gradients and steps stay out of its space.

    Every factor reads one side of the layer's space: LoRA's A and the core Z the input side, LoRA's B the output
    side. ``seen[side]`` holds rows (n, width of the side) that the coming step will add to the side's memory:
    unprojected gradients, or inputs where the memory is ``features`` or ``weighted_features``; ``rows_of_pass`` those
    inputs of a backward pass that has not reached the factor yet. ``stride``, at most 1, multiplies the layer's steps.
    ``tally`` is there where somebody reads meters.
    """

    name: str
    config: GORPConfig
    space: LayerSpace
    index: int
    seen: dict[str, Tensor]
    rows_of_pass: list[Tensor]
    stride: Tensor | float = 1.0
    tally: Tally | None = None

    @abstractmethod
    def factors(self) -> dict[str, nn.Parameter]:
        """The trainable tensors, by the side of the space that they read."""

    @property
    @abstractmethod
    def holder(self) -> HasWeight:
        """The module whose weight (out, in) the factors change."""

    @abstractmethod
    def change(self) -> tuple[Tensor, Tensor]:
        """Factors of what is added to the weight, (out, k) and (k, in)."""

    @abstractmethod
    def clear_change(self) -> None:
        """Make the change zero again."""

    @without_autocast
    @torch.no_grad()
    def effective_weight(self) -> Tensor:
        """The weight (out, in) the layer acts with, in fp32 or wider, factors not merged yet included."""
        weight = self.holder.weight
        left, right = self.change()
        return gathered(torch.addmm(read_weight(self.holder), left[own_rows(weight)], right), like=weight)

    @without_autocast
    @torch.no_grad()
    def merge(self) -> None:
        """Fold the factors into the weight; the function of the layer stays the same."""
        left, right = self.change()
        if self.tally is not None:
            self.tally.count_written(left, right, self.space)
        add_product(self.holder, left, right)
        self.clear_change()

    def remembers_gradients(self, side: str) -> bool:
        """Whether the memory of a side is grown from rows of gradients, not of inputs, and not from Adam's moment."""
        of_inputs = self.config.remembers_inputs and side == INPUT
        return self.config.memory != "first_moment" and not of_inputs

    @abstractmethod
    def width_of(self, side: str) -> int:
        """Width of the memory rows of one side."""

    @abstractmethod
    def moment_rows(self, side: str, first_moment: Tensor) -> Tensor:
        """Adam's first moment of the factor on one side, as rows (n, width of the side)."""

    @abstractmethod
    def project_step(self, side: str, direction: Tensor) -> Tensor:
        """Adam's direction for the factor on one side, less what the space holds."""

    @abstractmethod
    def restart(self, task: int) -> None:
        """Fresh factors for the task of this index, in place, in what the space leaves free. May freeze the layer."""
        self.step = 0
        if self.tally is not None:
            self.tally.clear()
        self.task_seed = (self.config.seed * 1009 + task) * 4093 + self.index
        self.forget_pending()

    def begin_step(self) -> None:
        """Called once before the optimizer updates this layer's factors."""

    def set_stride(self, energy: Tensor) -> None:
        """Before the update: how long this layer's steps are, given how much of what it sees its space leaves free.

        Adam makes full-size steps of a gradient however little protection leaves of it, and along directions that
        old tasks use, too, if less: a layer that sees little new had better move little.

        Args:
            energy: (2,), of the rows that the task has shown so far, what is free and what there is; the rows of
                this step are added in place.
        """
        if INPUT in self.seen:
            rows = self.seen[INPUT]
            shown = torch.stack([self.space.input.project(rows).square().sum(), rows.square().sum()])
            energy += mean_over_ranks([shown])[0]
        free, whole = energy
        self.stride = torch.where(whole > 0, (free / whole) ** (self.config.damping / 2), 1.0)

    def leave_out_infinite(self, side: str) -> None:
        """Put zeros in place of rows of ``seen[side]`` that are not finite: their gradients were made so since."""
        if side in self.seen:
            rows = self.seen[side]
            self.seen[side] = rows.where(rows.isfinite().all(dim=1, keepdim=True), 0.0)

    def seed_at(self, step: int) -> int:
        """The seed of what is drawn at a step of this task."""
        return (self.task_seed * 65537 + step) % 2**63

    def refresh_at(self, step: int) -> None:
        """Told the count of steps made in this task, before the next forward pass."""
        self.step = step

    def resume_at(self, step: int) -> None:
        """Told the count of steps made in this task where a saved state was put back, an earlier one maybe."""
        self.forget_pending()
        self.refresh_at(step)

    def forget_pending(self) -> None:
        """Drop what backward passes left for a step that has been made, or will not be."""
        self.seen.clear()
        self.rows_of_pass.clear()

    def forget_if_cleared(self, side: str) -> None:
        """Before a pass reaches the factor of a side: without a gradient there, the pass is the first of its step."""
        if self.factors()[side].grad is None:
            self.seen.pop(side, None)

    def see_inputs(self, delta: Tensor, inputs: Tensor) -> None:
        """Take down what one use in a backward pass shows of the inputs; delta (..., out), inputs (..., in)."""
        weighted = self.config.memory == "weighted_features"
        own_signs = self.seed_at(self.step) ^ (rank() << 48)
        self.rows_of_pass.append(input_rows(inputs, delta, weighted, own_signs))

    def keep_inputs(self, gradient: Tensor) -> None:
        """Hook on the factor that reads them: the inputs of a whole pass join those of the step's other passes."""
        self.forget_if_cleared(INPUT)
        earlier = [self.seen[INPUT]] if INPUT in self.seen else []
        if self.rows_of_pass:
            self.seen[INPUT] = torch.cat([*earlier, *self.rows_of_pass])
            self.rows_of_pass.clear()

    def freeze(self) -> None:
        """Learn no more, now and in later tasks."""
        self.space.frozen = True
        for factor in self.factors().values():
            factor.requires_grad_(False)


def guarded(free: Tensor, whole: Tensor, config: GORPConfig) -> Tensor:
    """A free gradient, or zeros where it is the round-off of a gradient that lies in the space; NaN stays NaN."""
    return free * is_signal(free, whole) if config.guard and free is not whole else free


def is_signal(free: Tensor, whole: Tensor) -> Tensor:
    """Whether what is free is more than the round-off of the whole, a truth value ()."""
    return torch.linalg.vector_norm(free) >= NOISE * torch.linalg.vector_norm(whole)
