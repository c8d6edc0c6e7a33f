"""Training one task on transformers' Trainer: exact to resume, safe against steps that are not finite."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader, Dataset
from transformers import (
    PreTrainedModel,
    PrinterCallback,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from gorp._ranks import average_gradients, mean_over_ranks, of_all_ranks, rank, ranks
from gorp.callback import GORPCallback
from gorp.checkpoint import set_random_state
from gorp.encoding import IGNORED, Encoder, Row, answer_loss
from gorp.errors import GorpError
from gorp.evaluation import autocast
from gorp.methods.base import Method
from gorp.optimizer import GORPAdamW, gradients_are_finite
from gorp.plan import Plan
from gorp.preemption import Stopped, asked, until_the_step_ends
from gorp.progress import Progress

MOST_SKIPPED_IN_A_ROW = 5
_LOSS_POINTS = 100


@dataclass
class Flight:
    """How far the training of a task has come.

    Attributes:
        step: optimizer steps done, skipped ones included.
        losses: (step, mean loss per answer token, with the method's penalty) of the steps that were taken.
        skipped: steps skipped because a loss or a gradient was not finite.
        skipped_in_a_row: of these, how many since the last good one.
        seconds: wall-clock time spent.
        skipped_refreshes: that the method counted before it was last taken up from a save.
    """

    step: int = 0
    losses: list[list[float]] = field(default_factory=list)
    skipped: int = 0
    skipped_in_a_row: int = 0
    seconds: float = 0.0
    skipped_refreshes: int = 0

    def loss_curve(self) -> list[tuple[int, float]]:
        """At most 100 points (step, loss), each the mean over a stretch of steps."""
        stretch = max(1, math.ceil(len(self.losses) / _LOSS_POINTS))
        parts = (self.losses[first : first + stretch] for first in range(0, len(self.losses), stretch))
        return [(int(part[-1][0]), sum(loss for _, loss in part) / len(part)) for part in parts]


def train_task(
    model: PreTrainedModel,
    method: Method,
    optimizer: torch.optim.Optimizer,
    encoder: Encoder,
    plan: Plan,
    progress: Progress,
    save: Callable[[Flight], None],
    flight: Flight | None = None,
    resumed_random_state: dict[str, Any] | None = None,
) -> Flight:
    """Train one task to its end, or to the end of what remains of it.

    Args:
        save: called every ``save_every`` steps, after the last step, and before stopping on bad steps or because the
            process was asked to end; the model, the optimizer and the random state are then as after ``flight.step``
            steps.
        flight: where a saved training stands, with ``resumed_random_state`` as it was then.

    Raises:
        GorpError: five steps in a row were not finite; the last good state has been saved.
        Stopped: the process was asked to end; likewise.
    """
    flight = flight or Flight()
    learns = any(parameter.requires_grad for parameter in model.parameters())
    if plan.rows and not learns:
        progress.warning("every layer is frozen, its gradient space full: nothing is left to learn this task in")
    elif flight.step < plan.steps:
        trainer = _TaskTrainer(model, method, optimizer, encoder, plan, flight)
        trainer.add_callback(_Keeper(trainer, progress, save, resumed_random_state))
        if plan.report_to and isinstance(optimizer, GORPAdamW):
            trainer.add_callback(GORPCallback(warn=lambda message, _: progress.warning(message)))
        with until_the_step_ends():
            trainer.train()
        optimizer.zero_grad(set_to_none=True)
    elif resumed_random_state is not None:
        set_random_state(resumed_random_state)
    return flight


class _TaskTrainer(Trainer):
    """Trainer over rows in a settled order, with our loss: the mean over answer tokens plus the method's penalty."""

    loss_is_scaled_for_ga = True  # compute_loss divides by the tokens of the whole accumulated batch

    def __init__(
        self,
        model: PreTrainedModel,
        method: Method,
        optimizer: torch.optim.Optimizer,
        encoder: Encoder,
        plan: Plan,
        flight: Flight,
    ) -> None:
        first = flight.step
        arguments = TrainingArguments(
            output_dir=str(plan.folder),
            num_train_epochs=1,
            per_device_train_batch_size=plan.config.batch_size,
            gradient_accumulation_steps=plan.config.accumulation_steps,
            max_grad_norm=plan.config.max_grad_norm,
            seed=plan.seed % 2**32,  # more, numpy's global generator does not take
            save_strategy="no",
            logging_strategy="steps" if plan.report_to else "no",
            logging_steps=10,
            logging_nan_inf_filter=False,
            disable_tqdm=True,
            report_to=list(plan.report_to) or "none",
            remove_unused_columns=False,
            dataloader_pin_memory=torch.cuda.is_available(),
        )
        super().__init__(
            model=model,
            args=arguments,
            data_collator=encoder.training_batch,
            train_dataset=plan.batches(first, rank(), ranks()),
            optimizers=(optimizer, LambdaLR(optimizer, lambda step: plan.rate(first + step))),
        )
        self.remove_callback(PrinterCallback)
        self.model_accepts_loss_kwargs = True
        self.backbone = model
        self.method, self.encoder, self.plan, self.flight = method, encoder, plan, flight
        self.learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.step_loss = torch.zeros((), device=model.device)
        self.passes = itertools.count(first * plan.config.accumulation_steps)
        if plan.config.gradient_checkpointing:
            enable_checkpointing(model)

    def get_train_dataloader(self) -> DataLoader[list[Row]]:
        passes = cast("Dataset[list[Row]]", self.train_dataset)
        pinned = self.args.dataloader_pin_memory
        return DataLoader(passes, batch_size=None, collate_fn=self.data_collator, pin_memory=pinned)

    def create_accelerator_and_postprocess(self) -> None:
        """Ranks keep the bare model: what learns is little, and `training_step` averages its gradients itself."""
        super().create_accelerator_and_postprocess()
        self.accelerator.prepare_model = partial(self.accelerator.prepare_model, evaluation_mode=True)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        with own_random_numbers(self.plan.seed, next(self.passes)):
            loss = super().training_step(*args, **kwargs)
        if self.accelerator.sync_gradients:  # the last pass of its step
            average_gradients(self.learning)
        return loss

    def get_batch_samples(
        self, epoch_iterator: Iterator[dict[str, Tensor]], num_batches: int, device: torch.device
    ) -> tuple[list[dict[str, Tensor]], int]:
        batches = list(itertools.islice(epoch_iterator, num_batches))
        tokens = sum(int((batch["labels"] != IGNORED).sum()) for batch in batches)
        return batches, sum(of_all_ranks(tokens))

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        batch = self.method.prepare(inputs)
        logits = self.encoder.logits(model, batch)
        of_all = (num_items_in_batch or 1) / ranks()  # gradients are averaged over the ranks
        loss = answer_loss(logits, batch["labels"]) / of_all
        penalty = self.method.penalty(batch, logits)
        if penalty is not None:
            loss = loss + penalty * ((batch["labels"] != IGNORED).sum() / of_all)
        self.step_loss += loss.detach()
        return loss

    def autocast_smart_context_manager(self, cache_enabled: bool | None = True) -> AbstractContextManager[object]:
        return autocast(self.backbone.device, self.plan.config.precision)

    def floating_point_ops(self, inputs: dict[str, Tensor]) -> int:
        return 0


class _Keeper(TrainerCallback):
    """Skips steps that are not finite, keeps count, reports progress, and saves."""

    def __init__(
        self,
        trainer: _TaskTrainer,
        progress: Progress,
        save: Callable[[Flight], None],
        resumed_random_state: dict[str, Any] | None,
    ) -> None:
        self.trainer, self.progress, self.save = trainer, progress, save
        self.resumed_random_state = resumed_random_state
        self.started = time.monotonic()

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if self.resumed_random_state is not None:  # not before: making the data loader draws random numbers
            set_random_state(self.resumed_random_state)
            self.resumed_random_state = None

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        trainer, flight = self.trainer, self.trainer.flight
        (mean,) = mean_over_ranks([trainer.step_loss])
        loss = mean.item()
        trainer.step_loss.zero_()
        if math.isfinite(loss) and gradients_are_finite(trainer.learning):
            flight.losses.append([flight.step + 1, loss])
            flight.skipped_in_a_row = 0
        else:
            for parameter in trainer.learning:
                parameter.grad = None
            flight.skipped += 1
            flight.skipped_in_a_row += 1

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        flight, plan = self.trainer.flight, self.trainer.plan
        flight.step += 1
        now = time.monotonic()
        flight.seconds, self.started = flight.seconds + now - self.started, now
        self.progress.training_step(flight.step, flight.losses[-1][1] if flight.losses else None)
        hopeless, stop = flight.skipped_in_a_row >= MOST_SKIPPED_IN_A_ROW, asked_of_any_rank()
        if hopeless or stop or flight.step % plan.config.save_every == 0 or flight.step == plan.steps:
            self.save(flight)
        if hopeless:
            raise GorpError(
                f"loss or gradient was not finite in {flight.skipped_in_a_row} steps in a row (up to step "
                f"{flight.step} of {plan.steps}); the weights are saved as after the last good step. "
                "A lower learning rate (training.lr, training.full_rank_lr) or precision fp32 may help"
            )
        if stop:
            raise stop


def asked_of_any_rank() -> Stopped | None:
    """`asked`, the same on all ranks: they save together or not at all."""
    stop = asked()
    number = max(of_all_ranks(stop.number if stop else 0))
    return Stopped(number) if number else None


@contextmanager
def own_random_numbers(seed: int, forward_pass: int) -> Iterator[None]:
    """Dropout of its own for each rank, a matter of seed and pass alone; what is drawn outside is the same on all."""
    if ranks() == 1:
        yield
        return
    with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
        torch.manual_seed(int(np.random.SeedSequence([seed, forward_pass, rank()]).generate_state(1)[0]))
        yield


def enable_checkpointing(model: PreTrainedModel) -> None:
    """Recompute activations in the backward pass instead of keeping them."""
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
