"""What gorp costs on a GPU: whole models with random weights in bf16, beside LoRA and full fine-tuning.

    python benchmarks/gpu.py --models T5-large LLaMA2-7B --out benchmarks/performance/gpu.json

The contenders of speed.py, at batch ``--rows`` x ``--length``, their forward passes under bf16 autocast, one after the
other, for two of the larger do not fit beside each other. A ratio is of T steps, one of them a refresh. "Kernels" are
the optimizer's work as the GPU saw it, what the hooks do included: the time of its kernels in T steps, over the time
that the card needs to move the bytes that they cannot do without, at the pace of a large copy: x and delta of each
full-rank layer and its W, read and written, once per refresh; of every factor in every step the value and both moments,
read and written, and the gradient, read.
"""

from __future__ import annotations

import argparse
import gc
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from speed import HOOKS, RANK, T, attach, full, lora, steps_of
from timing import Figure, alternate, finish, tell
from torch import nn
from torch.profiler import profile, record_function
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, T5Config, T5ForConditionalGeneration

import gorp
from gorp.backbones import default_targets, load_backbone
from gorp.layers import ProjectedLinear
from gorp.learner import ContinualLearner
from gorp.run_config import RunConfig
from gorp.run_setup import load_stream

Trial = tuple[list[float], int]

MODELS: dict[str, Callable[[], PreTrainedModel]] = {
    "T5-large": lambda: T5ForConditionalGeneration(
        T5Config(
            vocab_size=32128, d_model=1024, d_ff=4096, d_kv=64, num_heads=16, num_layers=24, num_decoder_layers=24,
            dropout_rate=0.0, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1, use_cache=False,
        )
    ),
    "LLaMA2-7B": lambda: LlamaForCausalLM(
        LlamaConfig(
            vocab_size=32000, hidden_size=4096, intermediate_size=11008, num_hidden_layers=32, num_attention_heads=32,
            pad_token_id=0, eos_token_id=1, use_cache=False,
        )
    ),
}  # fmt: skip


def build(name: str, device: torch.device) -> PreTrainedModel:
    """A whole model with random weights, in bf16, made where it is to be."""
    torch.manual_seed(0)
    former = torch.get_default_dtype()
    torch.set_default_dtype(torch.bfloat16)
    try:
        with device:
            return MODELS[name]()
    finally:
        torch.set_default_dtype(former)


@contextmanager
def marked() -> Iterator[None]:
    """gorp's work in the profiler's eyes: its hooks, and the optimizer's step."""

    def named(method: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **given: Any) -> Any:
            with record_function("gorp"):
                return method(*args, **given)

        return run

    with ExitStack() as stack:
        for owner, method in [*HOOKS, (gorp.GORPAdamW, "step")]:
            stack.enter_context(mock.patch.object(owner, method, named(getattr(owner, method))))
        yield


def kernel_seconds(base: nn.Module, rows: int, length: int) -> tuple[float, int]:
    """Seconds of gorp's kernels in T steps, and the bytes that they cannot do without."""
    with marked():  # before hooks are registered
        model, optimizer = attach(base, 0.0)
        steps = steps_of(model, optimizer, rows, length)
        steps()
        with profile() as trace:
            steps()
            finish()
    (marks,) = (event for event in trace.key_averages() if event.key == "gorp")
    return marks.device_time_total / 1e6, floor_bytes(model, rows * length)


def bytes_per_second(device: torch.device) -> float:
    """What a large copy reads and writes in a second."""
    source = torch.randn(2**28, device=device)
    target = torch.empty_like(source)
    seconds = alternate({"copy": lambda: target.copy_(source)}, rounds=10)["copy"]
    return 2 * source.nbytes / sorted(seconds)[5]


def floor_bytes(model: nn.Module, tokens: int) -> int:
    """The fewest bytes of T steps; T5's decoder sees as many tokens as its encoder."""
    layers = gorp.learned_layers(model).values()
    factors = sum(factor.numel() for layer in layers for factor in layer.factors().values())
    refreshed = [layer for layer in layers if isinstance(layer, ProjectedLinear)]
    panels = sum(2 * tokens * (layer.in_features + layer.out_features) for layer in refreshed)
    weights = sum(2 * 4 * layer.weight.numel() for layer in refreshed)  # bf16 and the remainder
    return panels + weights + T * 7 * 4 * factors


Contender = Callable[[nn.Module], tuple[nn.Module, torch.optim.Optimizer]]

QUARTER = "gorp, spaces a quarter full"

CONTENDERS: dict[str, Contender] = {
    "gorp": lambda base: attach(base, 0.0),
    QUARTER: lambda base: attach(base, 0.25),
    "LoRA": lora,
    "full fine-tuning": full,
}


