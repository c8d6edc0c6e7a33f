"""What a run will cost, before any weights are fetched: parameters, memory, spaces, operations, time."""

from __future__ import annotations

from pathlib import Path

import torch
from pydantic import BaseModel

from gorp.dry_rehearsal import DryRun, rehearse_dry
from gorp.errors import GorpError, InputError
from gorp.held_bytes import PARTS
from gorp.launch import join_ranks
from gorp.methods import load_method
from gorp.probe import Probe, TimeOfRun, estimate_time
from gorp.protect import check_covered
from gorp.rehearsal import KEEPING, TRAINING
from gorp.run_config import RunConfig
from gorp.run_setup import check_on_quantized, rows_of, starting_space
from gorp.space import GradientSpace
from gorp.space_growth import TYPICAL_SHARE, SideGrowth, bytes_after, growth_of, layers_full_at, measured_shares
from gorp.stand_ins import read_model_config, read_tokenizer
from gorp.workload import read_tasks


class Memory(BaseModel):
    """Most bytes of tensors alive at an instant on the device, from shapes: in all, by phase, and then by part."""

    peak: int
    phase: str
    phases: dict[str, int]
    parts: dict[str, int]
    main_memory: int | None
    ranks: int


class Space(BaseModel):
    """How the gradient spaces are expected to grow."""

    rests_on: str
    columns_per_task: float
    bytes_per_task: int
    bytes_after: int
    after_tasks: int
    most_bytes: int
    first_layer_full_at_task: int | None
    half_of_layers_full_at_task: int | None
    all_layers_full_at_task: int | None


class Operations(BaseModel):
    """Of matrix products, a multiplication and an addition counting as two."""

    training: list[int]
    own: list[int]
    evaluation: int


class Forecast(BaseModel):
    """All of it, with what was assumed and what is left out; `gorp plan --json` prints this."""

    format_version: int = 1
    method: str
    model: str
    stream: str
    device: str
    tasks: list[str]
    steps: list[int]
    tokens: list[int]
    parameters: dict[str, int]
    memory: Memory
    space: Space | None
    operations: Operations
    time: TimeOfRun | None
    assumed: list[str]
    left_out: list[str]


def forecast(
    config: RunConfig,
    after_tasks: int | None = None,
    like: Path | None = None,
    share: float | None = None,
    ranks: int = 1,
    probe_seconds: float | None = 120.0,
) -> Forecast:
    """Tell what a run will cost. Of the model, config.json is read and nothing else but its tokenizer.

    Args:
        config: of the run.
        after_tasks: how many tasks the space is told after; those of the stream if not given.
        like: a run folder or space file whose measured growth is taken.
        share: of a side's width that a task takes, where ``like`` does not say.
        ranks: processes that the run is to be spread over.
        probe_seconds: at most so long are steps made for an estimate of time; None makes none.

    Raises:
        InputError: the configuration, model, stream, run or protecting space is none to plan by.
        GorpError: the method or model asks for values where there are only shapes.
    """
    if config.model is None:
        raise InputError("key 'model': is missing; accepted: a built-in name, a folder, or a hub id")
    if config.quantize:
        check_on_quantized(load_method(config.method))
    model_config = read_model_config(config.model)
    tokenizer, assumed = read_tokenizer(config.model, model_config)
    tasks, unseen, also_assumed = read_tasks(config, after_tasks)
    shares = measured_shares(like) if like else {}
    begun = _begun(config)
    device = join_ranks()
    try:
        seen = rehearse_dry(config, model_config, tokenizer, tasks, unseen, ranks, device)
    except RuntimeError as error:  # an operation that needs values, or one that fake tensors do not know
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise GorpError(f"no forecast for method {config.method!r} on this model: {reason}") from error
    workload, attached = seen.workload, seen.attached
    horizon = after_tasks or len(tasks)
    sides = []
    if attached.space:
        if begun:
            check_covered(begun.layers.keys(), list(attached.space.layers), str(config.protect))
        sides = growth_of(attached.space, shares, TYPICAL_SHARE if share is None else share, begun)
    memory = _memory(seen, config, bytes_after(sides, horizon), horizon, ranks, device)
    time, left_out = None, _left_out(config, ranks)
    if probe_seconds is not None:
        probe = Probe(config, model_config, tokenizer, workload, device, probe_seconds)
        time, untold = estimate_time(probe, memory.peak)
        left_out += untold
    return Forecast(
        method=config.method,
        model=config.model,
        stream=config.stream or "given",
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        tasks=[load.task.name for load in workload.stages],
        steps=[len(load.steps) for load in workload.stages],
        tokens=[sum(load.tokens) for load in workload.stages],
        parameters=attached.parameters,
        memory=memory,
        space=_space(sides, horizon, like, share, config.protect) if sides else None,
        operations=_operations(seen, config),
        time=time,
        assumed=[*assumed, *also_assumed, *([_UNCHECKED.format(config.protect)] if begun else [])],
        left_out=left_out,
    )


_UNCHECKED = "protect: that {} is of this base model; its weights, which would tell, are not read"


