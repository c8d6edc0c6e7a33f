"""Put a model under GORP, hand its factors to the optimizer, and close a task."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, cast

import torch
from peft.tuners.lora import Linear as PeftLinear
from torch import Tensor, nn
from torch.optim import Optimizer

from gorp._injection import inject_lora
from gorp._precision import without_autocast
from gorp._quantized import StackedLinear
from gorp._ranks import check_same_on_all_ranks
from gorp._rounding import REMAINDER
from gorp._sketch import sketch_over_ranks, sketched_rows
from gorp._taps import tap
from gorp._weights import HasWeight
from gorp.config import GORPConfig
from gorp.errors import FullSpaceWarning, InputError, SpaceWarning, few
from gorp.full_rank_linear import FullRankLinear
from gorp.layers import ProjectedLinear
from gorp.learned_layer import LearnedLayer
from gorp.lora import LoRALayer
from gorp.optimizer import FULL_RANK, LORA, GORPAdamW
from gorp.random_projection import RandomlyProjectedLinear
from gorp.space import INPUT, OUTPUT, GradientSpace, LayerSpace, Side
from gorp.targets import InputRead, input_read, learning_layers

Model = TypeVar("Model", bound=nn.Module)


@without_autocast
def attach(model: Model, config: GORPConfig, space: GradientSpace | None = None) -> Model:
    """Make the target layers of a model learn under GORP, in place; everything else is frozen.

    Args:
        model: any module with ``nn.Linear`` layers; weights fp32 or bf16. Layers that bitsandbytes holds in 4 or 8 bits
            learn by LoRA factors alone; what tasks add to them is kept as stacked factors beside the weight.
        config: what learns, and how the past is protected.
        space: what earlier tasks left behind; None begins with an empty space. Layers that share a side there go on
            to, and those that do not there never will, whatever the config says; its ``max_share`` counts, too.

    Returns:
        The same model. ``model.gradient_space`` is its `GradientSpace`.

    Raises:
        InputError: no layer matches a target, a layer matches both lists, the rank is above a layer's size, a
            weight's form cannot be learned in, or the space is of other layers. Model and space are as before then.

    Warns:
        Layers that the space says nothing of: what earlier tasks depend on in them is not protected.
    """
    if hasattr(model, "gradient_space"):
        raise InputError("this model is attached already; attach a fresh one, or go on with end_task")
    lora_names, full_rank_names = learning_layers(model, config)
    if space is not None:
        _check_fits(space, model, [*lora_names, *full_rank_names], config)
    model.requires_grad_(False)
    space = space or GradientSpace(float(config.max_share or 1.0), str(getattr(model, "name_or_path", "")))
    layers: dict[str, LearnedLayer] = {}
    inputs: dict[InputRead, Side] = {}
    task = len(space.tasks)
    if lora_names:
        inject_lora(model, lora_names, config.rank, config.lora_alpha, float(config.lora_dropout or 0))
    for index, name in enumerate([*lora_names, *full_rank_names]):
        module = model.get_submodule(name)
        kept = _layer_space(space, name, module, config, is_lora=name in lora_names, inputs=inputs)
        if name in lora_names:
            layers[name] = LoRALayer(cast(PeftLinear, module), name, config, kept, index, task)
        else:
            form = RandomlyProjectedLinear if config.projection == "random" else ProjectedLinear
            layers[name] = full_rank = form(cast(nn.Linear, module), name, config, kept, index, task)
            _replace(model, name, full_rank)
        if config.remembers_inputs and not kept.frozen:
            _watch_inputs(model.get_submodule(name), layers[name])
        for side, factor in layers[name].factors().items():
            factor.gorp_owner = (layers[name], side)  # type: ignore[attr-defined]
    model.gradient_space = space  # type: ignore[assignment]
    model.learned_layers = layers  # type: ignore[assignment]
    return model


def learned_layers(model: nn.Module) -> dict[str, LearnedLayer]:
    """The layers that learn, by dotted name in the unwrapped model.

    Raises:
        ValueError: `attach` has not been called on the model.
    """
    layers: dict[str, LearnedLayer] | None = getattr(unwrap(model), "learned_layers", None)
    if layers is None:
        raise ValueError("this model is not attached; call gorp.attach(model, config) first")
    return layers


def param_groups(model: nn.Module) -> list[dict[str, Any]]:
    """Parameter groups for `GORPAdamW`: LoRA factors, then full-rank cores; empty ones are left out."""
    layers = learned_layers(model).values()
    lora = [factor for layer in layers if isinstance(layer, LoRALayer) for factor in layer.factors().values()]
    cores = [layer.core for layer in layers if isinstance(layer, FullRankLinear)]
    groups: list[dict[str, Any]] = [{"params": lora, "kind": LORA}, {"params": cores, "kind": FULL_RANK}]
    return [group for group in groups if group["params"]]


@torch.no_grad()
@without_autocast
def end_task(model: nn.Module, optimizer: Optimizer, name: str) -> dict[str, int]:
    """Close a task: grow the gradient space by what it needs, merge its factors, start anew in what is left.

    Factors, moments and sketches are reset in place, so the same model and optimizer go on with the next task.

    Args:
        model: attached, bare or wrapped by accelerate.
        optimizer: the `GORPAdamW` that trained it, bare or wrapped.
        name: the task's name, kept in the space.

    Returns:
        Columns added to the input side of each layer.

    Warns:
        Layers whose space is full: they are frozen from now on.

    Raises:
        ValueError: the model is not attached, or the optimizer is not GORP's, or is not of all layers that learn.
        GorpError: the replicas of a data-parallel run have gone apart.
    """
    layers = learned_layers(model)
    frozen_before = {name for name, layer in layers.items() if layer.space.frozen}
    inner = gorps_own(optimizer)
    if inner is None:
        raise ValueError("end_task needs the GORPAdamW that trained the model")
    space: GradientSpace = unwrap(model).gradient_space  # type: ignore[assignment]
    _check_trains(inner, layers)
    check_same_on_all_ranks(
        {
            f"{name}'s factor on the {side} side": p
            for name, layer in layers.items()
            for side, p in layer.factors().items()
        }
    )
    added = {}
    for layer_name, layer in layers.items():
        config = layer.config
        rows = {
            side: _memory(layer, side, inner.state[factor])
            for side, factor in layer.factors().items()
            if inner.state.get(factor)
        }
        if not layer.space.frozen and INPUT in rows:
            added[layer_name] = space.extend(
                layer_name, rows[INPUT], config.energy, rows.get(OUTPUT), of_remainder=config.variant == "paper"
            )
        else:
            layer.space.growth.append(0)
            added[layer_name] = 0
        layer.merge()
    check_same_on_all_ranks({f"{name}'s space": layer.space.basis for name, layer in layers.items()})
    space.tasks.append(name)
    for layer in layers.values():
        layer.restart(len(space.tasks))
    inner.restart()
    _warn_of_full_layers(space, [name for name in layers if name not in frozen_before])
    return added


def detach(model: nn.Module) -> GradientSpace:
    """Make every layer that learns an ``nn.Linear`` again, under its own name, in place; between two tasks.

    What is left is a plain model with what was learnt in its weights: to be saved, or attached anew with other settings
    and the space. Weights stay frozen; of bf16 ones what rounding dropped is let go. The optimizer's factors are gone.

    Args:
        model: attached, bare or wrapped.

    Returns:
        The space that earlier tasks left behind.

    Raises:
        ValueError: the model is not attached, or in the middle of a task.
        InputError: a layer keeps what it learnt beside a weight in 4 or 8 bits. The model is as before then.
    """
    layers = learned_layers(model)
    for name, layer in layers.items():
        if isinstance(layer.holder, StackedLinear):
            raise InputError(f"layer {name} keeps what it learnt beside a quantised weight, and cannot be made plain")
        if layer.step:
            raise ValueError(
                f"layer {name} is in the middle of a task; call gorp.end_task(model, optimizer, name) first"
            )
    model = unwrap(model)
    space: GradientSpace = model.gradient_space  # type: ignore[assignment]
    for name, layer in layers.items():
        _replace(model, name, _plain(layer.holder).train(model.training))
    del model.gradient_space, model.learned_layers
    if hasattr(model, "peft_config"):  # where peft put factors
        del model.peft_config
    return space


def _plain(holder: HasWeight) -> nn.Linear:
    """The layer whose weight was learnt, as torch has it."""
    if isinstance(holder, nn.Linear):  # peft's factors stood beside it
        if hasattr(holder, REMAINDER):
            delattr(holder, REMAINDER)
        return holder
    full_rank = cast(FullRankLinear, holder)
    linear = nn.Linear(full_rank.in_features, full_rank.out_features, bias=False, device="meta")
    linear.weight, linear.bias = full_rank.weight, full_rank.bias
    return linear


def _check_trains(optimizer: GORPAdamW, layers: Mapping[str, LearnedLayer]) -> None:
    """Refuse an optimizer of some layers alone: what a task needs of the others would be in no memory."""
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for name, layer in layers.items():
        if not layer.space.frozen and any(id(factor) not in trained for factor in layer.factors().values()):
            raise ValueError(
                f"layer {name} is not trained by this optimizer; accepted: one of gorp.param_groups(model)"
            )


def _warn_of_full_layers(space: GradientSpace, names: Sequence[str]) -> None:
    """One warning for all of the named layers that are frozen."""
    full = [
        f"{name} (holds {', '.join(_held(space, layer))})" for name in names if (layer := space.layers[name]).frozen
    ]
    if full:
        warnings.warn(
            f"task {space.tasks[-1]!r} needs more directions than {len(full)} of {len(space.layers)} layers have room "
            f"for: {few(full)}. They keep what they know and are frozen for later tasks",
            FullSpaceWarning,
            stacklevel=3,
        )


def _held(space: GradientSpace, layer: LayerSpace) -> list[str]:
    """Per side how much of what it may hold it holds."""
    sides = [(layer.input, "inputs"), (layer.output, "outputs")]
    return [f"{side.rank} of {space.cap(side)} directions of its {what}" for side, what in sides if side is not None]


def _memory(layer: LearnedLayer, side: str, state: dict[str, Tensor]) -> Tensor:
    if layer.config.memory == "first_moment":
        return layer.moment_rows(side, state["exp_avg"])
    averaged = layer.remembers_gradients(side)  # over ranks, step by step
    return sketched_rows(state["sketch"] if averaged else sketch_over_ranks(state["sketch"]))


def _input_width(linear: nn.Linear, config: GORPConfig) -> int:
    """Of a layer's input side: in the paper's form the factor's rank."""
    return linear.in_features if config.variant == "exact" else config.rank


