"""GORP: LoRA factors and full-rank weights learn together, and leave alone what earlier tasks depend on."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from gorp._attach import attach, end_task, learned_layers, param_groups
from gorp.backbones import default_targets
from gorp.config import GORPConfig
from gorp.layers import ProjectedLinear
from gorp.methods.base import Method
from gorp.optimizer import GORPAdamW
from gorp.space import GradientSpace
from gorp.targets import learning_layers

if TYPE_CHECKING:
    from gorp.tasks import Task


class GORP(Method):
    """Wang et al., Continual Gradient Low-Rank Projection Fine-Tuning for LLMs, ACL 2025, in both variants.

    Targets that the configuration leaves open are the architecture's defaults; a list given as empty stays empty.
    """

    name = "gorp"
    source = "Wang et al. 2025, Continual Gradient Low-Rank Projection Fine-Tuning for LLMs (ACL)"
    keeps = "per layer a basis of the input directions that earlier tasks depend on"
    costs = "LoRA's, and a projection a step; the basis grows with what tasks need"
    on_quantized = True
    begins_with_space = True
    _optimizer: GORPAdamW

    def attach(self, model: nn.Module, space: GradientSpace | None = None) -> None:
        """Inject LoRA factors, put cores into full-rank layers, freeze the rest."""
        self.model = attach(model, self.settings(model), space)
        self._layers = learned_layers(model)

    def whole_layers(self, model: nn.Module) -> Sequence[str]:
        """Those that learn at full rank."""
        return learning_layers(model, self.settings(model))[1]

    def settings(self, model: nn.Module) -> GORPConfig:
        """The configuration with every target settled."""
        config = self.config.gorp
        targets = {"lora_targets": config.lora_targets, "full_rank_targets": config.full_rank_targets}
        if None in targets.values():
            defaults = dict(zip(targets, default_targets(model), strict=True))
            targets = {key: tuple(defaults[key]) if chosen is None else chosen for key, chosen in targets.items()}
        settings = {
            **targets,
            "accumulation_steps": self.config.training.accumulation_steps,
            "seed": self.config.seed,
        }
        return config.model_copy(update=settings)

    def kept_whole(self) -> set[nn.Parameter]:
        """The factors, of frozen layers, too."""
        return {factor for layer in self._layers.values() for factor in layer.factors().values()}

    def layer_names(self) -> Sequence[str]:
        """LoRA layers, then full-rank ones."""
        return list(self._layers)

    def effective_weights(self) -> dict[str, Tensor]:
        """The weights with the factors that are not merged yet."""
        return {name: layer.effective_weight().cpu() for name, layer in self._layers.items()}

    def optimizer(self) -> torch.optim.Optimizer:
        """GORPAdamW, with a learning rate for either half."""
        training = self.config.training
        self._optimizer = GORPAdamW(
            param_groups(self.model),
            lr=training.lr,
            full_rank_lr=training.full_rank_lr,
            weight_decay=training.weight_decay,
        )
        return self._optimizer

    def before_save(self) -> None:
        """Average what the ranks remember of their own rows' inputs."""
        self._optimizer.average_memories()

    def end_task(self, task: Task, index: int) -> None:
        """Grow the space, merge the factors, start anew in what is left."""
        end_task(self.model, self._optimizer, task.name)

    def renew(self) -> None:
        """Start anew in what the space leaves now."""
        for layer in self._layers.values():
            layer.restart(len(self.space.tasks))

    @property
    def space(self) -> GradientSpace:
        """The model's gradient space."""
        space: GradientSpace = self.model.gradient_space  # type: ignore[assignment]
        return space

    @property
    def skipped_refreshes(self) -> int:
        """Refreshes that found nothing but noise, or something not finite, in the task at hand."""
        return sum(layer.skipped_refreshes for layer in self._layers.values() if isinstance(layer, ProjectedLinear))
