"""Encoders (sentence-embedding models) answer by matching: the label whose name lies nearest to the text.

The score of a label is the cosine of the text's and the label name's embedding over a temperature, softmax over the
labels of the row's task. An embedding is the mean over the tokens of the model's last layer, as sentence-transformers
takes it (Reimers and Gurevych 2019, Sentence-BERT, EMNLP). Names are embedded by the very model that learns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gorp.backbones import kind_of
from gorp.encoding import IGNORED, Encoder, Row
from gorp.errors import InputError
from gorp.tasks import Example, Task, encode, without_options

#: What cosines are divided by; 1 / 20, the default scale of sentence-transformers' ranking losses.
TEMPERATURE = 0.05

#: Score of a label that is not an option. Finite, so that a probability of 0 times its logarithm is 0 and not NaN.
NO_OPTION = torch.finfo(torch.float32).min

_NOT_OF_TEXT = ("labels", "option_ids", "option_mask", "is_option")


def make_encoder(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, max_source_length: int, max_target_length: int
) -> Encoder:
    """The `Encoder` that fits a model: a `LabelMatcher` where it does not generate."""
    matches = kind_of(model) == "encoder"
    return (LabelMatcher if matches else Encoder)(model, tokenizer, max_source_length, max_target_length)


class LabelMatcher(Encoder):
    """Turns examples into rows of text and label names, and rows into batches that score each text against its names.

    The text is the example's prompt without its list of options and its answer cue.

    Args:
        model: an encoder, without a head.
        tokenizer: must have a padding token.
        max_source_length: tokens of a text; the model's own limit holds where it is lower.
        max_target_length: tokens of a label's name.

    Raises:
        InputError: the model has a head, or the tokenizer no padding token.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_source_length: int = 512,
        max_target_length: int = 50,
    ) -> None:
        if model.base_model is not model:
            raise InputError(
                f"{type(model).__name__} is an encoder with a head; accepted: the bare encoder, "
                f"{type(model.base_model).__name__} (AutoModel loads it)"
            )
        self.most_tokens = most_tokens(model)
        longest = min(max_source_length, self.most_tokens, tokenizer.model_max_length)
        super().__init__(model, tokenizer, longest, max_target_length)
        self._names: dict[str, tuple[int, ...]] = {}

    @staticmethod
    def closing_id(tokenizer: PreTrainedTokenizerBase) -> int:
        """Nothing is generated, so nothing need close it: padding does."""
        if not isinstance(tokenizer.pad_token_id, int):
            raise InputError("the tokenizer has no padding token (pad_token), so texts could not share a batch")
        return tokenizer.pad_token_id

    def check(self, task: Task, virtual_tokens: int = 0) -> None:
        """Refuse a task of free answers, or with a row that does not fit, before anything is learnt.

        Raises:
            InputError: some of its rows have no options, or do not fit, or not behind so many virtual tokens.
        """
        if not all(row.options for row in task.rows):
            raise InputError(
                f"task {task.name!r} has no list of labels, and an encoder can only choose among labels; "
                "accepted: a task with labels, or a sequence-to-sequence or causal model"
            )
        room = self.most_tokens - virtual_tokens
        if any(len(row.prompt) > room for row in self.all_rows(task)):
            raise InputError(
                f"task {task.name!r} has texts too long for a model of {self.most_tokens} tokens, of which the method "
                f"will take {virtual_tokens}; accepted: training.max_source_length up to {room}"
            )

    def row(self, example: Example) -> Row:
        """The example in token ids; a long text is cut where it may be.

        Raises:
            InputError: the example has no options, or does not fit.
        """
        if not example.options:
            raise InputError(
                "an encoder can only choose among labels, and a row has none; accepted: rows of a task with labels. "
                f"The prompt ends: {example.prompt[-60:]!r}"
            )
        text = encode(without_options(example), self.tokenizer, self.max_source_length)
        return Row(tuple(text), self.name_ids(example.answer), self.option_ids(example))

    def name_ids(self, label: str) -> tuple[int, ...]:
        """Ids of a label's name, special tokens included."""
        if label not in self._names:
            longest = min(self._max_target_length, self.max_source_length)
            ids: list[int] = self.tokenizer(label, truncation=True, max_length=longest)["input_ids"]
            self._names[label] = tuple(ids)
        return self._names[label]

    def answer_ids(self, answer: str, example: Example) -> list[int]:
        """`name_ids`: a label is called the same in every row."""
        return list(self.name_ids(answer))

    def closed_answer(self, answer: str, example: Example) -> tuple[int, ...]:
        """`name_ids`, too: nothing closes a name."""
        return self.name_ids(answer)

    def training_batch(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Texts, the names of all labels that any row may be answered with (the classes), and which is the right one.

        Returns:
            ``input_ids``, ``attention_mask`` (batch, longest text); ``labels`` (batch, 1), the right class, -100 where
            a row's answer is none of its options; ``option_ids``, ``option_mask`` (classes, longest name);
            ``is_option`` (batch, classes).
        """
        distinct = dict.fromkeys(name for row in rows for name in row.options)
        classes = {name: index for index, name in enumerate(distinct)}
        names = self.prompt_batch(list(classes))
        right = [classes[row.answer] if row.answer in row.options else IGNORED for row in rows]
        return {
            **self.prompt_batch([row.prompt for row in rows]),
            "labels": torch.tensor(right)[:, None],
            "option_ids": names["input_ids"],
            "option_mask": names["attention_mask"],
            "is_option": torch.tensor([[name in row.options for name in classes] for row in rows]),
        }

    def forward_inputs(self, batch: Mapping[str, Tensor]) -> dict[str, Any]:
        """What the model's forward pass takes to embed the texts of a batch.

        Raises:
            InputError: a method has put so much before a text that the model cannot take it.
        """
        length = batch["attention_mask"].shape[1]
        if length > self.most_tokens:
            raise InputError(
                f"a text takes {length} tokens with what the method puts before it, the model {self.most_tokens}: "
                f"lower training.max_source_length by {length - self.most_tokens} or more"
            )
        return {name: value for name, value in batch.items() if name not in _NOT_OF_TEXT}

    def logits(self, model: Callable[..., Any], batch: Mapping[str, Tensor]) -> Tensor:
        """Scores (batch, 1, classes) of a batch of `training_batch`, `NO_OPTION` for what is no option of a row.

        Texts and names go through the model apart; a method's virtual tokens stand before the texts alone.
        """
        texts = embed(model, self.forward_inputs(batch))
        names = embed(model, {"input_ids": batch["option_ids"], "attention_mask": batch["option_mask"]})
        return match(texts, names, batch["is_option"])[:, None]


def embed(model: Callable[..., Any], inputs: Mapping[str, Any]) -> Tensor:
    """Embeddings (batch, width) in fp32 or wider: the mean of the last layer over the tokens that are not padding."""
    states = model(**inputs).last_hidden_state  # (batch, length, width)
    states = states.to(torch.promote_types(states.dtype, torch.float32))
    counts = inputs["attention_mask"].to(states.dtype)[..., None]
    pooled: Tensor = (states * counts).sum(dim=1) / counts.sum(dim=1)
    return pooled


def match(texts: Tensor, names: Tensor, is_option: Tensor) -> Tensor:
    """Cosine over temperature (batch, classes), `NO_OPTION` where a class is no option.

    Args:
        texts: embeddings (batch, width).
        names: embeddings (classes, width).
        is_option: (batch, classes).
    """
    cosines = F.cosine_similarity(texts[:, None], names[None], dim=-1)
    return (cosines / TEMPERATURE).masked_fill(~is_option, NO_OPTION)


def most_tokens(model: PreTrainedModel) -> int:
    """The longest input a model has positions for; some count them from behind the padding's."""
    positions = getattr(getattr(model, "embeddings", None), "position_embeddings", None)
    if isinstance(positions, torch.nn.Embedding):
        return positions.num_embeddings - (0 if positions.padding_idx is None else positions.padding_idx + 1)
    return int(model.config.max_position_embeddings)
