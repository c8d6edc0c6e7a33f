"""The AdamW of the package galore-torch, made to be saved and resumed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from galore_torch import GaLoreAdamW
from galore_torch.galore_projector import GaLoreProjector
from torch import Tensor


class ResumableGaLoreAdamW(GaLoreAdamW):  # type: ignore[misc]  # the package has no types
    """The released optimizer; its state as saved holds tensors and numbers only.

    The package keeps a Python object, the projector, in the state of each parameter, and in it a slice of an SVD's
    factor, not contiguous and with the whole factor behind it. Here the slice is copied out once it is taken, so that
    products with it round the same after a resume, and stands in `state_dict` in the projector's place.
    """

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """The released step."""
        loss = super().step(closure)
        for _, state in self._projected():
            state["projector"].ortho_matrix = _compact(state["projector"].ortho_matrix)
        return loss

    def state_dict(self) -> dict[str, Any]:
        """As torch's; ``projector`` is the projection itself, (rank, in) for a tall weight, (out, rank) for a wide."""
        content: dict[str, Any] = super().state_dict()
        content["state"] = {
            index: {key: value.ortho_matrix if key == "projector" else value for key, value in state.items()}
            for index, state in content["state"].items()
        }
        return content

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Put back what `state_dict` returned."""
        super().load_state_dict(state_dict)
        for group, state in self._projected():
            settings = {key: group[key] for key in ("update_proj_gap", "scale", "proj_type")}
            projector = GaLoreProjector(group["rank"], **settings)
            projector.ortho_matrix = state["projector"]
            state["projector"] = projector

    def _projected(self) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
        """The group and state of every parameter that has a projection."""
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state.get(parameter, {})
                if "projector" in state:
                    yield group, state


def _compact(matrix: Tensor) -> Tensor:
    """The matrix in memory of its own, row by row; itself where it is so already."""
    whole = matrix.is_contiguous() and matrix.untyped_storage().nbytes() == matrix.nbytes
    return matrix if whole else matrix.clone(memory_format=torch.contiguous_format)