def _check_fits(space: GradientSpace, model: nn.Module, names: Sequence[str], config: GORPConfig) -> None:
    """Refuse a space of other layers than those that learn, and warn of layers that are not in it."""
    known = [name for name in names if name in space.layers]
    for name in known:
        linear, kept = cast(nn.Linear, model.get_submodule(name)), space.layers[name]
        for side, width in ((kept.input, _input_width(linear, config)), (kept.output, linear.out_features)):
            if side is not None and side.width != width:
                held = f"{side.width} {'inputs' if side is kept.input else 'outputs'}"
                raise InputError(f"the given gradient space holds {name} with {held}, the model has {width}")
    new = [name for name in names if name not in space.layers]
    if not space.tasks or not new:
        return
    if not known:
        of = f", but of {next(iter(space.layers))} and the like" if space.layers else ""
        raise InputError(f"the given gradient space is not of {few(new, 1)}{of}; is it of a model named otherwise?")
    warnings.warn(
        f"the gradient space knows nothing of {few(new, 1)}: what the tasks {', '.join(space.tasks)} depend on there "
        "is not protected",
        SpaceWarning,
        stacklevel=4,
    )


def _layer_space(
    space: GradientSpace,
    name: str,
    module: nn.Module,
    config: GORPConfig,
    is_lora: bool,
    inputs: dict[InputRead, Side],
) -> LayerSpace:
    """The layer's part of the space: as kept, or empty. In the paper's form the input side has the factor's rank.

    ``inputs`` are the input sides there are, by what is read; a new layer that reads the same takes its own from there.
    """
    linear = cast(nn.Linear, cast(PeftLinear, module).get_base_layer() if is_lora else module)
    dtype, device = torch.promote_types(linear.weight.dtype, torch.float32), linear.weight.device
    width = _input_width(linear, config)
    read = input_read(name, linear, config)
    if name not in space.layers:
        side = inputs.get(read) or Side.empty(width, dtype, device)
        space.layers[name] = LayerSpace(side, growth=[0] * len(space.tasks))
    kept = space.layers[name]
    if kept.output is None and is_lora and config.protect_outputs:
        kept.output = Side.empty(linear.out_features, dtype, device)
    inputs.setdefault(read, kept.input)
    kept.input.to(device, dtype)
    if kept.output:
        kept.output.to(device, dtype)
    return kept


def _watch_inputs(module: nn.Module, layer: LearnedLayer) -> None:
    """Let a layer see its own inputs, each with the gradient that comes back to its output, for the memory."""

    def tapped(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        learns = output.requires_grad and not layer.space.frozen
        return tap(output, args[0], layer.see_inputs) if learns else output

    module.register_forward_hook(tapped)
    layer.factors()[INPUT].register_hook(layer.keep_inputs)


def _replace(model: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, module)


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside what accelerate, DDP or torch.compile put around it."""
    while (inner := getattr(model, "module", None) or getattr(model, "_orig_mod", None)) is not None:
        model = inner
    return model


def gorps_own(optimizer: Any) -> GORPAdamW | None:
    """The GORPAdamW inside what accelerate put around it; None if it is another."""
    while optimizer is not None and not isinstance(optimizer, GORPAdamW):
        optimizer = getattr(optimizer, "optimizer", None)
    return optimizer
