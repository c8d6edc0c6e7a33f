"""Prompt tuning, the ground of the methods that learn prompts: a frozen model, and virtual tokens before its input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from gorp.backbones import kind_of
from gorp.errors import InputError
from gorp.methods._prompts import PromptedEmbedding
from gorp.methods.base import Method
from gorp.space import GradientSpace


class PromptTuning(Method):
    """Lester et al. 2021: only the embeddings of virtual tokens learn; a subclass says which stand before a prompt.

    In an encoder-decoder model they stand before the encoder's input.
    """

    on_quantized = True
    embedding: PromptedEmbedding

    def attach(self, model: nn.Module, space: GradientSpace | None = None) -> None:
        """Freeze the model and make room for virtual tokens in its input embedding.

        Raises:
            InputError: the input embedding is not a table of words.
        """
        model.requires_grad_(False)
        reader = cast(PreTrainedModel, model)
        if kind_of(model) == "seq2seq":
            reader = cast(PreTrainedModel, reader.get_encoder())
        words = reader.get_input_embeddings()
        if not isinstance(words, nn.Embedding):
            raise InputError(
                f"method {self.name!r} cannot put prompts before the input of {type(model).__name__}, whose input "
                f"embedding is a {type(words).__name__}; accepted: a model with an nn.Embedding there"
            )
        self.embedding = PromptedEmbedding(words)
        reader.set_input_embeddings(self.embedding)
        self.model = model

    def layer_names(self) -> Sequence[str]:
        """None: no linear layer learns."""
        return ()

    def effective_weights(self) -> dict[str, Tensor]:
        """None."""
        return {}

    def optimizer(self) -> torch.optim.Optimizer:
        """AdamW over what learns."""
        training = self.config.training
        learning = [parameter for parameter in self.embedding.parameters() if parameter.requires_grad]
        return torch.optim.AdamW(learning, lr=training.lr, weight_decay=training.weight_decay)

    def weights(self) -> dict[str, Tensor]:
        """Everything in the input embedding but the words."""
        place = next(name for name, module in self.model.named_modules() if module is self.embedding)
        words = f"{place}.words."
        return {
            name: value
            for name, value in self.model.state_dict().items()
            if name.startswith(f"{place}.") and not name.startswith(words)
        }
