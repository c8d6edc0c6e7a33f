"""inflora: a LoRA per task whose A spans the task's own input directions among those that no earlier task needs."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from pydantic import Field
from torch import Tensor, nn

from gorp._injection import ADAPTER
from gorp._linalg import orthonormalize, project_out
from gorp.errors import FullSpaceWarning, few
from gorp.layer_inputs import input_covariances
from gorp.methods.base import MethodOptions
from gorp.methods.inc_lora import IncLoRA
from gorp.space import GradientSpace, LayerSpace, Side

if TYPE_CHECKING:
    from gorp.tasks import Task


class InfLoRA(IncLoRA):
    """Liang & Li 2024: before a task A is set, orthonormal and orthogonal to what is protected; B alone learns.

    With H the inputs of a layer, rows, and M (in, s) its protected basis, A (their B_t) is the top ``lora.rank`` right
    singular vectors of H (I - M M^T). Hence (B A) M = 0 whatever B becomes. When the task ends, M takes on the
    directions of H that GPM's rule asks for. M itself is kept where DualGPM would keep its complement once that is
    smaller: the same space. The released code differs in more than this: it divides A by sqrt(3), where here alpha /
    rank scales as in every LoRA; it raises ``energy`` to 1 over a known number of tasks, from 0.95 or 0.98; it takes
    energies and directions of the covariance, the squares of those of H that the paper is about; after the first task
    it protects a direction fewer than reach ``energy``; and all rows of a task stand for it.
    """

    name = "inflora"
    source = "Liang and Li 2024, InfLoRA: Interference-Free Low-Rank Adaptation for Continual Learning (CVPR)"
    keeps = "per layer a basis of the input directions that earlier tasks use"
    costs = "less than LoRA's a step, as only B learns; forward passes over some rows before and after each task"

    class Options(MethodOptions):
        """What the bases are made from, and how much they hold."""

        energy: float = Field(0.95, gt=0, le=1, description="share of the energy of a task's inputs that is protected")
        rows: int = Field(
            200, ge=1, description="training rows whose layer inputs stand for a task, spread evenly over it"
        )

    def attach(self, model: nn.Module, space: GradientSpace | None = None) -> None:
        """As for LoRA with A frozen; bases are those of the saved space, or empty."""
        super().attach(model, space)
        self._space = space or GradientSpace(max_share=1.0, base_model=str(getattr(model, "name_or_path", "")))
        for name, layer in self._layers.items():
            A = layer.lora_A[ADAPTER].weight.requires_grad_(False)
            if name not in self._space.layers:
                self._space.layers[name] = LayerSpace(Side.empty(A.shape[1]))
            self._space.layers[name].input.to(A.device, A.dtype)

    def begin_task(self, task: Task, index: int) -> None:
        """Set A to the task's leading free input directions.

        Warns:
            Layers in which it has none: they do not learn it.
        """
        covariances = input_covariances(self.model, self.layer_names(), self._batches(task))
        for name, layer in self._layers.items():
            A = layer.lora_A[ADAPTER].weight
            A.data.copy_(free_directions(covariances[name], self._space.layers[name].basis, A.shape[0]))
            layer.lora_B[ADAPTER].weight.requires_grad_(bool(A.any()))
        full = [name for name, layer in self._layers.items() if not layer.lora_B[ADAPTER].weight.requires_grad]
        if full:
            warnings.warn(
                f"task {task.name!r} has no input directions of its own in {len(full)} of {len(self._layers)} layers: "
                f"{few(full)}. They do not learn it",
                FullSpaceWarning,
                stacklevel=2,
            )

    def end_task(self, task: Task, index: int) -> None:
        """Merge, then protect the inputs that the task has in the model as it is now."""
        super().end_task(task, index)
        covariances = input_covariances(self.model, self.layer_names(), self._batches(task))
        for name in self._layers:
            self._space.extend(name, rows_of(covariances[name]), self.options.energy)
        self._space.tasks.append(task.name)

    @property
    def space(self) -> GradientSpace:
        """The bases M."""
        return self._space

    def _batches(self, task: Task) -> Iterator[dict[str, Any]]:
        """Inputs of the task's rows one by one, so that nothing is padding."""
        device = next(self.model.parameters()).device
        count = min(self.options.rows, len(task.train))
        for row in self.encoder.rows([task.train[i * len(task.train) // count] for i in range(count)]):
            batch = self.encoder.training_batch([row])
            yield self.encoder.forward_inputs({key: value.to(device) for key, value in batch.items()})


def free_directions(covariance: Tensor, basis: Tensor, rank: int) -> Tensor:
    """The leading right singular vectors of H (I - M M^T), from H^T H.

    Args:
        covariance: H^T H, (in, in).
        basis: M, (in, s), orthonormal columns.
        rank: how many.

    Returns:
        (rank, in), orthonormal rows orthogonal to M; zero rows in the place of those that H leaves no energy to.
    """
    held, wide = basis.double(), covariance.double()
    free = project_out(project_out(wide, held).mT, held)
    energies, vectors = torch.linalg.eigh((free + free.mT) / 2)  # ascending
    round_off = 10 * torch.finfo(covariance.dtype).eps * wide.trace()
    count = min(rank, int((energies > round_off).sum()))
    directions = wide.new_zeros(rank, basis.shape[0])
    if count:
        leading = vectors[:, -count:].flip(1)
        directions[:count] = orthonormalize(project_out(leading.mT, held).mT).mT
    return directions.to(basis.dtype)


def rows_of(covariance: Tensor) -> Tensor:
    """Rows (in, in) with the same H^T H as the rows that a covariance (in, in) was summed over."""
    energies, vectors = torch.linalg.eigh(covariance.double())
    return energies.clamp_min(0).sqrt()[:, None] * vectors.mT