def trial(name: str, contender: Contender, rows: int, length: int, rounds: int, device: torch.device) -> Trial:
    """Times and peak memory of one contender, alone on the card."""
    gc.collect()
    torch.cuda.empty_cache()
    parts = contender(build(name, device))
    steps = steps_of(*parts, rows, length)
    torch.cuda.reset_peak_memory_stats()
    return alternate({"": steps}, rounds)[""], torch.cuda.max_memory_allocated()


def measure(name: str, rows: int, length: int, rounds: int, quarter: bool, device: torch.device) -> list[Figure]:
    """All ratios on one model; beside full fine-tuning with half the rows, for the larger model's sake."""
    few = max(rows // 2, 1)
    seconds, peaks = {}, {}
    for what, size in [("gorp", rows), ("LoRA", rows), (QUARTER, rows), ("gorp", few), ("full fine-tuning", few)]:
        if what != QUARTER or quarter:
            seconds[what, size], peaks[what, size] = trial(name, CONTENDERS[what], size, length, rounds, device)
            print(f"{name}, {size} x {length}, {what}: {seconds[what, size]} s", flush=True)
    figures = [
        Figure.ratio(
            f"{name} step, {size} x {length}: {over} / {under}", seconds[over, size], seconds[under, size], goal
        )
        for over, under, size, goal in (
            ("gorp", "LoRA", rows, "<= 1.05"),
            (QUARTER, "gorp", rows, "<= 1.05"),
            ("gorp", "full fine-tuning", few, "<= 0.75"),
        )
        if (over, size) in seconds
    ]
    ours, theirs = peaks["gorp", rows], peaks["LoRA", rows]
    figures.append(
        Figure(f"{name} peak of memory: gorp ({ours / 2**30:.1f} GiB) / LoRA", *3 * (ours / theirs,), "<= 1.03")
    )
    gc.collect()
    torch.cuda.empty_cache()
    pace = bytes_per_second(device)
    taken, least = kernel_seconds(build(name, device), rows, length)
    what = f"{name} optimizer's kernels in T steps / their bytes at {pace / 1e12:.2f} TB/s"
    return [*figures, Figure(what, *3 * (taken * pace / least,), "<= 3", (taken, least / pace))]


def end_to_end(name: str, device: torch.device) -> list[Figure]:
    """Two tasks of the built-in stream from a folder's start to its end, under gorp and under LoRA."""
    tokenizer = load_backbone("t5-tiny").tokenizer
    figures = []
    for method in ("gorp", "inc-lora"):
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        base = build(name, device)
        config = RunConfig.from_mapping(
            {
                "method": method,
                "dtype": "bfloat16",
                "training": {"epochs": 1, "batch_size": 16, "precision": "bf16", "lr": 1e-4, "full_rank_lr": 1e-3},
                "lora": {"targets": [target for kind in default_targets(base) for target in kind], "rank": RANK},
                "data": {"train_rows": 320, "test_rows": 32, "validation_rows": 32},
            }
        )
        with tempfile.TemporaryDirectory() as folder:
            learner = ContinualLearner(base, tokenizer, run_dir=folder, config=config)
            learner.learn_stream(load_stream(config)[:2])
        stages = learner.record.stages
        rate = 2 * 320 / sum(stage.seconds["train"] for stage in stages)
        peak = torch.cuda.max_memory_allocated() / 2**30
        figures.append(Figure(f"{name}, two tasks, {method}: rows trained a second", *3 * (rate,)))
        figures.append(Figure(f"{name}, two tasks, {method}: peak of memory, GiB", *3 * (peak,)))
        leaks = [
            meter.leak / meter.leak_bound for meter in stages[-1].layers.values() if meter.leak and meter.leak_bound
        ]
        if method == "gorp":
            figures.append(Figure(f"{name}, two tasks: worst leak over its bound", *3 * (max(leaks),), "<= 1"))
        del learner, base
    return figures


def main() -> None:
    """Parse the command line, measure, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(MODELS), default=list(MODELS))
    parser.add_argument("--rows", type=int, default=8)
    parser.add_argument("--length", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--no-quarter", action="store_true", help="without spaces that are a quarter full")
    parser.add_argument("--end-to-end", action="store_true", help="two tasks of a run, in place of steps")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    device = torch.device("cuda")
    figures: list[Figure] = []
    for name in options.models:
        if options.end_to_end:
            figures += end_to_end(name, device)
        else:
            quarter = not options.no_quarter
            figures += measure(name, options.rows, options.length, options.rounds, quarter, device)
        tell(f"GPU, bf16, batch {options.rows} x {options.length}", figures, options.out)


if __name__ == "__main__":
    main()
