"""l2p: a pool of prompts shared by all tasks, from which every input takes those whose keys are most like it."""

from __future__ import annotations

from typing import Any, cast

import torch
from pydantic import Field, ValidationInfo, field_validator
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from gorp.encoding import IGNORED, Batch, position_ids
from gorp.evaluation import evaluating
from gorp.methods._prompts import put_in_front
from gorp.methods.base import MethodOptions
from gorp.methods.prompt_tuning import PromptTuning
from gorp.space import GradientSpace


class L2P(PromptTuning):
    """Learning to Prompt, Wang et al. 2022, with the defaults of its experiments.

    The query of an input is the frozen model's view of it, in the paper the class token of a vision transformer; here
    it is the mean, over the tokens of the prompt and never of the answer, of what the encoder puts out, or, in a causal
    model, of the last hidden states. The ``top`` keys most like it by cosine choose the prompts, the best first, and
    are pulled towards it. Not built: the paper's optional penalty on prompts that were chosen often.
    """

    name = "l2p"
    source = "Wang et al. 2022, Learning to Prompt for Continual Learning (CVPR)"
    keeps = "the pool of prompts and keys, which all tasks share"
    costs = "longer inputs, and a second forward pass of each; a small pool is all that learns"

    class Options(MethodOptions):
        """Size of the pool and use of it."""

        pool: int = Field(10, ge=1, description="prompts in the pool, M in the paper")
        length: int = Field(5, ge=1, description="virtual tokens of a prompt, L_p in the paper")
        top: int = Field(5, ge=1, description="prompts put before an input, N in the paper; at most pool")
        pull: float = Field(0.5, ge=0, description="weight of the pull of keys towards queries, lambda in the paper")

        @field_validator("top")
        @classmethod
        def _within_the_pool(cls, top: int, info: ValidationInfo) -> int:
            if "pool" in info.data and top > info.data["pool"]:
                raise ValueError(f"at most pool ({info.data['pool']}) prompts can be chosen")
            return top

    _keys: nn.Parameter  # (pool, hidden size)
    _distance: Tensor  # of the batch at hand

    def attach(self, model: nn.Module, space: GradientSpace | None = None) -> None:
        """Put the pool into the input embedding: prompts start as random words, keys as random directions."""
        super().attach(model, space)
        self.embedding.add_prompt(self.options.pool * self.options.length)
        keys = torch.randn(self.options.pool, cast(PreTrainedModel, model).config.hidden_size)
        self._keys = nn.Parameter(keys.to(self.embedding.weight.device))
        self.embedding.register_parameter("keys", self._keys)

    def prepare(self, batch: Batch) -> Batch:
        """Put the chosen prompts in front; how far their keys are is kept for `penalty`."""
        length = self.options.length
        likeness = F.cosine_similarity(self.query(batch)[:, None], self._keys, dim=-1)  # (batch, pool)
        best = likeness.topk(self.options.top, dim=1)
        self._distance = (1 - best.values).sum(dim=1).mean()
        tokens = best.indices[..., None] * length + torch.arange(length, device=likeness.device)  # (batch, top, length)
        return put_in_front(batch, self.embedding.first_id + tokens.flatten(start_dim=1))

    def virtual_tokens(self, tasks: int) -> int:
        """The chosen prompts, however many tasks there are."""
        return int(self.options.top * self.options.length)

    def penalty(self, batch: Batch, logits: Tensor) -> Tensor:
        """pull sum (1 - cos(query, key)) over the chosen keys, mean over the batch."""
        return self.options.pull * self._distance

    @torch.no_grad()
    def query(self, batch: Batch) -> Tensor:
        """The frozen model's view (batch, hidden size) of the prompts alone, fp32, without dropout."""
        model = cast(PreTrainedModel, self.model)
        inputs: dict[str, Any] = {name: batch[name] for name in ("input_ids", "attention_mask")}
        if self.encoder.kind == "causal":
            reader = model.base_model
            inputs |= {"position_ids": position_ids(batch["attention_mask"]), "use_cache": False}
        else:
            reader = model.get_encoder() if self.encoder.kind == "seq2seq" else model
        with evaluating(model):
            states = reader(**inputs).last_hidden_state  # (batch, length, hidden size)
        mask = self._prompt_mask(batch)[..., None]  # (batch, length, 1)
        return states.float().masked_fill(~mask, 0.0).sum(dim=1) / mask.sum(dim=1)

    def _prompt_mask(self, batch: Batch) -> Tensor:
        """Where the prompt is: (batch, length), neither padding nor, at the end of a causal row, its answer."""
        mask = batch["attention_mask"].bool()
        if self.encoder.kind != "causal" or "labels" not in batch:
            return mask
        answered = (batch["labels"] != IGNORED).sum(dim=1, keepdim=True) - 1  # the last token is never put in
        columns = torch.arange(mask.shape[1], device=mask.device)
        return mask & (columns < mask.shape[1] - answered)
