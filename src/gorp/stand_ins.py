"""What stands in for a model's weights, its tokenizer or a stream's rows where only shapes matter or are known."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from gorp.backbones import DTYPES, known_models, source_of, without_weights
from gorp.errors import InputError, nearest
from gorp.run_config import RunConfig
from gorp.tasks import Example, Task

TOKENS_PER_WORD = 4 / 3
ASSUMED_ROWS = {"train": 1000, "validation": 0, "test": 300}
ASSUMED_TASKS = 4
_LABELS = ("yes", "no")


def read_model_config(name: str) -> PreTrainedConfig:
    """The config.json of a built-in model, a folder, or a hub id; nothing else of it is asked for.

    Raises:
        InputError: there is none, or it cannot be made out.
    """
    try:
        return cast(PreTrainedConfig, AutoConfig.from_pretrained(source_of(name), trust_remote_code=False))
    except InputError:
        raise
    except Exception as error:  # whatever transformers and the hub raise on what they cannot make out
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"model {name!r}: no configuration to plan by ({reason}); accepted: {', '.join(known_models())}, a folder "
            f"with config.json, or a hub id{nearest(name, known_models())}"
        ) from None


def random_model(config: PreTrainedConfig, dtype: str) -> PreTrainedModel:
    """A model of a configuration with weights as they are drawn, on the default device, ready to be trained.

    Raises:
        InputError: transformers cannot build it.
    """
    try:
        model = without_weights(config, DTYPES[dtype])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(f"config.json: no model can be built of it ({error})") from None
    return model


def with_blocks(config: PreTrainedConfig, count: int) -> PreTrainedConfig:
    """The same configuration with so many blocks; of an encoder-decoder so many a side."""
    smaller = type(config).from_dict(config.to_dict())
    for key in ("num_hidden_layers", "num_decoder_layers", "encoder_layers", "decoder_layers"):
        if getattr(smaller, key, None) is not None:
            setattr(smaller, key, count)
    if getattr(smaller, "layer_types", None):
        smaller.layer_types = smaller.layer_types[:count]
    return smaller


def read_tokenizer(name: str, config: PreTrainedConfig) -> tuple[PreTrainedTokenizerBase, list[str]]:
    """The model's tokenizer, or what counts words for it, with what is assumed then."""
    with suppress(Exception):  # whatever transformers raises: then there is none, which is told
        found = AutoTokenizer.from_pretrained(source_of(name), trust_remote_code=False)
        if found.eos_token_id is not None or found.pad_token_id is not None:
            return cast(PreTrainedTokenizerBase, found), []
    assumed = f"tokenizer: none beside the model; a word is taken for {TOKENS_PER_WORD:.2f} tokens"
    return cast(PreTrainedTokenizerBase, WordCounter(config)), [assumed]


class WordCounter:
    """Stands in for a tokenizer: as many ids as a text would have tokens, all of them the same."""

    def __init__(self, config: PreTrainedConfig) -> None:
        self.eos_token_id = _first(getattr(config, "eos_token_id", None), 1)
        self.pad_token_id = _first(getattr(config, "pad_token_id", None), 0)
        self.chat_template = None
        self.model_max_length = int(getattr(config, "max_position_embeddings", None) or 2**31)
        self._word = min(3, int(config.get_text_config().vocab_size) - 1)

    def __call__(
        self,
        text: str,
        add_special_tokens: bool = True,
        truncation: bool = False,
        max_length: int | None = None,
        **_: Any,
    ) -> dict[str, list[int]]:
        """``input_ids`` of a text; with ``add_special_tokens`` one more."""
        words = len(text.split())
        # texts that differ should differ in ids, too: options are told apart by them
        ids = [self._word + sum(map(ord, text)) % 7] * round(words * TOKENS_PER_WORD)
        ids += [self.eos_token_id] if add_special_tokens else []
        return {"input_ids": ids[:max_length] if truncation else ids}

    def batch_decode(self, ids: Sequence[Any], **_: Any) -> list[str]:
        """Nothing, for each row."""
        return [""] * len(ids)

    def get_vocab(self) -> dict[str, int]:
        """No words."""
        return {}


class Mute:
    """A tokenizer that decodes nothing: what is generated without numbers is no text."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer: Any = tokenizer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the tokenizer."""
        return self._tokenizer(*args, **kwargs)

    def batch_decode(self, ids: Sequence[Any], **_: Any) -> list[str]:
        """Nothing, for each row."""
        return [""] * len(ids)


def assumed_tasks(config: RunConfig, count: int) -> list[Task]:
    """Tasks of rows as long as the configuration lets them be, two labels each."""
    data = config.data
    wanted = {"train": data.train_rows, "validation": data.validation_rows, "test": data.test_rows}
    words = max(1, int((config.training.max_source_length - 8) / TOKENS_PER_WORD))
    passage = " ".join(["word"] * words)
    row = Example(passage, _LABELS[0], (0, len(passage)), options=_LABELS)
    sizes = {split: ASSUMED_ROWS[split] if rows is None else rows for split, rows in wanted.items()}
    rows = {split: [row] * size for split, size in sizes.items()}
    return [Task(f"task-{index + 1}", rows["train"], rows["validation"], rows["test"]) for index in range(count)]


def _first(value: int | Sequence[int] | None, otherwise: int) -> int:
    if value is None:
        return otherwise
    return value if isinstance(value, int) else int(value[0])


def available_memory(device: torch.device) -> int:
    """Bytes that are free on a device now."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):  # not Linux: all there is
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
