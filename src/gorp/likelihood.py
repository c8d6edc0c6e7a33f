"""How likely a generating model finds each answer of a list of its own per prompt: exactly, over all tokens of each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from gorp.encoding import IGNORED, Batch, Encoder, pad_rows, position_ids
from gorp.errors import InputError

Candidates = Sequence[Sequence[int]]
"""Answers to one prompt, in token ids, the closing one included."""


def log_likelihoods(
    model: PreTrainedModel, encoder: Encoder, inputs: Batch, answers: Sequence[Candidates], at_once: int
) -> list[list[float]]:
    """log p(answer | prompt) of each prompt's own answers, in nats, summed over an answer's tokens in fp32.

    A prompt is read once. What it leaves in the model's cache serves all its answers, which go through together.

    Args:
        model: of `encoder`'s kind, sequence-to-sequence or causal, in evaluation mode.
        encoder: says how the model is asked.
        inputs: ``input_ids`` and ``attention_mask`` (prompts, length), padded as `Encoder.prompt_batch` does.
        answers: of each prompt, at least one.
        at_once: most answers that go through together; those of one prompt always do.
    """
    states = model.get_encoder()(**inputs).last_hidden_state if encoder.kind == "seq2seq" else None
    scores: list[list[float]] = []
    while len(scores) < len(answers):
        first = last = len(scores)
        while last < len(answers) and (last == first or sum(map(len, answers[first : last + 1])) <= at_once):
            last += 1
        part = {name: value[first:last] for name, value in inputs.items()}
        found = _together(model, encoder, part, None if states is None else states[first:last], answers[first:last])
        scores += [each.tolist() for each in found.split([len(own) for own in answers[first:last]])]
    return scores


def _together(
    model: PreTrainedModel, encoder: Encoder, inputs: Batch, states: Tensor | None, answers: Sequence[Candidates]
) -> Tensor:
    """log p (pairs,) of all answers, prompt by prompt; ``states`` (prompts, length, width) are an encoder's."""
    mask = inputs["attention_mask"]
    prompt_of = torch.tensor([prompt for prompt, own in enumerate(answers) for _ in own], device=mask.device)
    labels = pad_rows([answer for own in answers for answer in own], IGNORED, left=False).to(mask.device)
    read = _forward(model, encoder, inputs["input_ids"], mask, states, None)
    logits = read.logits[prompt_of, -1:]  # (pairs, 1, vocabulary)
    if labels.shape[1] > 1:
        read.past_key_values.batch_select_indices(prompt_of)
        tokens = labels[:, :-1].masked_fill(labels[:, :-1] == IGNORED, encoder.pad)
        states = None if states is None else states[prompt_of]
        rest = _forward(model, encoder, tokens, mask[prompt_of], states, read.past_key_values).logits
        logits = torch.cat([logits, rest], dim=1)
    losses = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="none")
    return -losses.view(labels.shape).sum(dim=1)


def _forward(
    model: PreTrainedModel, encoder: Encoder, tokens: Tensor, mask: Tensor, states: Tensor | None, cache: Any
) -> Any:
    """The model on prompts (rows, length) with their mask; with the cache these left, on answers' tokens (rows, n)."""
    if states is not None:
        start = mask.new_full((len(mask), 1), encoder.decoder_start)
        given = {
            "encoder_outputs": BaseModelOutput(last_hidden_state=states),
            "decoder_input_ids": start if cache is None else tokens,
        }
    else:
        mask = mask if cache is None else torch.cat([mask, torch.ones_like(tokens)], dim=1)
        given = {"input_ids": tokens, "position_ids": position_ids(mask)[:, -tokens.shape[1] :]}
        if cache is None and encoder.keeps_last_logits:
            given["logits_to_keep"] = 1
    return model(**given, attention_mask=mask, past_key_values=cache, use_cache=True)


@torch.inference_mode()
def check_likelihoods(model: PreTrainedModel, encoder: Encoder) -> None:
    """Refuse a model whose cache cannot serve several answers, before anything is learnt.

    Raises:
        InputError: it is one.
    """
    inputs = encoder.prompt_batch([[encoder.end] * 3])
    on_device = {name: inputs[name].to(model.device) for name in ("input_ids", "attention_mask")}
    try:
        log_likelihoods(model, encoder, on_device, [[[encoder.end] * 3, [encoder.end] * 2]], at_once=2)
    except (AttributeError, IndexError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        raise InputError(
            f"evaluation.answers 'options' reads a prompt once for all its options, which {type(model).__name__} does "
            f"not let it ({type(error).__name__}: {error}); accepted: 'generated'"
        ) from None
