"""GORP in transformers' Trainer and all that is built on it, such as TRL's: meters for every tracker, and safe ends."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from transformers import (
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import CallbackHandler

from gorp._attach import end_task, gorps_own, learned_layers, unwrap
from gorp.errors import InputError
from gorp.full_rank_linear import FullRankLinear
from gorp.launch import taken_apart
from gorp.meters import Meters, Reading
from gorp.space import GradientSpace
from gorp.space_file import SPACE_FILE


class GORPCallback(TrainerCallback):
    """Puts :class:`gorp.Meters` into what a Trainer logs, so that all of its ``report_to`` trackers get them.

    Give the Trainer an attached model and ``optimizers=(GORPAdamW(...), None)``. Whenever it logs, ``gorp/leak``,
    ``gorp/capacity_left``, ``gorp/captured_energy`` and ``gorp/blocked_energy`` are added, and for the trackers alone
    the same of each layer (``gorp/leak/LAYER``). Checkpoints get the gradient space, ``gradient_space.safetensors``,
    with which a fresh model must be attached to go on from them.

    Args:
        end_task: the task's name: it is ended, as by :func:`gorp.end_task`, when training is. None leaves that to you.
        per_layer: whether trackers get the meters of each layer, too.
        warn: is told, with a message and a category, when a layer is nearly full or the task mostly blocked.

    Attributes:
        reading: the meters when last logged.

    Raises:
        InputError: when training begins: the optimizer is not GORP's, or the Trainer's settings would break it.
        ValueError: then, too: the model is not attached.
    """

    def __init__(
        self,
        end_task: str | None = None,
        per_layer: bool = True,
        warn: Callable[[str, type[Warning]], None] = warnings.warn,
    ) -> None:
        self.task, self.per_layer, self.warn = end_task, per_layer, warn
        self.reading: Reading | None = None
        self._meters: Meters | None = None
        self._read_at = 0

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Come before the trackers."""
        self._come_first(sys._getframe(1).f_locals.get("self"))

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any
    ) -> None:
        """Refuse what would not be protected; the layers begin to count."""
        self._come_first(sys._getframe(1).f_locals.get("self"))
        widen_fresh_factors(given["model"], given["optimizer"])
        check_trainer(args, given["model"], given["optimizer"])
        self._meters, self.reading = Meters(given["model"]), None
        self._tell()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Add the meters to what is logged of training."""
        is_of_training = logs is not None and not {"loss", "train_loss"}.isdisjoint(logs)
        if logs is None or not is_of_training or self._meters is None or not state.is_world_process_zero:
            return
        if self.reading is None or state.global_step != self._read_at:  # the last step's are logged twice
            self.reading, self._read_at = self._meters.read(), state.global_step
        logs.update(self.reading.as_logs() | (self.reading.layers_as_logs() if self.per_layer else {}))
        self._tell()

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """Put the gradient space into the checkpoint."""
        folder = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"
        space: GradientSpace = unwrap(given["model"]).gradient_space  # type: ignore[assignment]
        if state.is_world_process_zero and folder.is_dir():
            space.save(folder / SPACE_FILE)

    def on_train_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **given: Any) -> None:
        """End the task, if it was named."""
        if self.task is not None and self._meters is not None:
            end_task(given["model"], given["optimizer"], self.task)
            self._tell()
        self._meters = None

    def _tell(self) -> None:
        for message, category in self._meters.warnings() if self._meters else ():
            self.warn(message, category)

    def _come_first(self, handler: object) -> None:
        """Before the trackers in the Trainer's order, which has them first and tells a callback nothing of the others.

        A new list: the old one is being gone through.
        """
        if not isinstance(handler, CallbackHandler):
            raise RuntimeError("GORPCallback is called by a transformers Trainer alone; elsewhere use gorp.Meters")
        others = [each for each in handler.callbacks if each is not self and not isinstance(each, _LayersLeaveOut)]
        console = [each for each in others if isinstance(each, (PrinterCallback, ProgressCallback))]
        rest = [each for each in others if each not in console]
        handler.callbacks = [self, *rest, _LayersLeaveOut(), *console]


class _LayersLeaveOut(TrainerCallback):
    """Between the trackers and the console, which the meters of each layer would flood."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        for name in [name for name in logs or () if name.startswith("gorp/") and name.count("/") > 1]:
            del (logs or {})[name]


def check_trainer(args: TrainingArguments, model: nn.Module, optimizer: Optimizer) -> None:
    """Refuse a Trainer in which protection would be lost, before its first step.

    Raises:
        InputError: what is wrong with it; what would be accepted.
        ValueError: the model is not attached.
    """
    layers = learned_layers(model)
    if gorps_own(optimizer) is None:
        raise InputError(
            f"the Trainer's optimizer is {type(getattr(optimizer, 'optimizer', optimizer)).__name__}, whose steps are "
            "not kept out of the gradient space; accepted: optimizers=(gorp.GORPAdamW(gorp.param_groups(model)), None)"
        )
    if reason := taken_apart(args):
        raise InputError(f"{reason}; accepted: a Trainer without it; on several GPUs, torchrun or accelerate launch")
    if args.fp16:
        raise InputError("fp16 scales the gradients that the space is grown from; accepted: bf16=True, or neither")
    for layer in layers.values():
        passes = layer.config.accumulation_steps
        if isinstance(layer, FullRankLinear) and passes != args.gradient_accumulation_steps:
            raise InputError(
                f"gradient_accumulation_steps is {args.gradient_accumulation_steps}, but full-rank layers were "
                f"attached for {passes}; accepted: GORPConfig(accumulation_steps={args.gradient_accumulation_steps})"
            )
        if any(torch.finfo(factor.dtype).bits < 32 for factor in layer.factors().values()):
            raise InputError(
                f"the factors of {layer.name} were made narrower than fp32 in the middle of a task, which turns them "
                "off the directions left free; accepted: fp32 from gorp.attach on, before a checkpoint is loaded, too"
            )


@torch.no_grad()
def widen_fresh_factors(model: nn.Module, optimizer: Optimizer) -> None:
    """Make factors fp32 again where a task has not begun: TRL's trainer narrows those of a quantised base to bf16.

    Rounded ones would not lie in what the space leaves free, so they start anew.
    """
    ours = gorps_own(optimizer)
    if ours is None or ours.state:
        return
    space: GradientSpace = unwrap(model).gradient_space  # type: ignore[assignment]
    for layer in learned_layers(model).values():
        narrow = [factor for factor in layer.factors().values() if torch.finfo(factor.dtype).bits < 32]
        for factor in narrow:
            factor.data = factor.data.float()
        if narrow:
            layer.restart(len(space.tasks))
