"""How likely a generating model finds each of a list of answers: exactly, over all tokens of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from gorp.encoding import IGNORED, Batch, Encoder, pad_rows, position_ids


def log_likelihoods(
    model: PreTrainedModel, encoder: Encoder, inputs: Batch, answers: Sequence[Sequence[int]], at_once: int
) -> Tensor:
    """log p(answer | prompt), (prompts, answers), in nats and fp32, summed over an answer's tokens.

    A prompt is read once. What it leaves in the model's cache serves all answers, which go through the model together.

    Args:
        model: of `encoder`'s kind, sequence-to-sequence or causal, in evaluation mode.
        encoder: says how the model is asked.
        inputs: ``input_ids`` and ``attention_mask`` (prompts, length), padded as `Encoder.prompt_batch` does.
        answers: token ids, the closing one included.
        at_once: most answers, counted once for each prompt, that go through together; those of one prompt always do.
    """
    labels = pad_rows(answers, IGNORED, left=False).to(inputs["input_ids"].device)  # (answers, longest)
    rows = max(1, at_once // len(answers))
    states = model.get_encoder()(**inputs).last_hidden_state if encoder.kind == "seq2seq" else None
    scores = []
    for first in range(0, len(inputs["input_ids"]), rows):
        part = {name: value[first : first + rows] for name, value in inputs.items()}
        scores.append(_of_part(model, encoder, part, None if states is None else states[first : first + rows], labels))
    return torch.cat(scores)


def _of_part(model: PreTrainedModel, encoder: Encoder, inputs: Batch, states: Tensor | None, labels: Tensor) -> Tensor:
    """As above, all at once; ``states`` (prompts, length, width) are the encoder's where there is one."""
    mask, (count, longest) = inputs["attention_mask"], labels.shape
    prompts, length = mask.shape
    if states is None:
        given: dict[str, Any] = {"input_ids": inputs["input_ids"], "position_ids": position_ids(mask)}
        if encoder.keeps_last_logits:
            given["logits_to_keep"] = 1
    else:
        start = mask.new_full((prompts, 1), encoder.decoder_start)
        given = {"encoder_outputs": BaseModelOutput(last_hidden_state=states), "decoder_input_ids": start}
    read = model(**given, attention_mask=mask, use_cache=True)
    logits = read.logits[:, -1:].repeat_interleave(count, dim=0)  # (prompts x answers, 1, vocabulary)
    if longest > 1:
        read.past_key_values.batch_repeat_interleave(count)
        mask = mask.repeat_interleave(count, dim=0)
        tokens = labels[:, :-1].masked_fill(labels[:, :-1] == IGNORED, encoder.pad).repeat(prompts, 1)
        if states is None:
            mask = torch.cat([mask, torch.ones_like(tokens)], dim=1)
            given = {"input_ids": tokens, "position_ids": position_ids(mask)[:, length:]}
        else:
            states = states.repeat_interleave(count, dim=0)
            given = {"encoder_outputs": BaseModelOutput(last_hidden_state=states), "decoder_input_ids": tokens}
        rest = model(**given, attention_mask=mask, past_key_values=read.past_key_values, use_cache=True).logits
        logits = torch.cat([logits, rest], dim=1)
    losses = F.cross_entropy(
        logits.flatten(0, 1).float(), labels.repeat(prompts, 1).flatten(), ignore_index=IGNORED, reduction="none"
    )
    return -losses.view(prompts, count, longest).sum(dim=2)
