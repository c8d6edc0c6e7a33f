"""Examples as token ids, and token ids as padded batches, for sequence-to-sequence and causal models alike.

Encoders, which do not generate, are in `gorp.matching`.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gorp.backbones import kind_of
from gorp.errors import InputError
from gorp.tasks import Example, Task, encode

Batch = Mapping[str, Tensor]

IGNORED = -100
_CUE = "Answer:"


@dataclass(frozen=True)
class Row:
    """One example in token ids; the answer closes with the end-of-sequence token.

    ``options`` are the answers there are, where the model chooses among them.
    """

    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    options: tuple[tuple[int, ...], ...] = ()

    def unanswered(self) -> Row:
        """The row without an answer: no token of it counts in a loss."""
        return replace(self, answer=(IGNORED,))


class Encoder:
    """Turns examples into rows and rows into batches that fit the model.

    Args:
        model: seq2seq or causal.
        tokenizer: must have an end-of-sequence token; where it has no padding token, that one pads.
        max_source_length: tokens of a prompt.
        max_target_length: tokens of an answer.

    Raises:
        InputError: the tokenizer has no end-of-sequence token.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        max_source_length: int = 512,
        max_target_length: int = 50,
    ) -> None:
        self.tokenizer = tokenizer
        self.kind = kind_of(model)
        self.end = self.closing_id(tokenizer)
        known = cast(torch.nn.Embedding, model.get_input_embeddings()).num_embeddings
        pad = self.end if tokenizer.pad_token_id is None else _first_id(tokenizer.pad_token_id)
        self.pad = pad if pad < known else self.end  # one that was added to the tokenizer alone
        start = getattr(model.config, "decoder_start_token_id", None)
        self.decoder_start = self.pad if start is None else _first_id(start)
        self.keeps_last_logits = "logits_to_keep" in inspect.signature(model.forward).parameters
        self.max_source_length = max_source_length
        self._max_target_length = max_target_length
        self._options: dict[tuple[tuple[str, ...], bool, bool], tuple[tuple[int, ...], ...]] = {}

    @staticmethod
    def closing_id(tokenizer: PreTrainedTokenizerBase) -> int:
        """Id of the token that closes an answer."""
        if tokenizer.eos_token_id is None:
            raise InputError("the tokenizer has no end-of-sequence token (eos_token), so no answer could end")
        return _first_id(tokenizer.eos_token_id)

    def check(self, task: Task, virtual_tokens: int = 0) -> None:
        """Refuse a task before anything is learnt, and not hours later when its turn comes.

        Args:
            task: to be learnt, or measured.
            virtual_tokens: that a method will put before its prompts. Generating models have no limit to them.

        Raises:
            InputError: the model cannot learn it, for what it is, or one of its rows does not fit, or an option of one
                would be cut, or be the same as another to the model.
        """
        self.all_rows(task)
        options = {option: row for row in task.rows for option in row.options}
        for option, row in options.items():
            if (length := len(self.answer_ids(option, row)) + 1) > self._max_target_length:
                raise InputError(
                    f"task {task.name!r}: the answer {option!r} takes {length} tokens with the end, more than "
                    f"training.max_target_length = {self._max_target_length}; accepted: {length} or more"
                )

    def cut_answers(self, task: Task) -> list[int]:
        """Tokens, with the end, of each free answer that a task trains on and that does not fit whole."""
        free = (row for row in task.train if not row.options)
        lengths = (len(self.answer_ids(row.answer, row)) + 1 for row in free)
        return [length for length in lengths if length > self._max_target_length]

    def all_rows(self, task: Task) -> list[Row]:
        """`row` of every example of a task.

        Raises:
            InputError: one does not fit; the message names the task.
        """
        examples = task.rows
        try:
            for example in examples:
                self.option_ids(example)
            return self.rows(examples)
        except InputError as error:
            raise InputError(f"task {task.name!r}: {error}") from None

    def generating(self, max_new_tokens: int) -> dict[str, int | bool]:
        """What ``generate`` is to be given: greedy, until an answer is closed.

        What else a model's own settings ask for, such as a penalty on repetitions, holds here as where it is exported.
        """
        start = {"decoder_start_token_id": self.decoder_start} if self.kind == "seq2seq" else {}
        ends = {"eos_token_id": self.end, "pad_token_id": self.pad}
        return {"max_new_tokens": max_new_tokens, "do_sample": False, "num_beams": 1, **ends, **start}

    def row(self, example: Example) -> Row:
        """The example in token ids; a long prompt is cut where it may be, a long answer at its end."""
        prompt = encode(example, self.tokenizer, self.max_source_length)
        return Row(tuple(prompt), self.closed_answer(example.answer, example))

    def rows(self, examples: Sequence[Example]) -> list[Row]:
        """`row` of each."""
        return [self.row(example) for example in examples]

    def answer_ids(self, answer: str, example: Example) -> list[int]:
        """Ids of an answer to ``example``, without the end: a causal model says it as it would follow the cue.

        That is after a blank, if the prompt does not end in one.
        """
        if self.kind == "seq2seq" or (example.messages and self.tokenizer.chat_template):
            return _ids(self.tokenizer, answer)
        follows = answer if _ends_in_blank(example) else f" {answer}"
        cue, whole = _ids(self.tokenizer, _CUE), _ids(self.tokenizer, f"{_CUE}{follows}")
        return whole[len(cue) :] if whole[: len(cue)] == cue else _ids(self.tokenizer, follows)

    def closed_answer(self, answer: str, example: Example) -> tuple[int, ...]:
        """`answer_ids`, cut where they are too long, and the end."""
        return (*self.answer_ids(answer, example)[: self._max_target_length - 1], self.end)

    def option_ids(self, example: Example) -> tuple[tuple[int, ...], ...]:
        """`closed_answer` of each of the example's options.

        Raises:
            InputError: two options cannot be told apart.
        """
        key = (example.options, bool(example.messages), _ends_in_blank(example))
        if key not in self._options:
            known: dict[tuple[int, ...], str] = {}
            for option in example.options:
                ids = self.closed_answer(option, example)
                if ids in known:
                    raise InputError(
                        f"options {known[ids]!r} and {option!r} are the same in token ids, "
                        f"{self._max_target_length} at most (training.max_target_length); accepted: options that differ"
                    )
                known[ids] = option
            self._options[key] = tuple(known)
        return self._options[key]

    def training_batch(self, rows: Sequence[Row]) -> dict[str, Tensor]:
        """Inputs of a forward pass and ``labels`` (batch, longest answer), -100 where nothing is to be answered.

        Causal rows are padded on the left, so that all answers end together: ``labels`` stands under the last columns
        of the model's logits.
        """
        if self.kind == "causal":
            batch = self._pad_left([(*row.prompt, *row.answer)[:-1] for row in rows])
            batch["labels"] = pad_rows([row.answer for row in rows], IGNORED, left=True)
            return batch
        batch = self.prompt_batch([row.prompt for row in rows])
        batch["labels"] = pad_rows([row.answer for row in rows], IGNORED, left=False)
        batch["decoder_input_ids"] = pad_rows(
            [(self.decoder_start, *row.answer[:-1]) for row in rows], self.pad, left=False
        )
        return batch

    def forward_inputs(self, batch: Batch) -> dict[str, Any]:
        """What the model's forward pass takes, of a training batch that a method may have prepared."""
        return {**{name: value for name, value in batch.items() if name != "labels"}, "use_cache": False}

    def logits(self, model: Callable[..., Any], batch: Batch) -> Tensor:
        """Logits (batch, longest answer, vocabulary) of the answers of a batch of `training_batch`.

        Args:
            model: that this encoder was made for, bare or wrapped, or what stands in for it.
            batch: as a method may have prepared it.
        """
        inputs, length = self.forward_inputs(batch), batch["labels"].shape[1]
        if "decoder_input_ids" not in inputs and self.keeps_last_logits:
            inputs["logits_to_keep"] = length
        logits: Tensor = model(**inputs).logits
        return logits[:, -length:]

    def prompt_batch(self, prompts: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        """``input_ids`` and ``attention_mask`` (batch, longest prompt); causal prompts end together."""
        if self.kind == "causal":
            return self._pad_left(prompts)
        lengths = [len(prompt) for prompt in prompts]
        return {"input_ids": pad_rows(prompts, self.pad, left=False), "attention_mask": _mask(lengths, left=False)}

    def _pad_left(self, sequences: Sequence[Sequence[int]]) -> dict[str, Tensor]:
        mask = _mask([len(sequence) for sequence in sequences], left=True)
        return {
            "input_ids": pad_rows(sequences, self.pad, left=True),
            "attention_mask": mask,
            "position_ids": position_ids(mask),
        }


def position_ids(attention_mask: Tensor) -> Tensor:
    """Positions (batch, length) counted over the tokens that are not padding, 0 on padding before the first."""
    return (attention_mask.cumsum(dim=1) - 1).clamp(min=0)


def answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy in fp32 summed over answer tokens; ``labels`` (batch, longest answer) as in a training batch."""
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1).float(), labels.flatten(), ignore_index=IGNORED, reduction="sum"
    )


def _ids(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    ids: list[int] = tokenizer(text, add_special_tokens=False)["input_ids"]
    return ids


def _ends_in_blank(example: Example) -> bool:
    return example.prompt[-1:].isspace()


def _first_id(ids: int | Sequence[int]) -> int:
    return ids if isinstance(ids, int) else int(ids[0])


def pad_rows(sequences: Sequence[Sequence[int]], value: int, left: bool) -> Tensor:
    """Sequences as rows (sequences, longest), a value in what the shorter ones leave, before them or behind."""
    width = max(map(len, sequences))
    padding = [[value] * (width - len(sequence)) for sequence in sequences]
    return torch.tensor(
        [[*pad, *sequence] if left else [*sequence, *pad] for pad, sequence in zip(padding, sequences, strict=True)]
    )


def _mask(lengths: Sequence[int], left: bool) -> Tensor:
    return pad_rows([[1] * length for length in lengths], 0, left)
