"""What is kept of a finished stage, and its files in the stage's folder."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from gorp.checkpoint import load_tensors, save_tensors
from gorp.checksums import is_expected
from gorp.space import GradientSpace
from gorp.space_file import SPACE_FILE


@dataclass(frozen=True)
class StageFiles:
    """What is kept when a stage is finished; ``row_scores`` are those of each task's rows, in percent.

    ``space_replaced`` says that another space than that of the stage, in which the weights were made, stands in for it.
    """

    weights: Mapping[str, Tensor]
    method: Mapping[str, Tensor]
    space: GradientSpace | None
    inputs: Mapping[str, Tensor]
    row_scores: Mapping[str, Tensor] = field(default_factory=dict)
    space_replaced: bool = False

    def save(self, folder: Path) -> None:
        """Write the files of a stage.

        Raises:
            OSError: one cannot be written.
        """
        save_tensors(folder / "weights.safetensors", self.weights)
        save_tensors(folder / "method.safetensors", self.method)
        save_tensors(folder / "inputs.safetensors", self.inputs)
        save_tensors(folder / "scores.safetensors", self.row_scores)
        if self.space is not None:
            self.space.save(folder / SPACE_FILE)

    @classmethod
    def load(cls, folder: Path, space_folder: Path) -> StageFiles:
        """Read what `save` wrote, but for inputs and scores, with the gradient space of that folder or another.

        Raises:
            InputError: a file is missing or damaged.
        """
        weights, method = (load_tensors(folder / f"{part}.safetensors") for part in ("weights", "method"))
        path = space_folder / SPACE_FILE
        space = GradientSpace.load(path) if is_expected(path) else None
        return cls(weights, method, space, {}, space_replaced=space_folder != folder)
