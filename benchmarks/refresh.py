"""What a refresh costs beside a full SVD, and how much of the exact top-k energy it catches on real gradients.

    python benchmarks/refresh.py --out benchmarks/performance/refresh.json
    python benchmarks/refresh.py --only energy --model MODEL --data DIR --out benchmarks/performance/refresh_energy.json

``cost``: one layer's gradient G (size, size) of some tokens, given formed or as x and delta; its new directions by the
block iteration from a warm start, and by torch.linalg.svd of G; and all that a refresh does to a layer. ``energy``:
every linear layer of the blocks learns the first two tasks of standard-cl order 1 at full rank; at every refresh of
every layer, ||U^T G V||^2 over the exact top-k energy of G (I - S S^T).
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path
from unittest import mock

import torch
from timing import Figure, alternate, tell
from torch import Tensor, nn

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
    "full_rank_targets": ["SelfAttention", "EncDecAttention", "DenseReluDense"],
    "rank": RANK,
    "memory": "weighted_features",
    "energy": 0.98,
    "max_share": 0.97,
    "protect_outputs": False,
}
"""The memory and the space as in experiments/methods_t5.yaml."""


def cost(size: int, tokens: int, full: float, rounds: int) -> list[Figure]:
    """Times of one search, and of a whole refresh; ``full`` is the share of the width that S takes."""
    torch.manual_seed(0)
    delta, x = torch.randn(tokens, size), torch.randn(tokens, size) * 0.995 ** torch.arange(size)
    parts = OuterProducts([(delta, x)])
    gradient = parts.formed(torch.float32)
    basis = orthonormalize(torch.randn(size, int(full * size)))
    start = dominant_subspace(gradient, torch.randn(size, RANK + SPARE_COLUMNS), RANK, basis).block
    wide, narrow = square_layer(basis, torch.float32), square_layer(basis, torch.bfloat16)
    seconds = alternate(
        {
            "svd": lambda: torch.linalg.svd(gradient, full_matrices=False),
            "G given": lambda: dominant_subspace(gradient, start, RANK, basis),
            f"from {tokens} tokens": lambda: dominant_subspace(parts, start, RANK, basis),
            f"whole refresh in fp32, from {tokens} tokens": lambda: refresh(wide, delta, x),
            f"whole refresh in bf16, from {tokens} tokens": lambda: refresh(narrow, delta.bfloat16(), x.bfloat16()),
        },
        rounds,
    )
    theirs = seconds.pop("svd")
    goals = {"G given": ">= 120", f"from {tokens} tokens": ">= 300"} if not full else {}
    return [
        Figure.ratio(f"{size} x {size}, S {full:.0%} full: full SVD / gorp, {what}", theirs, ours, goals.get(what, ""))
        for what, ours in seconds.items()
    ]


def square_layer(basis: Tensor, dtype: torch.dtype) -> ProjectedLinear:
    """A square full-rank layer whose space is given."""
    size = len(basis)
    model = nn.Sequential(nn.Linear(size, size, bias=False, dtype=dtype))
    gorp.attach(model, gorp.GORPConfig(full_rank_targets=["0"], rank=RANK, refresh_from="activations"))
    (layer,) = gorp.learned_layers(model).values()
    assert isinstance(layer, ProjectedLinear)
    layer.space.input.basis = basis
    layer.restart(task=1)
    return layer


def refresh(layer: ProjectedLinear, delta: Tensor, x: Tensor) -> None:
    """All that a refresh adds to a layer's step: norms, search, alignment, the core's new gradient, the merge."""
    layer.accumulate_gradient(delta, x)
    layer._end_pass(layer.core)
    layer.begin_step()
    layer.forget_pending()


def energy(model: str, data: str, steps: int, batch_size: int) -> list[Figure]:
    """Shares of the exact top-k energy, over refreshes and layers."""
    torch.manual_seed(0)
    backbone = load_backbone(model)
    encoder = Encoder(backbone.model, backbone.tokenizer, 128, 50)
    net = gorp.attach(backbone.model, gorp.GORPConfig.model_validate(LEARNS))
    optimizer = gorp.GORPAdamW(gorp.param_groups(net), lr=2e-3, full_rank_lr=1e-2)
    config = RunConfig.from_mapping({"stream": "standard-cl/1", "data": {"dir": data, "train_rows": 1000}})
    first: list[float] = []
    later: list[float] = []
    concentrated: list[float] = []
    choose = ProjectedLinear._projection_of

    def watched(layer: ProjectedLinear, gradient: Tensor | OuterProducts) -> Dominant:
        chosen = choose(layer, gradient)
        u, v = chosen.u, chosen.v
        whole = gradient.formed(torch.float64) if isinstance(gradient, OuterProducts) else gradient.double()
        free = project_out(whole, layer.space.basis.double())
        energies = torch.linalg.svdvals(free).square()
        exact = energies[: u.shape[1]].sum()
        (later if layer.step else first).append(float((u.double().mT @ free @ v.double()).square().sum() / exact))
        concentrated.append(float(exact / energies.sum()))
        return chosen

    with mock.patch.object(ProjectedLinear, "_projection_of", watched):
        for task in load_stream(config)[:2]:
            rows = encoder.rows(task.train)
            for step in range(steps):
                batch = encoder.training_batch([rows[(batch_size * step + i) % len(rows)] for i in range(batch_size)])
                optimizer.zero_grad()
                answer_loss(encoder.logits(net, batch), batch["labels"]).backward()
                optimizer.step()
            gorp.end_task(net, optimizer, task.name)
    return [
        *_spread("energy share, warm start", later, ">= 0.98", ">= 0.95"),
        *_spread("energy share, first of a task", first),
        *_spread(f"the top {RANK} directions' share of all energy", concentrated),
    ]


def _spread(what: str, shares: list[float], mean_goal: str = "", low_goal: str = "") -> list[Figure]:
    shares = sorted(shares)
    ends = shares[0], shares[-1]
    return [
        Figure(f"{what}, mean of {len(shares)}", statistics.fmean(shares), *ends, mean_goal),
        Figure(f"{what}, 5th percentile", shares[len(shares) // 20], *ends, low_goal),
    ]


def main() -> None:
    """Parse the command line, measure, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=["cost", "energy"])
    parser.add_argument("--size", type=int, default=4096)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=250, help="optimizer steps a task, for energy")
    parser.add_argument("--batch-size", type=int, default=32, help="rows, for energy")
    parser.add_argument("--model", default="t5-tiny")
    parser.add_argument("--data", default=None, help="folder of the benchmark data; without it, no energy")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    figures = []
    if options.only != "energy":
        for full in (0.0, 0.25):
            figures += cost(options.size, options.tokens, full, options.rounds)
    if options.only != "cost" and options.data:
        figures += energy(options.model, options.data, options.steps, options.batch_size)
    tell("refresh", figures, options.out)


if __name__ == "__main__":
    main()