def _begun(config: RunConfig) -> GradientSpace | None:
    """The space that the run begins with, taken for that of its base model, whose weights are not there to compare."""
    return starting_space(config, GradientSpace.load(config.protect).base_fingerprint) if config.protect else None


def _memory(seen: DryRun, config: RunConfig, space: int, tasks: int, ranks: int, device: torch.device) -> Memory:
    """Peaks of the rehearsal, with the memory of a task and the spaces as they will be at the last one."""
    watch, attached = seen.watch, seen.attached
    grown = max(0, attached.grows) * max(0, tasks - 2)
    found: dict[str, dict[str, int]] = {}
    for phase, peak in watch.phases.items():
        held = watch.parts.get(TRAINING if phase == TRAINING else KEEPING, dict.fromkeys(PARTS, 0))
        parts = {**held, "temporary": max(0, peak - sum(held.values()))}
        parts["memory"] += attached.memory_to_come if phase == TRAINING else 0
        parts["space"] = space
        parts["method"] += grown
        parts["weights"] -= attached.saved_by_codes
        parts["rounding"] -= attached.remainders
        if config.training.parallel == "shard":
            parts |= {part: -(-parts[part] // ranks) for part in ("weights", "rounding")}
        found[phase] = parts
    peaks = {phase: sum(parts.values()) for phase, parts in found.items()}
    phase = max(peaks, key=peaks.__getitem__)
    return Memory(
        peak=peaks[phase],
        phase=phase,
        phases=peaks,
        parts=found[phase],
        main_memory=watch.main_memory if device.type != "cpu" else None,
        ranks=ranks,
    )


def _space(sides: list[SideGrowth], tasks: int, like: Path | None, share: float | None, protect: str | None) -> Space:
    if like is not None:
        rests_on = f"what each layer took a task in {like}"
    elif share is not None:
        rests_on = f"the share of a width that was given, {share:.2%} a task"
    else:
        rests_on = f"a typical share, {TYPICAL_SHARE:.0%} of a width a task; tasks differ (docs/plan.md)"
    if protect is not None:
        rests_on += f", beside the {sum(side.begun for side in sides):,} columns that {protect} holds from the start"
    full = layers_full_at(sides) or (None, None, None)
    return Space(
        rests_on=rests_on,
        columns_per_task=sum(side.columns for side in sides),
        bytes_per_task=bytes_after(sides, 1) - bytes_after(sides, 0),
        bytes_after=bytes_after(sides, tasks),
        after_tasks=tasks,
        most_bytes=4 * sum(side.most * (side.width + 1) for side in sides),
        first_layer_full_at_task=full[0],
        half_of_layers_full_at_task=full[1],
        all_layers_full_at_task=full[2],
    )


def _operations(seen: DryRun, config: RunConfig) -> Operations:
    """Scaled by tokens from two steps; gorp's own by steps and refreshes."""
    counts, workload = seen.watch.counts, seen.workload
    if len(counts) < 3:
        zero = [0] * len(workload.stages)
        return Operations(training=zero, own=zero, evaluation=_answering(seen))
    plain, renewed = counts[1], counts[2]
    per_token = plain["model"] / seen.step_tokens[0]
    extra = max(0, renewed["own"] - plain["own"])
    period = config.gorp.refresh_every
    return Operations(
        training=[int(per_token * sum(load.tokens)) for load in workload.stages],
        own=[int(plain["own"] * len(load.steps) + extra * -(-len(load.steps) // period)) for load in workload.stages],
        evaluation=_answering(seen),
    )


def _answering(seen: DryRun) -> int:
    """Of all scorings of the run, as if every row were of the longest batch: at most so many."""
    if not seen.scored_rows:
        return 0
    workload = seen.workload
    rows = sum(
        len(rows_of(task, workload.split))
        for stage in range(-1, len(workload.stages))
        for task in workload.scorings(stage)
    )
    return int(sum(seen.watch.evaluation.values()) / seen.scored_rows * rows)


#: What is not told of single methods.
_OF_METHODS = {
    "replay": "replay: old rows that later tasks train on, too; their steps take time and operations besides",
    "ewc": "ewc: its pass over a task's rows at the end is timed on some of them",
    "lwf": "lwf: what it computes of a task's rows beforehand is not timed",
    "inflora": "inflora: its pass over a task's rows at the start is not timed",
    "prog-prompt": "prog-prompt: prompts of later tasks make passes longer",
    "l2p": "l2p: prompts that are put before a text are in memory, and not in tokens",
    "osf": "osf: the decomposition of every weight at the start of a task is not timed",
    "galore": "galore: what a refresh takes besides other steps is not told apart",
}


def _left_out(config: RunConfig, ranks: int) -> list[str]:
    """What the forecast does not tell, in words."""
    notes = ["memory: what libraries take within an operation, and what allocators hold back; Python and its libraries"]
    if config.method in _OF_METHODS:
        notes.append(_OF_METHODS[config.method])
    if config.quantize:
        notes.append(
            "quantize: passes are a plain model's; not the time of codes, nor a weight made of them for a while"
        )
    if ranks > 1:
        notes.append("ranks: messages between them, and time on more than one")
    if ranks > 1 and config.training.parallel == "shard":
        notes.append("shard: the block that is gathered while it is used, and the whole model at the start")
    return notes
