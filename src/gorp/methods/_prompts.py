"""Learnt prompts as token ids beyond the vocabulary, so that a model's inputs stay ordinary ids."""

from __future__ import annotations

import torch
from peft import PromptEmbedding, PromptTuningConfig
from torch import Tensor, nn

from gorp.encoding import Batch, position_ids


class PromptedEmbedding(nn.Module):
    """Stands in for a model's input embedding: ids below ``first_id`` are words, ids from there on virtual tokens.

    Virtual tokens are counted over all prompts, in the order in which these were added.
    """

    def __init__(self, words: nn.Embedding) -> None:
        super().__init__()
        self.words = words
        self.prompts = nn.ParameterList()  # (length, width) each

    @property
    def first_id(self) -> int:
        """Id of the first virtual token."""
        return self.words.num_embeddings

    @property
    def weight(self) -> Tensor:
        """The words' table (vocabulary, width), for models that look at it."""
        return self.words.weight

    def add_prompt(self, length: int) -> None:
        """Add virtual tokens that start, in fp32, as words drawn at random from the vocabulary."""
        config = PromptTuningConfig(
            num_virtual_tokens=length,
            token_dim=self.words.embedding_dim,
            num_transformer_submodules=1,
            prompt_tuning_init="SAMPLE_VOCAB",
        )
        prompt = PromptEmbedding(config, self.words)  # type: ignore[no-untyped-call]  # peft
        self.prompts.append(prompt.embedding.weight)

    def forward(self, ids: Tensor) -> Tensor:
        """Embeddings (batch, length, width) of ids (batch, length), in the words' type."""
        if not len(self.prompts):
            return self.words(ids)
        virtual = ids >= self.first_id
        words = self.words(ids.masked_fill(virtual, 0))
        table = torch.cat(list(self.prompts))  # (virtual tokens, width)
        tokens = nn.functional.embedding((ids - self.first_id).clamp(min=0), table)
        return torch.where(virtual[..., None], tokens.to(words.dtype), words)


def put_in_front(batch: Batch, ids: Tensor) -> Batch:
    """A batch with ``ids`` (batch, virtual tokens) before every prompt, padding included; other inputs fit them."""
    mask = torch.cat([torch.ones_like(ids), batch["attention_mask"]], dim=1)
    longer = {**batch, "input_ids": torch.cat([ids, batch["input_ids"]], dim=1), "attention_mask": mask}
    if "position_ids" in batch:
        longer["position_ids"] = position_ids(mask)
    return longer
