"""Tables of docs/scaling.md, from what many_devices.py counted and from what is assumed here of GPUs and of tasks."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from many_devices import BLOCKS, CONFIG, FULL, LENGTH, MODELS, RANKS, build
from transformers import PreTrainedModel

from gorp._sketch import SKETCH_KEPT, SKETCH_ROWS
from gorp._taps import ROWS_PER_USE
from gorp.footprint import footprint
from gorp.learning_model import HELD_OUT_ROWS
from gorp.report.tables import Grid, to_markdown
from gorp.targets import learning_layers

COUNTED = Path(__file__).parent / "performance" / "many_devices.json"
TASKS = (10, 100, 1_000, 10_000)
GROWTHS = (0.001, 0.005, 0.02)
GPU = {"bfloat16": 400e12, "float32": 40e12, "float64": 40e12}
"""Operations a second that we take a GPU to make."""

HBM = 2.5e12
"""Bytes a second that it reads and writes."""

NETWORK = {8: 300e9}
"""Bytes a second that it sends within a machine of eight; beyond, BETWEEN_MACHINES."""

BETWEEN_MACHINES = 40e9
FULL_BYTES = 16
"""Of full fine-tuning, bytes a number: bf16 weight and gradient, fp32 weight and Adam's two moments."""

SHRINKS_EVERY = (SKETCH_ROWS - SKETCH_KEPT) // ROWS_PER_USE
POSITIONS = 8
"""Of each held-out row, positions whose inputs are kept."""


@dataclass(frozen=True)
class Cost:
    """What one rank of a whole model does and holds, by moment and kind; in a step it holds some bytes ``beyond``."""

    ranks: int
    facts: Mapping[str, float]
    beyond: float

    @property
    def peak(self) -> float:
        """Most bytes alive in a step."""
        return sum(count for what, count in self.facts.items() if what.startswith("held")) + self.beyond

    def of(self, what: str) -> float:
        """One count, 0 if there was none."""
        return self.facts.get(what, 0)

    def sent(self, moment: str) -> float:
        """Bytes that this rank sends in rings: of a message that all sum, nearly twice its size, else nearly once."""
        part = (self.ranks - 1) / self.ranks
        once = sum(self.of(f"{moment} sent {kind}") for kind in ("allgather", "reduce_scatter"))
        return part * (once + 2 * self.of(f"{moment} sent allreduce"))

    def model_seconds(self) -> float:
        """Of the forward and the backward pass, by operations."""
        return self._seconds("between", "model")

    def own_seconds(self, moment: str) -> float:
        """Of gorp's own work, by operations or by memory, whichever takes longer."""
        return max(self._seconds(moment, "gorp"), self.of(f"{moment} touched") / HBM)

    def mean_own_seconds(self) -> float:
        """The same over steps, of which every T-th refreshes and some shrink the memories."""
        between, refresh, shrinking = (self.own_seconds(moment) for moment in ("between", "refresh", "shrinking"))
        return between + (refresh - between) / CONFIG.refresh_every + (shrinking - between) / SHRINKS_EVERY

    def mean_sent(self) -> float:
        """Bytes a step over steps of which every T-th refreshes."""
        between, refresh = self.sent("between"), self.sent("refresh")
        return between + (refresh - between) / CONFIG.refresh_every

    def network_seconds(self, sent: float) -> float:
        """That many bytes take."""
        return sent / NETWORK.get(self.ranks, BETWEEN_MACHINES)

    def _seconds(self, moment: str, who: str) -> float:
        return sum(self.of(f"{moment} operations {who} {dtype}") / rate for dtype, rate in GPU.items())


@cache
def cost(model: str, form: str, ranks: int, is_full: bool = False) -> Cost:
    """Of a whole model; ``is_full`` is with spaces nearly at their cap.

    What was counted of replicas on eight ranks holds of any number, but for the end of a task, which is that of shards.
    """
    cases = json.loads(COUNTED.read_text())["cases"]
    counted = 8 if form == "replicate" else ranks
    (case,) = (
        case
        for case in cases
        if (case["model"], case["form"], case["ranks"], case["share"] > 0) == (model, form, counted, is_full)
    )
    layers = MODELS[model]["num_hidden_layers"]
    few, whole = (
        {what: case["rest"][what] + blocks * count for what, count in case["block"].items()}
        for blocks in (BLOCKS, layers)
    )
    held = sum(count for what, count in few.items() if what.startswith("held"))
    peak = max(few.get("shrinking peak", 0), few.get("refresh peak", 0) + few.get("held memory", 0))  # empty there
    checkpoint = 2 * LENGTH * MODELS[model]["hidden_size"]  # the input of a block, kept for its backward pass
    return Cost(ranks, whole, peak - held + (layers - BLOCKS) * checkpoint)


