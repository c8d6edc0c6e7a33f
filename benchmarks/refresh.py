"""What a refresh costs beside a full SVD, and how much of the exact top-k energy it catches on real gradients.

    python benchmarks/refresh.py --out benchmarks/performance/refresh.json
    python benchmarks/refresh.py --only energy --model MODEL --data DIR --out benchmarks/performance/refresh_energy.json

``cost``: one layer's gradient G (size, size) of some tokens, given formed or as x and delta; its new directions by the
block iteration from a warm start, and by torch.linalg.svd of G. ``energy``: gorp learns the first two tasks of
standard-cl order 1; at every refresh of every full-rank layer, ||U^T G V||^2 over the exact top-k energy of
G (I - S S^T).
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from unittest import mock

import torch
from timing import Figure, alternate, tell
from torch import Tensor

import gorp
from gorp._linalg import SPARE_COLUMNS, Dominant, dominant_subspace, orthonormalize, project_out
from gorp._outer_products import OuterProducts
from gorp.backbones import load_backbone
from gorp.encoding import Encoder, answer_loss
from gorp.layers import ProjectedLinear
from gorp.run_config import RunConfig
from gorp.run_setup import load_stream

RANK = 8
LEARNS = {
    "lora_targets": ["SelfAttention", "DenseReluDense"],
    "full_rank_targets": ["EncDecAttention"],
    "rank": RANK,
    "memory": "weighted_features",
    "energy": 0.98,
    "max_share": 0.97,
    "protect_outputs": False,
}
"""As in experiments/methods_t5.yaml."""


def cost(size: int, tokens: int, full: float, rounds: int) -> list[Figure]:
    """Times of one refresh; ``full`` is the share of the width that S takes."""
    torch.manual_seed(0)
    delta, x = torch.randn(tokens, size), torch.randn(tokens, size) * 0.995 ** torch.arange(size)
    parts = OuterProducts([(delta, x)])
    gradient = parts.formed(torch.float32)
    basis = orthonormalize(torch.randn(size, int(full * size)))
    start = dominant_subspace(gradient, torch.randn(size, RANK + SPARE_COLUMNS), RANK, basis).block
    seconds = alternate(
        {
            "svd": lambda: torch.linalg.svd(gradient, full_matrices=False),
            "given": lambda: dominant_subspace(gradient, start, RANK, basis),
            "parts": lambda: dominant_subspace(parts, start, RANK, basis),
        },
        rounds,
    )
    what = f"{size} x {size}, S {full:.0%} full: full SVD / gorp"
    return [
        Figure.ratio(f"{what}, G given", seconds["svd"], seconds["given"], ">= 120" if not full else ""),
        Figure.ratio(f"{what}, from {tokens} tokens", seconds["svd"], seconds["parts"], ">= 300" if not full else ""),
    ]


def energy(model: str, data: str, steps: int) -> list[Figure]:
    """Shares of the exact top-k energy, over refreshes and layers."""
    torch.manual_seed(0)
    backbone = load_backbone(model)
    encoder = Encoder(backbone.model, backbone.tokenizer, 128, 50)
    net = gorp.attach(backbone.model, gorp.GORPConfig.model_validate(LEARNS))
    optimizer = gorp.GORPAdamW(gorp.param_groups(net), lr=2e-3, full_rank_lr=1e-2)
    config = RunConfig.from_mapping({"stream": "standard-cl/1", "data": {"dir": data, "train_rows": 1000}})
    first: list[float] = []
    later: list[float] = []
    choose = ProjectedLinear._projection_of

    def watched(layer: ProjectedLinear, gradient: Tensor | OuterProducts) -> Dominant:
        chosen = choose(layer, gradient)
        u, v = chosen.u, chosen.v
        whole = gradient.formed(torch.float64) if isinstance(gradient, OuterProducts) else gradient.double()
        free = project_out(whole, layer.space.basis.double())
        exact = torch.linalg.svdvals(free)[: u.shape[1]].square().sum()
        (later if layer.step else first).append(float((u.double().mT @ free @ v.double()).square().sum() / exact))
        return chosen

    with mock.patch.object(ProjectedLinear, "_projection_of", watched):
        for task in load_stream(config)[:2]:
            rows = encoder.rows(task.train)
            for step in range(steps):
                batch = encoder.training_batch([rows[(8 * step + i) % len(rows)] for i in range(8)])
                optimizer.zero_grad()
                answer_loss(encoder.logits(net, batch), batch["labels"]).backward()
                optimizer.step()
            gorp.end_task(net, optimizer, task.name)
    figures = []
    for shares, when, goals in ((later, "warm start", (">= 0.98", ">= 0.95")), (first, "first of a task", ("", ""))):
        shares.sort()
        for name, value, goal in (
            ("mean", statistics.fmean(shares), goals[0]),
            ("5th percentile", shares[len(shares) // 20], goals[1]),
        ):
            figures.append(Figure(f"energy share, {when}, {name} of {len(shares)}", value, shares[0], shares[-1], goal))
    return figures


def main() -> None:
    """Parse the command line, measure, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["cost", "energy"])
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=250, help="optimizer steps a task, for energy")
    parser.add_argument("--model", default="t5-tiny")
    parser.add_argument("--data", default=None, help="folder of the benchmark data; without it, no energy")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    figures = []
    if options.only != "energy":
        for full in (0.0, 0.25):
            figures += cost(options.size, options.tokens, full, options.rounds)
    if options.only != "cost" and options.data:
        figures += energy(options.model, options.data, options.steps)
    tell("refresh", figures, options.out)


if __name__ == "__main__":
    main()
