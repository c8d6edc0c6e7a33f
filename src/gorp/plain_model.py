"""What a run learnt as a plain transformers model: every layer an ``nn.Linear`` again, under its own name."""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor
from transformers import GenerationConfig, PreTrainedModel

from gorp._injection import ADAPTER, holder
from gorp._quantized import dequantized, quantized_layers
from gorp._rounding import split
from gorp.backbones import DTYPES, load_pooler
from gorp.encoding import Encoder
from gorp.errors import InputError
from gorp.learnt_model import LearntModel

_DRAWING = ("temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff")
_BEAMS = ("early_stopping", "length_penalty")
_CACHES = ("cache_implementation", "cache_config")


@torch.no_grad()
def plain_model(learnt: LearntModel, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """A model of the base's class with what was learnt merged into its weights; only good for being saved.

    Args:
        learnt: the run's.
        dtype: of all weights; as the run holds each if not given, those in 4 or 8 bits as what it computes in.

    Raises:
        InputError: the method keeps what a plain model has no place for, or a weight learnt apart from one that it is
            tied to.
    """
    base = learnt.learning.base
    tensors = _merged(learnt, dtype)
    config = copy.deepcopy(base.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    with torch.device("meta"):
        model: PreTrainedModel = type(base)(config)
    if getattr(base, "pooler", model) is None:  # left out when the base was loaded
        pooler = load_pooler(learnt.source)
        model.pooler = pooler  # type: ignore[assignment]  # None is how transformers says that there is none
        state = {} if pooler is None else pooler.state_dict()
        tensors |= {f"pooler.{name}": rounded(value, dtype or _dtype(learnt)) for name, value in state.items()}
    if odd := sorted(tensors.keys() ^ model.state_dict().keys()):
        raise InputError(
            f"method {learnt.learning.method.name!r} keeps {odd[0]!r}, which a plain model has no place for; "
            "gorp generate and gorp evaluate answer with the run itself"
        )
    model.load_state_dict(tensors, assign=True)
    model.tie_weights()
    for name, value in model.state_dict().items():
        if value.data_ptr() != tensors[name].data_ptr() and not value.equal(tensors[name]):
            raise InputError(
                f"{name} is tied to a weight that learnt apart from it, and a plain model holds both as one; "
                "accepted: --adapter"
            )
    if model.can_generate():
        model.generation_config = _ending(base.generation_config, learnt.learning.encoder)
    return model


def has_factors(learnt: LearntModel) -> bool:
    """Whether LoRA factors that are not merged stand beside a weight."""
    base = learnt.learning.base
    layers = (base.get_submodule(name) for name in learnt.learning.method.layer_names())
    return any(_acts(layer.lora_B[ADAPTER]) for layer in layers if isinstance(layer, LoraLayer))


def rounded(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Floating numbers in a dtype, bf16 rounded as a run rounds the weights that it keeps exactly."""
    if tensor.dtype is torch.float32 and dtype is torch.bfloat16:
        return split(tensor)[0]
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _merged(learnt: LearntModel, dtype: torch.dtype | None) -> dict[str, Tensor]:
    """The state of the model, on the CPU, with all that was learnt merged and nothing quantised."""
    base = learnt.learning.base
    weights = learnt.learning.method.effective_weights()
    linears = {name: holder(base.get_submodule(name)) for name in weights}
    learning = tuple(f"{name}." for name in weights)
    for name, layer in quantized_layers(base):
        if not name.startswith(learning):
            linears[name], weights[name] = layer, dequantized(layer)
    replaced = tuple(f"{name}." for name in linears)
    tensors = {name: value for name, value in base.state_dict().items() if not name.startswith(replaced)}
    tensors |= {f"{name}.bias": layer.bias for name, layer in linears.items() if layer.bias is not None}
    merged = {name: rounded(value, dtype or value.dtype) for name, value in tensors.items()}
    for name, weight in weights.items():
        stored = linears[name].weight.dtype
        merged[f"{name}.weight"] = rounded(weight, dtype or (stored if stored.is_floating_point else _dtype(learnt)))
    return {name: value.detach().cpu() for name, value in merged.items()}


def _acts(factor: Any) -> bool:
    """Whether a LoRA factor that starts at zero has left it."""
    return bool(factor.weight.any())


def _dtype(learnt: LearntModel) -> torch.dtype:
    """What the base model was loaded in."""
    return DTYPES[learnt.config.dtype]


def _ending(base: GenerationConfig, encoder: Encoder) -> GenerationConfig:
    """The base's settings of generation, with the token that the run closes answers with among those that end one."""
    settings = copy.deepcopy(base)
    ends = cast("int | list[int] | None", settings.eos_token_id)
    known = [] if ends is None else [ends] if isinstance(ends, int) else list(ends)
    if encoder.end not in known:
        settings.eos_token_id = [*known, encoder.end] if known else encoder.end
    if settings.pad_token_id is None or settings.pad_token_id < 0:
        settings.pad_token_id = encoder.pad
    for setting in _idle(settings):
        setattr(settings, setting, None)
    return settings


def _idle(settings: GenerationConfig) -> list[str]:
    """Settings that do nothing beside the others, such as a temperature where nothing is drawn.

    transformers loads a model with these, but never saves it.
    """
    return [
        *(() if settings.do_sample else _DRAWING),
        *(_BEAMS if (settings.num_beams or 1) == 1 else ()),
        *(_CACHES if settings.use_cache is False else ()),
        *(() if settings.return_dict_in_generate else settings.extra_output_flags),
    ]