@cache
def shapes(model: str, blocks: int) -> PreTrainedModel:
    """So many blocks of a model, without weights."""
    with torch.device("meta"):
        return build(MODELS[model], blocks)


@cache
def from_shapes(model: str, tasks: int = 0, growth: float = 0.0) -> dict[str, int]:
    """`footprint` of a model's blocks, which is where all that learns is, and ``numbers``, parameters of all of it."""
    layers = MODELS[model]["num_hidden_layers"]
    one, two = (shapes(model, blocks) for blocks in (1, 2))
    parts = {part: layers * count for part, count in footprint(one, CONFIG, tasks, growth).items()}
    one_numbers, two_numbers = (sum(p.numel() for p in each.parameters()) for each in (one, two))
    learning = [one.get_submodule(name) for names in learning_layers(one, CONFIG) for name in names]
    return {
        **parts,
        "numbers": one_numbers + (layers - 1) * (two_numbers - one_numbers),
        "learning numbers": layers * sum(layer.weight.numel() for layer in learning),
        "inputs a task": 4 * HELD_OUT_ROWS * POSITIONS * layers * sum(layer.in_features for layer in learning),
    }


def ddp_sends(model: str, ranks: int) -> float:
    """Bytes a step of full fine-tuning under DDP, whose gradients are in bf16."""
    return 2 * (ranks - 1) / ranks * 2 * from_shapes(model)["numbers"]


def memory() -> str:
    """What a GPU holds, in GB, before any task and as its spaces grow."""
    rows = []
    for model in MODELS:
        for form, ranks in (("replicate", 8), *(("shard", ranks) for ranks in RANKS)):
            held = cost(model, form, ranks)
            parts = [held.of(f"held {part}") for part in ("weights", "rounding")]
            parts.append(sum(held.of(f"held {part}") for part in ("factors", "gradients", "moments")))
            parts += [held.of("held projections"), held.of("held memory")]
            spaces = [from_shapes(model, tasks, GROWTHS[0])["space"] for tasks in TASKS]
            whole = from_shapes(model)["numbers"] * FULL_BYTES / (1 if form == "replicate" else ranks)
            label = form if form == "replicate" else f"{form}, {ranks:,}"
            rows.append(
                (f"{model} {label}", *map(gigabytes, [*parts, *spaces, held.peak, held.peak + spaces[-1], whole]))
            )
    header = (
        "GB a GPU", "weights", "rounding", "factors, gradients, moments", "U, V, start", "memory",
        *(f"space, {tasks:,} tasks" for tasks in TASKS), "peak of a step", "peak, spaces full", "full fine-tuning",
    )  # fmt: skip
    return table(f"memory, one row of {LENGTH:,} tokens a GPU", header, rows)


def sent() -> str:
    """Bytes that a GPU sends in a step, in GB."""
    rows = []
    for model in MODELS:
        for ranks in RANKS:
            replicas, shards, full = (cost(model, form, ranks) for form in ("replicate", "shard", "full"))
            ddp = ddp_sends(model, ranks)
            moments = ("between", "refresh")
            counts = [*(replicas.sent(moment) for moment in moments), ddp]
            counts += [*(shards.sent(moment) for moment in moments), full.sent("between")]
            share = f"{100 * replicas.sent('between') / ddp:.2f}%"
            rows.append((f"{model}, {ranks:,}", *(gigabytes(count, 4) for count in counts[:3]), share,
                         *(gigabytes(count) for count in counts[3:])))  # fmt: skip
    header = (
        "GB", "replicate", "replicate, refresh", "full, DDP", "replicate / DDP", "shard",
        "shard, refresh", "full, FSDP2",
    )  # fmt: skip
    return table("bytes a GPU sends in a step", header, rows)


