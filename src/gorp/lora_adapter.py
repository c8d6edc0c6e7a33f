"""What a run learnt as one peft LoRA adapter on its base: the sum over all tasks, whichever form each is held in."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import torch
from peft import LoraConfig
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from gorp._injection import ADAPTER
from gorp._linalg import seeded_normal
from gorp._quantized import StackedLinear
from gorp._rounding import REMAINDER
from gorp._weights import read_weight
from gorp.errors import InputError
from gorp.hub import public_name
from gorp.learnt_model import LearntModel
from gorp.run_setup import load_base
from gorp.tensor_file import write_tensors

_SPARE = 8
_TASK_TYPES = {"causal": "CAUSAL_LM", "seq2seq": "SEQ_2_SEQ_LM", "encoder": "FEATURE_EXTRACTION"}


class Factors(NamedTuple):
    """A change of a weight as a product left @ right."""

    left: Tensor  # (out, n)
    right: Tensor  # (n, in)


class Adapter(NamedTuple):
    """Factors of every layer that changed, and the largest share of a change, by norm, that they leave out."""

    layers: dict[str, Factors]
    missing: float

    @property
    def rank(self) -> int:
        """The most columns that a layer needs."""
        return max(len(factors.right) for factors in self.layers.values())


@torch.no_grad()
def lora_adapter(learnt: LearntModel) -> Adapter:
    """The change of each layer's weight since the base.

    Factors that are not merged, and those that are kept beside a quantised weight, are taken as they are; what was
    merged is the difference of weights, of which what rounding left is not taken for something learnt.

    Raises:
        InputError: a layer learnt otherwise than by LoRA, or none learnt anything.
    """
    method, base = learnt.learning.method, learnt.learning.base
    modules = {name: base.get_submodule(name) for name in method.layer_names()}
    if not modules:
        raise InputError(f"method {method.name!r} changes no weight, so that there is nothing for an adapter to hold")
    for name, module in modules.items():
        if not isinstance(module, LoraLayer):
            raise InputError(f"layer {name} learnt at full rank, which no adapter holds; accepted: no --adapter")
    merges = learnt.folder.state.stages if learnt.folder.state else 0
    before = load_base(learnt.config, learnt.source).model
    layers: dict[str, Factors] = {}
    missing = 0.0
    for name, module in modules.items():
        merged, left_out = _merged_change(module, before.get_submodule(name), merges)
        factors = _joined([merged, _not_merged(module)])
        missing = max(missing, left_out)
        if len(factors.right):
            layers[name] = factors
    if not layers:
        raise InputError(f"{learnt.folder.path}: no layer has changed since the base; there is nothing to export")
    return Adapter(layers, missing)


def save_adapter(adapter: Adapter, learnt: LearntModel, folder: Path, dtype: torch.dtype | None = None) -> None:
    """Write ``adapter_config.json`` and ``adapter_model.safetensors``.

    All layers have the same rank, the ones that need less being filled up with zeros: not every program that loads
    adapters knows of ranks by layer.

    Raises:
        OSError: the disk refuses.
    """
    rank = adapter.rank
    config = LoraConfig(
        r=rank,
        lora_alpha=rank,
        target_modules=list(adapter.layers),
        base_model_name_or_path=public_name(learnt.source),
        task_type=_TASK_TYPES[learnt.learning.encoder.kind],
        inference_mode=True,
    )
    config.save_pretrained(str(folder))
    tensors = {}
    for name, (left, right) in adapter.layers.items():
        filled = rank - len(right)
        for factor, tensor, padding in (("A", right, (0, 0, 0, filled)), ("B", left, (0, filled))):
            padded = nn.functional.pad(tensor, padding).to(dtype or torch.float32)
            tensors[f"base_model.model.{name}.lora_{factor}.weight"] = padded.contiguous()
    write_tensors(folder / "adapter_model.safetensors", tensors, {"format": "pt"})


def _not_merged(module: Any) -> Factors:
    """The factors that stand beside a layer's weight, the scale taken into the left one."""
    A, B = module.lora_A[ADAPTER].weight, module.lora_B[ADAPTER].weight
    return Factors(module.scaling[ADAPTER] * B.cpu(), A.cpu())


def _merged_change(module: Any, before: nn.Module, merges: int) -> tuple[Factors, float]:
    """What was merged into a layer's weight, of so many merges, and the share of it by norm that is left out."""
    base = module.base_layer
    if isinstance(base, StackedLinear):
        return Factors(base.left.cpu(), base.right.cpu()), 0.0
    start = read_weight(before).cpu()  # type: ignore[arg-type]  # a linear layer
    change = read_weight(base).cpu().double() - start
    exact = base.weight.dtype is not torch.bfloat16 or hasattr(base, REMAINDER)
    coarse = torch.finfo(torch.float32 if exact else torch.bfloat16).eps
    return factorised(change, module.r[ADAPTER] * merges, rounding_norm(start, coarse, merges))


def rounding_norm(weight: Tensor, coarse: float, merges: int) -> float:
    """A bound, rarely passed, on the spectral norm of what so many roundings do to a weight (out, in).

    An entry w is off by at most coarse |w| / 2 each time, independently, and a matrix of independent entries of
    deviation d has a norm of about d (sqrt(out) + sqrt(in)).
    """
    rows, columns = weight.shape
    deviation = coarse * float(weight.double().square().mean().sqrt()) * merges**0.5
    return deviation * (rows**0.5 + columns**0.5)


def factorised(change: Tensor, most: int, noise: float) -> tuple[Factors, float]:
    """A change (out, in), fp64, as factors of its rank, and the share of it by norm that they leave out.

    Args:
        change: of rank ``most`` or less, but for round-off.
        most: columns.
        noise: singular values up to it are round-off.
    """
    q = min(most + _SPARE, *change.shape)
    found = torch.linalg.qr(change @ seeded_normal(change.shape[1], q, 0, change.dtype)).Q  # (out, q)
    found = torch.linalg.qr(change @ (change.mT @ found)).Q
    u, values, vh = torch.linalg.svd(found.mT @ change, full_matrices=False)
    n = min(most, int((values > noise).sum()))
    left, right = found @ u[:, :n] * values[:n].sqrt(), values[:n].sqrt()[:, None] * vh[:n]
    whole = float(torch.linalg.vector_norm(change))
    rest = float(torch.linalg.vector_norm(change - left @ right))
    return Factors(left.float(), right.float()), rest / whole if n else 0.0


def _joined(parts: list[Factors]) -> Factors:
    """The sum of products as one, without those that are zero."""
    kept = [part for part in parts if bool(part.left.any())] or [Factors(parts[0].left[:, :0], parts[0].right[:0])]
    return Factors(torch.cat([part.left for part in kept], dim=1), torch.cat([part.right for part in kept]))
