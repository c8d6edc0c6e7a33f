"""General text: read from a file, and made into rows of the objective that a model was pretrained on.

A sequence-to-sequence model tells the spans that were cut out of a text (Raffel et al. 2020, T5, JMLR), a causal one
the next token. An encoder without a head has no objective: its rows are the texts.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import count, takewhile
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gorp.encoding import IGNORED, Encoder, Row, answer_loss
from gorp.errors import InputError, nearest
from gorp.evaluation import check_finite, evaluating
from gorp.methods.base import Method
from gorp.tasks.readers import SUFFIXES, read_records

CORRUPTED = 0.15
"""Share of a text's tokens that is cut out, as in T5."""

MEAN_SPAN = 3.0
SHORTEST = 8
"""Tokens of a piece of text that is worth a row."""


def read_texts(path: Path, column: str = "text") -> list[str]:
    """The texts of a file: a column of its rows, or of a ``.txt`` file the paragraphs between blank lines.

    Raises:
        InputError: the file cannot be read, is empty, or a row has no text in that column.
    """
    if path.name.endswith(".txt"):
        try:
            paragraphs = [part.strip() for part in path.read_text(encoding="utf-8-sig").split("\n\n")]
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read ({error}); accepted: text in UTF-8") from None
        texts = [part for part in paragraphs if part]
        if not texts:
            raise InputError(f"{path}: holds no text")
        return texts
    if not path.name.endswith(SUFFIXES):
        raise InputError(f"{path}: not a file that can be read; accepted: .txt, {', '.join(SUFFIXES)}")
    texts = []
    for record in read_records(path):
        if column not in record.values:
            there = ", ".join(map(str, record.values)) or "none"
            raise InputError(
                f"{record.where}: has no column {column!r}{nearest(column, map(str, record.values))}; columns: {there}"
            )
        text = record.values[column]
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"{record.where}: column {column!r} must be a text that is not empty, found {text!r:.60}")
        texts.append(text)
    return texts


def pretraining_rows(
    encoder: Encoder, texts: Sequence[str], length: int, seed: int = 0, source: str = "the text"
) -> list[Row]:
    """Texts, cut into pieces of ``length`` tokens, as rows of the model's pretraining objective.

    Args:
        encoder: of the model.
        texts: at least one.
        length: tokens of a piece, at least 8. Pieces of fewer than 8 are left out; an encoder sees the first one alone.
        seed: of the spans that are cut out.
        source: names the texts in messages.

    Raises:
        InputError: no text is long enough, or the tokenizer has no sentinels to stand for what is cut out.
    """
    tokenizer = encoder.tokenizer
    if encoder.kind == "encoder":
        whole = [tokenizer(text, truncation=True, max_length=length)["input_ids"] for text in texts]
        rows = [Row(tuple(ids), ()) for ids in whole if len(ids) >= SHORTEST]
    else:
        pieces = [piece for text in texts for piece in _pieces(tokenizer, text, length)]
        if encoder.kind == "seq2seq":
            sentinels = sentinel_ids(tokenizer)
            generator = np.random.default_rng(seed)
            rows = [corrupt_spans(piece, sentinels, encoder.end, generator) for piece in pieces]
        else:
            opening = _opening(tokenizer)
            rows = [Row((opening or piece)[:1], piece if opening else piece[1:]) for piece in pieces]
    if not rows:
        raise InputError(f"{source}: no text has {SHORTEST} tokens or more; accepted: running text")
    return rows


def sentinel_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """Ids of ``<extra_id_0>``, ``<extra_id_1>`` ..., which stand for what is cut out of a text.

    Raises:
        InputError: the vocabulary has none, so that the model was pretrained otherwise.
    """
    vocabulary = tokenizer.get_vocab()
    names = takewhile(vocabulary.__contains__, (f"<extra_id_{number}>" for number in count()))
    if ids := tuple(vocabulary[name] for name in names):
        return ids
    raise InputError(
        "the tokenizer has no sentinels (<extra_id_0> ...), so this sequence-to-sequence model was not pretrained as "
        "T5 was, which is the one way that is known here; accepted: T5 types, causal models, encoders"
    )


def corrupt_spans(tokens: Sequence[int], sentinels: Sequence[int], end: int, generator: np.random.Generator) -> Row:
    """A text with spans cut out, each replaced by the next sentinel; the answer is the sentinels, each with its span.

    Spans have `MEAN_SPAN` tokens in the mean and hold `CORRUPTED` of the text, which begins with a token that is kept
    and ends with one that is cut out. Prompt and answer close with ``end``.

    Args:
        tokens: at least two.
        sentinels: at least one; as many spans are cut out at most.
    """
    cut = min(max(1, round(CORRUPTED * len(tokens))), len(tokens) - 1)
    spans = min(max(1, round(cut / MEAN_SPAN)), len(sentinels), cut, len(tokens) - cut)
    prompt: list[int] = []
    answer: list[int] = []
    place = 0
    parts = zip(_split(len(tokens) - cut, spans, generator), _split(cut, spans, generator), sentinels, strict=False)
    for kept, gone, sentinel in parts:
        prompt += [*tokens[place : place + kept], sentinel]
        place += kept
        answer += [sentinel, *tokens[place : place + gone]]
        place += gone
    return Row((*prompt, end), (*answer, end))


@torch.no_grad()
def text_loss(
    model: PreTrainedModel, encoder: Encoder, rows: Sequence[Row], batch_size: int = 16, method: Method | None = None
) -> float:
    """Mean cross entropy per answer token of a model on rows of its pretraining objective, in nats.

    Args:
        model: sequence-to-sequence or causal.
        encoder: the model's.
        rows: of `pretraining_rows`.
        batch_size: rows per forward pass; the loss does not depend on it.
        method: that the model learns under, if any: it may prepare a batch.

    Raises:
        InputError: the model is an encoder, which has no such loss.
        GorpError: the loss is not finite.
    """
    if encoder.kind == "encoder":
        raise InputError("an encoder without a head has no loss on text; accepted: a model that generates")
    total, tokens = torch.zeros((), dtype=torch.float64), 0
    with evaluating(model):
        for first in range(0, len(rows), batch_size):
            batch = encoder.training_batch(rows[first : first + batch_size])
            on_device = {name: value.to(model.device) for name, value in batch.items()}
            prepared = method.prepare(on_device) if method else on_device
            total += answer_loss(encoder.logits(model, prepared), prepared["labels"]).double().cpu()
            tokens += int((batch["labels"] != IGNORED).sum())
    check_finite(total[None])
    return float(total) / tokens


def _pieces(tokenizer: PreTrainedTokenizerBase, text: str, length: int) -> list[tuple[int, ...]]:
    ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    pieces = (tuple(ids[first : first + length]) for first in range(0, len(ids), length))
    return [piece for piece in pieces if len(piece) >= SHORTEST]


def _opening(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The token that the tokenizer puts before every text, if it does."""
    first = tokenizer("a")["input_ids"][0]
    return (first,) if first == tokenizer.bos_token_id else ()


def _split(total: int, parts: int, generator: np.random.Generator) -> list[int]:
    """A number as the sum of so many positive ones, all ways alike likely."""
    places = sorted(generator.choice(total - 1, parts - 1, replace=False) + 1)
    return [int(part) for part in np.diff([0, *places, total])]
