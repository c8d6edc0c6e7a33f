"""osf: full fine-tuning of the smaller singular directions of each weight, the larger ones left alone."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from peft.tuners.osf import OSFConfig, OSFLayer, OSFModel
from pydantic import Field
from torch import Tensor, nn

from gorp.methods.base import Method, MethodOptions
from gorp.space import GradientSpace
from gorp.targets import block_layers, check_untied, find_layers

if TYPE_CHECKING:
    from gorp.tasks import Task

ADAPTER = "default"


class OSF(Method):
    """Nayak et al. 2025 on peft's layers, W = U_high S_high V_high + U_low S_low V_low, of which the low part learns.

    Departures from what peft documents: U_low and V_low are projected after each step, too, for Adam tilts a projected
    gradient back into the protected directions; and the low part is merged into W when a task ends (not dropped by
    `unload`), where the next task takes a new SVD of it. Protected is the share (i - 1)/n of the singular directions in
    task i of n, at least one of them, which is peft's least; tasks past the last planned one protect what that did.
    The paper's finer rule, a share for each layer by how much it changes its input, is left out. The model is held in
    fp32: in bf16, singular vectors would be orthogonal to three digits only.
    """

    name = "osf"
    source = "Nayak et al. 2025, Sculpting Subspaces (ICLR 2026), on the layers of peft's OSF"
    keeps = "nothing besides the weights, whose own large singular directions stand for the past"
    costs = "an SVD of every weight a task, and to learn it up to eleven times the memory of the weights, in fp32"

    class Options(MethodOptions):
        """Which layers learn, and over how many tasks they fill up."""

        tasks: int = Field(
            4, ge=1, description="tasks planned; task i of them leaves the top (i - 1)/tasks of each weight's SVD alone"
        )
        targets: list[str] | None = Field(
            None,
            min_length=1,
            description="layers that learn; lora.targets, or every linear layer of the blocks, if not given",
        )

    _tuner: OSFModel | None = None

    def attach(self, model: nn.Module, space: GradientSpace | None = None) -> None:
        """Freeze the model, in fp32, and find the layers that will learn."""
        if self.options.targets:
            self._layers = find_layers(model, self.options.targets, "options.targets")
        elif self.config.lora.targets:
            self._layers = find_layers(model, self.config.lora.targets, "lora.targets")
        else:
            self._layers = block_layers(model, "options.targets")
        check_untied(model, self._layers)
        self.model = model.float().requires_grad_(False)

    def layer_names(self) -> Sequence[str]:
        """The targets, in the order of the model."""
        return self._layers

    def begin_task(self, task: Task, index: int) -> None:
        """Split every target by a new SVD of its weight; a task taken up again finds the same split in it."""
        ranks: dict[str, int | float] = {}
        for name in self._layers:
            layer = cast(nn.Linear, self.model.get_submodule(name))
            ranks[f"^{re.escape(name)}$"] = protected_rank(min(layer.weight.shape), index, self.options.tasks)
        self._tuner = OSFModel(self.model, OSFConfig(target_modules=self._layers, rank_pattern=ranks), ADAPTER)

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW over the low parts, whose every step ends in a projection."""
        training = self.config.training
        low = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        optimizer = torch.optim.AdamW(low, lr=training.lr, weight_decay=training.weight_decay)
        layers = [layer for layer in map(self.model.get_submodule, self._layers) if isinstance(layer, OSFLayer)]

        def project(*_: object) -> None:
            for layer in layers:
                keep_orthogonal(layer)

        optimizer.register_step_post_hook(project)
        return optimizer

    def end_task(self, task: Task, index: int) -> None:
        """Merge what was learnt; the model is a plain one until the next task."""
        if self._tuner is not None:
            self._tuner.merge_and_unload()
            self._tuner = None

    @torch.no_grad()
    def effective_weights(self) -> dict[str, Tensor]:
        """W, and while a task is learnt W with its change of the low part."""
        weights = {}
        for name in self._layers:
            layer: Any = self.model.get_submodule(name)
            split = isinstance(layer, OSFLayer)
            weights[name] = layer.base_layer.weight + layer.get_delta_weight(ADAPTER) if split else layer.weight.clone()
        return weights


def protected_rank(size: int, index: int, tasks: int) -> int:
    """Singular directions of ``size`` that task ``index`` (from 0) of ``tasks`` leaves alone, at least 1."""
    return max(1, size * min(index, tasks - 1) // tasks)


@torch.no_grad()
def keep_orthogonal(layer: Any) -> None:
    """Remove from U_low (out, m - k) and V_low (m - k, in) of a layer of peft's what lies in U_high and V_high.

    peft keeps U_high (out, k) only where U = [U_high, U_low] is not square, and likewise V_high (k, in); where it is,
    the start of U_low spans all that U_high does not.
    """
    low = layer.osf_svd_params[ADAPTER]
    U, V = low["U_low"], low["V_low"]
    if ADAPTER in layer._osf_U_high:
        high = layer._osf_U_high[ADAPTER]
        U.sub_(high @ (high.mT @ U))
    else:
        start = layer._osf_U_low_init[ADAPTER]
        U.copy_(start @ (start.mT @ U))
    if ADAPTER in layer._osf_V_high:
        high = layer._osf_V_high[ADAPTER]
        V.sub_((V @ high.mT) @ high)
    else:
        start = layer._osf_V_low_init[ADAPTER]
        V.copy_((V @ start.mT) @ start)
