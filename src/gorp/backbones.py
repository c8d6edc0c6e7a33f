"""Language models by name, folder or hub id, and the layers of each architecture that learn by default."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from gorp.errors import InputError, nearest
from gorp.targets import describe_layers, linear_names

Kind = Literal["seq2seq", "causal"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_BUILT_IN = Path(__file__).parent / "models"


@dataclass(frozen=True)
class Backbone:
    """A loaded language model with its tokenizer."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def kind(self) -> Kind:
        """Whether the model encodes the prompt apart from the answer."""
        return kind_of(self.model)


def built_in_models() -> list[str]:
    """Names of the models that come with gorp."""
    return sorted(path.parent.name for path in _BUILT_IN.glob("*/config.json"))


def load_backbone(name_or_path: str, dtype: str = "float32") -> Backbone:
    """Load a sequence-to-sequence or causal language model; which of the two, its configuration says.

    Args:
        name_or_path: a built-in model, a folder, or a hub id. Code from the hub is never run.
        dtype: of the weights, float32 or bfloat16.

    Raises:
        InputError: there is no such model, it is damaged, or it is of another kind.
    """
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}{nearest(dtype, DTYPES)}; accepted: {', '.join(DTYPES)}")
    source = str(_BUILT_IN / name_or_path) if name_or_path in built_in_models() else name_or_path
    try:
        config = AutoConfig.from_pretrained(source)
        loader = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
        model = cast(PreTrainedModel, loader.from_pretrained(source, config=config, dtype=DTYPES[dtype]))
        tokenizer = cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(source))
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"model {name_or_path!r}: cannot be loaded ({reason}); accepted: "
            f"{', '.join(built_in_models()) or 'no built-in model'}, a folder with config.json, weights and tokenizer "
            f"of a sequence-to-sequence or causal model, or a hub id{nearest(name_or_path, built_in_models())}"
        ) from None
    return Backbone(name_or_path, model, tokenizer)


def kind_of(model: nn.Module) -> Kind:
    """``seq2seq`` for encoder-decoder models, else ``causal``; read from the model's configuration."""
    return "seq2seq" if getattr(getattr(model, "config", None), "is_encoder_decoder", False) else "causal"


def default_targets(model: nn.Module) -> tuple[list[str], list[str]]:
    """Layers that learn by default: (LoRA targets, full-rank targets), as runs of dotted name components.

    T5 types: SelfAttention q and v; EncDecAttention. LLaMA types (also Mistral, Qwen, Gemma, and any other with the
    same names): self-attention q and v; the MLP's gate.

    Raises:
        InputError: another architecture; the message lists what could be targeted.
    """
    components = {part for name in linear_names(model) for part in name.split(".")}
    if {"SelfAttention", "EncDecAttention"} <= components:
        return ["SelfAttention.q", "SelfAttention.v"], ["EncDecAttention"]
    if {"self_attn", "q_proj", "v_proj", "gate_proj"} <= components:
        return ["self_attn.q_proj", "self_attn.v_proj"], ["mlp.gate_proj"]
    raise InputError(
        f"no default target layers for {type(model).__name__}; name some in lora.targets or gorp.lora_targets and "
        f"gorp.full_rank_targets: {describe_layers(model)}"
    )
