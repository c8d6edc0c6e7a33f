"""A run's first tasks rehearsed without numbers: what is held at most, part by part, and how much is computed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import cast

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedTokenizerBase

from gorp._dry import Meter, dry
from gorp._injection import holder
from gorp._rounding import REMAINDER
from gorp._sketch import sketch_numbers
from gorp.encoding import Encoder
from gorp.held_bytes import gradient_bytes, parts_of
from gorp.learned_layer import LearnedLayer
from gorp.learning_model import LearningModel
from gorp.methods import load_method
from gorp.rehearsal import EVALUATING, TRAINING, Copies, Script, put_together, rehearse
from gorp.run_config import RunConfig
from gorp.run_setup import rows_of
from gorp.space import GradientSpace
from gorp.space_growth import growth_of
from gorp.stand_ins import Mute, random_model
from gorp.targets import block_layers
from gorp.tasks import Example, Task
from gorp.workload import Pass, Workload, largest, padded_tokens, plan_workload

SHOWN = 16
"""Rows that a method is shown of a task."""
_BITS = {"4bit": 4, "8bit": 8}


@dataclass
class DryWatch:
    """A `gorp.rehearsal.Watch` that takes down what is held and counted without numbers."""

    meter: Meter
    device: str
    phases: Counter[str] = field(default_factory=Counter)
    parts: dict[str, dict[str, int]] = field(default_factory=dict)
    counts: list[Counter[str]] = field(default_factory=list)
    evaluation: Counter[str] = field(default_factory=Counter)
    main_memory: int = 0

    @contextmanager
    def __call__(self, phase: str) -> Iterator[None]:
        """Find the peak of a phase."""
        self.meter.mark()
        self.meter.take()
        yield
        self.phases[phase] = max(self.phases[phase], self.meter.peak[self.device])
        self.main_memory = max(self.main_memory, self.meter.peak["cpu"])
        if phase == EVALUATING:
            self.evaluation = self.meter.take()

    def step(self, step: int) -> None:
        """Take down the operations of a step."""
        self.counts.append(self.meter.take())

    def held(self, phase: str, learning: LearningModel, optimizer: torch.optim.Optimizer, copies: Copies) -> None:
        """Take down what is held at the end of a phase, by part."""
        parts = parts_of(learning.base, learning.method, optimizer, copies)
        parts["gradients"] = gradient_bytes(learning.base) if phase == TRAINING else 0
        self.parts[phase] = parts


@dataclass
class Attached:
    """What is known of the model under its method, beside what was held in the rehearsal.

    Attributes:
        parameters: numbers by kind.
        space: the method's, with sides of true widths.
        memory_to_come: bytes that the memory of a task takes when it is full, beyond what it took here.
        saved_by_codes: bytes that a quantised base takes less.
        remainders: bytes of ``rounding`` that a quantised base does not have.
        grows: bytes that the method keeps more with every task, its space apart.
    """

    parameters: dict[str, int]
    space: GradientSpace | None
    memory_to_come: int
    saved_by_codes: int
    remainders: int
    grows: int


@dataclass
class DryRun:
    """What a rehearsal without numbers showed: its watch, the tokens of two steps, the rows answered together."""

    watch: DryWatch
    step_tokens: tuple[int, int]
    scored_rows: int
    workload: Workload
    attached: Attached


def rehearse_dry(
    config: RunConfig,
    model_config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    tasks: list[Task],
    unseen: list[Task],
    ranks: int,
    device: torch.device,
) -> DryRun:
    """Two tasks without numbers, the largest passes and answers of the run among them."""
    period = config.gorp.refresh_every
    short = config.model_copy(update={"gorp": config.gorp.model_copy(update={"refresh_every": min(2, period)})})
    with dry(device, Meter()) as meter:
        model = random_model(model_config, config.dtype)
        saved = _saved_by_codes(model, config)
        mute = cast(PreTrainedTokenizerBase, Mute(tokenizer))
        learning = put_together(model, mute, short)
        workload = plan_workload(config, tasks, unseen, learning.encoder, learning.method)
        passes, tokens = _largest_passes(workload, period, ranks)
        rows = _longest_batch(workload, learning.encoder, config.evaluation.batch_size, ranks)
        shown = workload.stages[0].task
        few = replace(shown, **{part: getattr(shown, part)[:SHOWN] for part in ("train", "validation", "test")})
        script = Script(few, passes, [rows] if rows else [])
        watch = DryWatch(meter, device.type)
        ends = []
        for index in range(1 if learning.method.learns_jointly else 2):
            rehearse(learning, short, script, index, watch)
            ends.append(meter.alive[device.type])
        before = watch.parts.get(TRAINING, {})
        attached = _attached(learning, saved, before)
        attached.grows = ends[-1] - ends[0] - (before.get("space", 0) and _columns_bytes(learning))
    return DryRun(watch, tokens, len(rows), workload, attached)


def _largest_passes(workload: Workload, period: int, ranks: int) -> tuple[list[Pass], tuple[int, int]]:
    """A small step, the largest that is no refresh, and the largest that is one; tokens of the latter two."""
    steps = [(index % period == 0, step) for load in workload.stages for index, step in enumerate(load.steps)]
    if not steps:
        return [], (0, 0)
    accumulated = workload.stages[0].passes_per_step
    everywhere = [rows for _, step in steps for rows in step]
    plain = largest([rows for renews, step in steps if not renews for rows in step]) or largest(everywhere)
    renewed = largest([rows for renews, step in steps if renews for rows in step]) or plain
    chosen = [rows[::ranks] for rows in (plain[:1], plain, renewed) if plain and rows]  # type: ignore[index]
    return [rows for rows in chosen for _ in range(accumulated)], (
        padded_tokens(chosen[1]) * accumulated,
        padded_tokens(chosen[2]) * accumulated,
    )


def _longest_batch(workload: Workload, encoder: Encoder, size: int, ranks: int) -> list[Example]:
    """The rows that are answered together at the greatest length."""
    best: tuple[int, list[Example]] = (0, [])
    for task in workload.measured:
        rows = sorted(rows_of(task, workload.split), key=lambda row: -len(row.prompt))[:size]
        best = max(best, (len(rows) * len(encoder.row(rows[0]).prompt), rows), key=lambda found: found[0])
    return best[1]


def _attached(learning: LearningModel, saved: dict[str, int], parts: dict[str, int]) -> Attached:
    """Parameters by kind, and what is to come of the memory of a task."""
    model = learning.base
    layers: dict[str, LearnedLayer] = getattr(model, "learned_layers", {})
    cores = {id(p) for layer in layers.values() for p in layer.factors().values() if hasattr(layer, "core")}
    counts = {"frozen": 0, "lora": 0, "cores": 0, "other": 0, "bases": 0}
    for name, parameter in model.named_parameters():
        kind = "frozen"
        if parameter.requires_grad:
            kind = "cores" if id(parameter) in cores else "lora" if ".lora_" in name else "other"
        counts[kind] += parameter.numel()
    counts["bases"] = sum(
        buffer.numel() for name, buffer in model.named_buffers() if name.rpartition(".")[2] in ("U", "V")
    )
    most = 0
    for layer in layers.values():
        for side in layer.factors():
            remembered = layer.config.memory != "first_moment" and layer.space.side(side) is not None
            most += 4 * sketch_numbers(layer.width_of(side)) if remembered else 0
    space = learning.method.space
    return Attached(
        counts,
        space,
        max(0, most - parts.get("memory", 0)) if layers else 0,
        sum(saved.values()),
        _remainders(model, saved),
        0,
    )


def _columns_bytes(learning: LearningModel) -> int:
    """Of what the second rehearsed task added to the spaces, a column a side."""
    space = learning.method.space
    sides = growth_of(space, {}, 0.0) if space else []
    return sum(4 * (side.width + 1) for side in sides)


def _saved_by_codes(model: nn.Module, config: RunConfig) -> dict[str, int]:
    """Bytes that each layer takes less in 4 or 8 bits: codes, with a scale for 64 numbers or for a row."""
    if config.quantize is None:
        return {}
    whole = set(load_method(config.method)(config).whole_layers(model))
    saved = {}
    for name in set(block_layers(model, "quantize")) - whole:
        weight = cast(nn.Linear, model.get_submodule(name)).weight
        scales = weight.numel() / 64 * (1 + 4 / 256) if config.quantize == "4bit" else 4 * len(weight)
        saved[name] = int(weight.nbytes - weight.numel() * _BITS[config.quantize] / 8 - scales)
    return saved


def _remainders(model: nn.Module, coded: Collection[str]) -> int:
    """Bytes kept here of what bf16 drops, of layers that in truth are codes, into which nothing is merged."""
    kept = (getattr(holder(model.get_submodule(name)), REMAINDER, None) for name in coded)
    return sum(remainder.nbytes for remainder in kept if remainder is not None)
