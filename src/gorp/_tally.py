"""What a layer counts of its own learning for meters: sums on its device, for which the host never waits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gorp.space import LayerSpace


@dataclass
class Tally:
    """Pairs (part, whole) of one layer, each a tensor (2,).

    Attributes:
        passed: energy (squared norm) of the gradients that protection let through, and of the gradients that came.
        captured: energy of the free gradient that U and V caught at the last refresh, and of all of it.
        written: what has been merged within the task, piece by piece: sums of ||C S|| and of ||C||.
        called_full: whether it has been warned of that the layer has little room left.
    """

    passed: Tensor
    captured: Tensor
    written: Tensor
    called_full: bool = False

    @classmethod
    def on(cls, device: torch.device) -> Tally:
        """Nothing counted yet."""
        passed, captured, written = (torch.zeros(2, device=device) for _ in range(3))
        return cls(passed, captured, written)

    def clear(self) -> None:
        """A new task."""
        for pair in (self.passed, self.captured, self.written):
            pair.zero_()

    def count_gradient(self, free: Tensor, whole: Tensor) -> None:
        """A gradient, or what stands for it, as protection left it and as it came; not finite counts for nothing."""
        energies = torch.stack([part.square().sum() for part in (free, whole)]).to(self.passed)
        self.passed += torch.where(energies.isfinite().all(), energies, 0.0)

    def count_refresh(self, images: Tensor, free: Tensor, u: Tensor, core: Tensor) -> None:
        """A free gradient G P that new U and V were chosen from.

        What U leaves out of it is estimated from a few columns; as it is little, the share caught is known well.

        Args:
            images: of G P, as `gorp._linalg.probe` has them.
            free: U^T G P, (k, in).
            u: U, (out, k).
            core: U^T G V, (k, k).
        """
        rest = images - u @ (u.mT @ images)
        self.captured = torch.stack([core.square().sum(), free.square().sum() + rest.square().sum()]).to(self.captured)

    def count_written(self, left: Tensor, right: Tensor, space: LayerSpace) -> None:
        """A piece left @ right, (out, k) times (k, in), that is merged into the weight."""
        self.written += felt_and_whole(left, right, space).to(self.written)


def felt_and_whole(left: Tensor, right: Tensor, space: LayerSpace) -> Tensor:
    """||C S|| and ||C||, (2,), of a change C = left @ right, (out, k) times (k, in), which is not formed.

    Zeros where S is not of the layer's inputs, as in the paper's form.
    """
    basis = space.basis.to(right)
    if len(basis) != right.shape[1]:
        return right.new_zeros(2)
    gram = left.mT @ left
    squares = [(gram * (part @ part.mT)).sum() for part in (right @ basis, right)]
    return torch.stack(squares).clamp(min=0).sqrt()
