"""How a training step under gorp grows with the layers, the tokens and the width, beside the model's forward pass.

    python benchmarks/scaling.py --out benchmarks/performance/scaling.json

Encoder-decoders of T5's kind with random weights, of which one measure at a time is doubled. Told is the exponent p of
seconds ~ size^p, by least squares over the logarithms of medians: 1 is linear. Tokens grow by rows, not by their
length, in which attention is quadratic. A step is the mean of T, one of them a refresh; memories are full.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from speed import VOCABULARY, Step, attach, steps_of
from timing import Figure, alternate, tell
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration

SIZES: Mapping[str, Sequence[int]] = {
    "layers": (1, 2, 4, 8),
    "rows": (1, 2, 4, 8),
    "width": (256, 512, 1024, 2048),
}
MIDDLE = {"layers": 2, "rows": 2, "width": 512}
LENGTH = 128


def build(layers: int, width: int) -> nn.Module:
    """An encoder and a decoder of so many blocks each."""
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=VOCABULARY, d_model=width, d_ff=4 * width, d_kv=64, num_heads=max(1, width // 64),
            num_layers=layers, num_decoder_layers=layers, dropout_rate=0.0, decoder_start_token_id=0, use_cache=False,
        )
    )  # fmt: skip


def contenders(layers: int, rows: int, width: int, length: int) -> dict[str, Step]:
    """T steps under gorp, and one forward pass of the bare model."""
    base = build(layers, width)
    tokens = torch.randint(0, VOCABULARY, (rows, length))

    @torch.no_grad()
    def forward() -> None:
        base(input_ids=tokens, labels=tokens)

    return {"step": steps_of(*attach(base, 0.0), rows, length), "forward pass": forward}


def exponent(sizes: Sequence[int], seconds: Sequence[float]) -> float:
    """The slope of log seconds over log size."""
    return statistics.linear_regression([math.log(size) for size in sizes], [math.log(t) for t in seconds]).slope


def measure(sizes: Mapping[str, Sequence[int]], rounds: int, length: int = LENGTH) -> list[Figure]:
    """Exponents of the step and of the forward pass in each measure."""
    torch.manual_seed(0)
    figures = []
    for measure_of, values in sizes.items():
        runs: dict[str, Callable[[], object]] = {}
        for value in values:
            for name, run in contenders(**{**MIDDLE, measure_of: value}, length=length).items():
                runs[f"{name} {value}"] = run
        seconds = alternate(runs, rounds)
        for name, goal in (("step", "the forward's" if measure_of == "width" else "1"), ("forward pass", "")):
            turns = zip(*(seconds[f"{name} {value}"] for value in values), strict=True)
            slopes = [exponent(values, turn) for turn in turns]
            medians = [statistics.median(seconds[f"{name} {value}"]) for value in values]
            what = f"{name}, exponent in {measure_of} ({', '.join(map(str, values))})"
            figures.append(Figure(what, exponent(values, medians), min(slopes), max(slopes), goal))
    return figures


def main() -> None:
    """Parse the command line, measure, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    tell("scaling", measure(SIZES, options.rounds), options.out)


if __name__ == "__main__":
    main()
