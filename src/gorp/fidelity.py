"""How near an export comes to the model of its run, in sentences."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from gorp._injection import holder
from gorp._quantized import quantized_layers
from gorp._rounding import REMAINDER
from gorp.backbones import DTYPES
from gorp.learnt_model import LearntModel
from gorp.lora_adapter import Adapter
from gorp.plain_model import has_factors


def of_model(learnt: LearntModel, dtype: torch.dtype | None) -> list[str]:
    """What is to be known of a plain model, all of whose weights are of a dtype, or as the run holds each."""
    base = learnt.learning.base
    sentences = []
    layers = [base.get_submodule(name) for name in learnt.learning.method.layer_names()]
    quantized = any(quantized_layers(base))
    stored = {holder(layer).weight.dtype for layer in layers if holder(layer).weight.is_floating_point()}
    stored = stored or {DTYPES[learnt.config.dtype]}
    exactly = sum(hasattr(holder(layer), REMAINDER) for layer in layers)
    if quantized:
        sentences.append(
            f"The run holds its base in {learnt.config.quantize}. Here every weight is written out as what its codes "
            "stand for, with what was learnt added: answers are those of the run but for rounding."
        )
    elif has_factors(learnt):
        sentences.append(
            "The run's LoRA factors are added to the weights: answers are those of the run but for rounding."
        )
    elif dtype is not None and stored != {dtype}:
        sentences.append(f"Answers are those of the run but for rounding: it computes with {_names(stored)} weights.")
    else:
        sentences.append("The weights are the very ones that the run computes with.")
    if exactly and dtype is not torch.float32:
        sentences.append(
            f"The run keeps the weights of {exactly} layers more exactly than it computes with them; what bfloat16 "
            "rounds off is not in here. An export with `--dtype float32` has it."
        )
    return [*sentences, *_autocast(learnt)]


def of_adapter(learnt: LearntModel, adapter: Adapter, dtype: torch.dtype | None) -> list[str]:
    """What is to be known of an adapter whose factors are of a dtype, fp32 if not given."""
    tasks = len(learnt.tasks)
    sentence = f"The adapter has rank {adapter.rank}, for what {tasks} task{'' if tasks == 1 else 's'} added"
    if adapter.missing:
        sentence += f"; it leaves out {adapter.missing:.0e} of the change by norm, which rounding put there"
    sentences = [f"{sentence}."]
    if learnt.config.quantize:
        how = "nf4, doubly quantised" if learnt.config.quantize == "4bit" else "int8"
        sentences.append(
            f"Answers are those of the run but for rounding on a base that bitsandbytes holds as there: "
            f"{learnt.config.quantize} ({how}), computing in {learnt.config.dtype}."
        )
    elif learnt.config.dtype != "float32" or dtype not in (None, torch.float32):
        sentences.append("Answers are those of the run but for rounding to bfloat16.")
    return [*sentences, *_autocast(learnt)]


def _autocast(learnt: LearntModel) -> Iterator[str]:
    if learnt.config.training.precision == "bf16":
        yield "The run answers under autocast to bfloat16 (`training.precision`); so does who wants the same answers."


def _names(dtypes: set[torch.dtype]) -> str:
    return " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in dtypes))
