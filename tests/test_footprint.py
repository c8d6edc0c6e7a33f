"""Bytes told from shapes are those that an attached model and its optimizer hold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import gorp
from gorp._linalg import orthonormalize
from gorp._sketch import GRAM_WIDTH, SKETCH_ROWS
from gorp.errors import InputError
from gorp.footprint import PARTS, footprint

CONFIGS: dict[str, dict[str, object]] = {
    "defaults": {},
    "inputs": {"memory": "features", "protect_outputs": False},
    "random": {"projection": "random", "rank": 6},
    "paper": {"variant": "paper"},
}


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 40), nn.Tanh(), nn.Linear(40, 16), nn.Tanh(), nn.Linear(16, 3)).to(dtype)


def config(**settings: object) -> gorp.GORPConfig:
    given = {"lora_targets": ["0"], "full_rank_targets": ["2"], "rank": 4, "max_share": 0.5, **settings}
    return gorp.GORPConfig.model_validate(given)


def held(model: nn.Module, optimizer: gorp.GORPAdamW) -> dict[str, int]:
    """The same parts, counted."""
    layers = gorp.learned_layers(model).values()
    factors = {id(p): p for layer in layers for p in layer.factors().values()}
    buffers = dict(model.named_buffers())
    states = optimizer.state.values()
    sides = [s for layer in layers for s in (layer.space.input, layer.space.output) if s is not None]

    def count(tensors: list[Tensor]) -> int:
        return sum(tensor.nbytes for tensor in tensors)

    return {
        "weights": count([p for p in model.parameters() if id(p) not in factors]),
        "rounding": count([b for name, b in buffers.items() if name.endswith("rounding_remainder")]),
        "stacks": 0,
        "factors": count(list(factors.values())),
        "projections": count([b for name, b in buffers.items() if name.rpartition(".")[2] in ("U", "V", "start")]),
        "gradients": count([p.grad for p in factors.values() if p.grad is not None]),
        "moments": count([state[part] for state in states for part in ("exp_avg", "exp_avg_sq")]),
        "memory": count([state["sketch"] for state in states]),
        "space": count([part for side in sides for part in (side.basis, side.energy)]),
    }


@pytest.mark.parametrize("form", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("tasks", [0, 2])
def test_bytes_told_are_bytes_held(form: dict[str, object], dtype: torch.dtype, tasks: int) -> None:
    growth, settings = 0.25, config(**form)
    told = footprint(network(dtype), settings, tasks, growth)
    model = gorp.attach(network(dtype), settings)
    for layer in gorp.learned_layers(model).values():
        for side in (layer.space.input, layer.space.output):
            if side is not None:
                side.basis = orthonormalize(torch.randn(side.width, int(tasks * growth * side.width)))
                side.energy = torch.ones(side.rank)
        layer.restart(tasks)
    optimizer = gorp.GORPAdamW(gorp.param_groups(model))
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.randn(5, 24, dtype=dtype)).float().square().mean().backward()
        optimizer.step()
    assert tuple(told) == PARTS
    assert told == held(model, optimizer)


def test_what_layers_share_counts_once() -> None:
    def attention() -> nn.Module:
        return nn.ModuleDict({name: nn.Linear(24, 24) for name in ("q", "k", "v", "o")})

    settings = [config(lora_targets=["q", "k"], full_rank_targets=["v", "o"], share_inputs=share) for share in (0, 1)]
    own, shared = (footprint(attention(), each, tasks=2, growth=0.25) for each in settings)
    assert own["space"] - shared["space"] == 2 * 4 * 12 * 25, "the half that two layers hold each, and its energies"
    assert {**own, "space": 0} == {**shared, "space": 0}
    model = gorp.attach(attention(), settings[1])
    assert len(model.gradient_space.input_sides) == 2


def test_wide_layers_keep_rows_and_the_cap_holds() -> None:
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(GRAM_WIDTH + 1, 8), nn.Linear(8, 8))
    told = footprint(model, config(lora_targets=[], full_rank_targets=["0"], memory="features"), tasks=9, growth=0.4)
    assert told["memory"] == 4 * (SKETCH_ROWS - 1) * (GRAM_WIDTH + 1)
    assert told["space"] == 4 * int(0.5 * (GRAM_WIDTH + 1)) * (GRAM_WIDTH + 2)


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="matches no linear layer"):
        footprint(network(), config(full_rank_targets=["none"]))
    for tasks, growth in ((-1, 0.5), (1, 1.5), (1, float("nan"))):
        with pytest.raises(ValueError, match="growth in"):
            footprint(network(), config(), tasks, growth)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"full_rank_targets": ["0"]}, "matches both"),
        ({"lora_targets": [], "full_rank_targets": []}, "no targets"),
        ({"rank": 20}, "above the size"),
    ],
)
def test_what_cannot_be_attached_has_no_bytes(settings: dict[str, object], message: str) -> None:
    for refused in (footprint, gorp.attach):
        with pytest.raises(InputError, match=message):
            refused(network(), config(**settings))
