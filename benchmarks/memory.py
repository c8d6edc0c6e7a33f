"""Peak memory of training under gorp, beside LoRA, full fine-tuning and GaLore, on blocks of real shapes.

    python benchmarks/memory.py --out benchmarks/performance/memory.json

The blocks, contenders and batches of speed.py. A peak is the most bytes of tensors alive at an instant, from building
the model to the end of 2 T steps, as torch's profiler sees the CPU's allocator: weights, factors, moments, memories,
activations, gradients. gorp's memories are full from the start, or with memory ``first_moment`` there are none. What
its space S takes is told beside it and is no part of gorp's peak.
"""

from __future__ import annotations

import argparse
import gc
import json
import tempfile
from collections.abc import Callable
from itertools import accumulate
from pathlib import Path

import torch
from speed import BLOCKS, attach, full, galore, lora, steps_of
from timing import Figure, tell
from torch import nn
from torch.profiler import ProfilerActivity, profile


def peak(run: Callable[[], object]) -> int:
    """The most bytes alive at an instant, of those allocated while it ran."""
    gc.collect()  # what is freed meanwhile would count as less
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        kept = run()
    with tempfile.TemporaryDirectory() as folder:
        trace.export_chrome_trace(f"{folder}/trace.json")
        events = json.loads(Path(folder, "trace.json").read_text())["traceEvents"]
    del kept
    changes = sorted((event for event in events if event.get("name") == "[memory]"), key=lambda event: event["ts"])
    return max(accumulate(event["args"]["Bytes"] for event in changes))


def space_bytes(model: nn.Module) -> int:
    """Bytes of the bases of all layers' spaces."""
    space = model.gradient_space
    outputs = [layer.output for layer in space.layers.values() if layer.output is not None]
    return sum(side.basis.nbytes for side in (*space.input_sides, *outputs))


def measure(block: str, rows: int, length: int) -> list[Figure]:
    """All ratios on one block."""
    torch.manual_seed(0)
    base = BLOCKS[block]()

    def trained(build: Callable[[], tuple[nn.Module, torch.optim.Optimizer]]) -> Callable[[], object]:
        def run() -> object:
            model, optimizer = build()
            steps = steps_of(model, optimizer, rows, length)
            steps()
            steps()
            return model, optimizer

        return run

    theirs = peak(trained(lambda: lora(base)))
    figures = []

    def add(what: str, share: float, goal: str = "") -> None:
        figures.append(Figure(f"{block} peak: {what}", share, share, share, goal))

    for share in (0.0, 0.25):
        held = space_bytes(attach(base, share)[0])
        ours = peak(trained(lambda share=share: attach(base, share)))
        add(f"gorp, spaces {share:.0%} full, less S ({held / 2**20:.0f} MiB) / LoRA", (ours - held) / theirs, "<= 1.03")
    contenders = {
        "gorp without a memory of rows": lambda base: attach(base, 0.0, memory="first_moment"),
        "full fine-tuning": full,
        "GaLore": galore,
    }
    for what, build in contenders.items():
        try:
            add(f"{what} / LoRA", peak(trained(lambda build=build: build(base))) / theirs)
        except ImportError:
            print(f"{what}: not installed")
    return figures


def main() -> None:
    """Parse the command line, measure, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", nargs="+", choices=list(BLOCKS), default=list(BLOCKS))
    parser.add_argument("--rows", type=int, default=2)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    figures = []
    for block in options.blocks:
        figures += measure(block, options.rows, options.length)
    tell(f"memory, batch {options.rows} x {options.length}", figures, options.out)


if __name__ == "__main__":
    main()