def work() -> str:
    """Seconds that a GPU computes in a step, as estimated."""
    rows = []
    for model in MODELS:
        full, ours = (cost(model, form, 8).model_seconds() for form in ("full", "replicate"))
        cells = [f"{full:.3g}", f"{ours:.3g}"]
        for is_full in (False, True):
            own = cost(model, "replicate", 8, is_full)
            cells += [f"{own.own_seconds(moment):.3g}" for moment in ("between", "refresh")]
            cells += [
                f"{own.mean_own_seconds():.3g}",
                f"{100 * own.mean_own_seconds() / (ours + own.mean_own_seconds()):.0f}%",
            ]
        rows.append((model, *cells))
    columns = ("between", "refresh", "mean", "share")
    spaces = ("empty", "full")
    header = (
        "seconds",
        "model, full",
        "model, gorp",
        *(f"own, {what}, spaces {kind}" for kind in spaces for what in columns),
    )
    return table(f"computing a step of {LENGTH:,} tokens, estimated", header, rows)


def network() -> str:
    """Seconds that a GPU sends in a step, as estimated, refreshes spread over all steps."""
    rows = []
    for model in MODELS:
        for ranks in RANKS:
            replicas, shards, full = (cost(model, form, ranks) for form in ("replicate", "shard", "full"))
            amounts = (replicas.mean_sent(), ddp_sends(model, ranks), shards.mean_sent(), full.sent("between"))
            rows.append((f"{model}, {ranks:,}", *(f"{replicas.network_seconds(amount):.3g}" for amount in amounts)))
    header = ("seconds", "replicate", "full, DDP", "shard", "full, FSDP2")
    return table("sending of a step, estimated", header, rows)


def end_of_task() -> str:
    """What the end of a task costs a GPU."""
    rows = []
    for model in MODELS:
        for ranks in RANKS:
            end = cost(model, "shard", ranks)
            at_once = ranks * 4 * FULL * MODELS[model]["hidden_size"]
            rows.append((
                f"{model}, {ranks:,}", gigabytes(end.sent("end")), gigabytes(at_once),
                f"{end.of('end decompositions'):,.0f}", f"{end.network_seconds(end.sent('end')):,.3g}",
                f"{end.own_seconds('end'):,.3g}",
            ))  # fmt: skip
    header = (
        "ranks",
        "GB through a GPU",
        "GB gathered at once",
        "decompositions",
        "seconds sending",
        "seconds of products",
    )
    return table("the end of a task, memories full", header, rows)


def growth() -> str:
    """How spaces and their file grow."""
    rows = []
    for model in MODELS:
        for share in GROWTHS:
            sizes = [gigabytes(from_shapes(model, tasks, share)["space"]) for tasks in TASKS]
            columns = int(share * MODELS[model]["hidden_size"])
            rows.append((f"{model}, {100 * share:g}%", f"{columns}", f"{tasks_until_full(share):,}", *sizes))
    header = ("share of the width a task", "columns", "layers full after", *(f"GB, {tasks:,} tasks" for tasks in TASKS))
    return table("spaces, by what a task needs", header, rows)


def tasks_until_full(share: float) -> int:
    """How many tasks fit below the cap."""
    return int(float(CONFIG.max_share or 1.0) / share + 1e-9)


def files() -> str:
    """Files and main memory, in GB, spaces full."""
    rows = []
    for model in MODELS:
        parts = from_shapes(model, 10_000, GROWTHS[-1])
        stage = 2 * parts["rounding"] + parts["factors"] + parts["projections"]
        flight = stage + parts["moments"] + parts["memory"]
        kept = [parts["inputs a task"] * tasks for tasks in (1, *TASKS)]
        meters = 32 * parts["learning numbers"]
        rows.append((model, *map(gigabytes, [parts["space"], stage, flight, *kept, meters, 8 * meters])))
    header = (
        "GB", "space file", "weights of a stage", "a task in flight", "held-out inputs, 1 task",
        *(f"{tasks:,} tasks" for tasks in TASKS), "meters, a process", "eight processes",
    )  # fmt: skip
    return table("files and main memory, spaces full", header, rows)


def table(title: str, header: Sequence[str], rows: Sequence[tuple[str, ...]]) -> str:
    """As Markdown."""
    return to_markdown(Grid(title, tuple(header), tuple(rows)))


def gigabytes(count: float, digits: int = 3) -> str:
    """Bytes as 10^9 of them."""
    value = count / 1e9
    return f"{value:,.0f}" if value >= 100 else f"{value:.{digits}g}"
