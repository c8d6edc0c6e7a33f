"""What a backward pass shows of a layer's inputs, and what the memory makes of it."""

from copy import deepcopy

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gorp
from gorp._linalg import seeded_normal
from gorp._taps import ROWS_PER_USE, input_rows, tap
from gorp.reference import grown_basis, weighted_inputs
from gorp.space import INPUT, OUTPUT

TOKENS, IN, OUT = 200, 24, 10


def drawn(seed: int = 0) -> tuple[Tensor, Tensor]:
    """Inputs (tokens, in) and deltas (tokens, out) of sizes from 1e-3 to 1e3."""
    inputs, delta = seeded_normal(TOKENS, IN, seed), seeded_normal(TOKENS, OUT, seed + 1)
    return inputs, delta * torch.logspace(-3, 3, TOKENS)[:, None]


@pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "plain"])
def test_the_gram_matrix_is_that_of_the_weighted_inputs_in_expectation(weighted: bool) -> None:
    inputs, delta = drawn()
    exact = weighted_inputs(inputs, delta if weighted else delta / delta.norm(dim=1, keepdim=True))
    exact = exact.mT @ exact
    mean, draws = torch.zeros(IN, IN), 400
    for seed in range(draws):
        rows = input_rows(inputs, delta, weighted, seed)
        assert rows.shape == (ROWS_PER_USE, IN)
        mean += rows.mT @ rows / draws
    assert (mean - exact).norm() < 0.05 * exact.norm()


def test_few_tokens_are_kept_as_they_are() -> None:
    inputs, delta = drawn()
    rows = input_rows(inputs[:5], delta[:5], True, seed=0)
    torch.testing.assert_close(rows, weighted_inputs(inputs[:5], delta[:5]))


@pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "plain"])
def test_what_the_loss_does_not_see_leaves_nothing(weighted: bool) -> None:
    inputs, delta = drawn()
    inputs[:, 0] = 0
    inputs[::3, 0], delta[::3] = 1e6, 0
    rows = input_rows(inputs, delta, weighted, seed=0)
    assert rows[:, 0].abs().max() == 0
    assert rows.norm() > 0
    assert input_rows(inputs, torch.zeros_like(delta), weighted, seed=0).norm() == 0


def test_the_scale_of_the_loss_does_not_matter() -> None:
    inputs, delta = drawn()
    rows = input_rows(inputs, delta, True, seed=0)
    torch.testing.assert_close(input_rows(inputs, 65536 * delta, True, seed=0), rows)
    low = input_rows(inputs.bfloat16(), delta.bfloat16(), True, seed=0)
    assert low.dtype == torch.float32
    assert (low - rows).norm() < 0.01 * rows.norm()


def test_a_tap_changes_neither_output_nor_gradient() -> None:
    x = seeded_normal(4, IN, 0).requires_grad_()
    weight = seeded_normal(OUT, IN, 1)
    seen: list[Tensor] = []
    output = tap(x @ weight.mT, x, lambda delta, inputs: seen.extend([delta, inputs]))
    assert output.equal(x @ weight.mT)
    output.square().sum().backward()
    assert x.grad is not None
    assert x.grad.equal(torch.autograd.grad((x @ weight.mT).square().sum(), x)[0])
    assert seen[0].equal(2 * output.detach())
    assert seen[1].equal(x)


class Reader(nn.Module):
    """A LoRA layer, then a full-rank one, which is used twice; what follows them works in place."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lora, self.full_rank = nn.Linear(IN, IN, bias=False), nn.Linear(IN, IN, bias=False)
        self.checkpointing = ""

    def forward(self, x: Tensor) -> Tensor:
        def body(x: Tensor) -> Tensor:
            return self.full_rank(self.full_rank(self.lora(x).tanh_()).tanh_()).tanh_()

        return checkpoint(body, x, use_reentrant=self.checkpointing == "reentrant") if self.checkpointing else body(x)


def reader(memory: str, **settings: object) -> tuple[Reader, gorp.GORPAdamW]:
    model = Reader()
    choice = {"lora_targets": ["lora"], "full_rank_targets": ["full_rank"], "rank": 4, "memory": memory}
    gorp.attach(
        model, gorp.GORPConfig.model_validate({**choice, "protect_outputs": False, "max_share": 1.0, **settings})
    )
    return model, gorp.GORPAdamW(gorp.param_groups(model), lr=1e-3, full_rank_lr=1e-3)


def tokens(step: int) -> tuple[Tensor, Tensor]:
    """Tokens (64, in) of which one half lives in twelve directions, the other in the other twelve, and their worth."""
    x = seeded_normal(64, IN, step)
    x[:32, :12], x[32:, 12:] = 0, 0
    return x, torch.cat([torch.ones(32, 1), torch.full((32, 1), 1e-4)])


def learn(model: Reader, optimizer: gorp.GORPAdamW, steps: int, parts: int = 1) -> None:
    for step in range(steps):
        optimizer.zero_grad()
        x, worth = tokens(step)
        for piece, weight in zip(x.chunk(parts), worth.chunk(parts), strict=True):
            (weight * (model(piece) - 1).square()).mean().backward()
        optimizer.step()


def held(model: Reader, directions: slice) -> float:
    basis = gorp.learned_layers(model)["lora"].space.basis
    return float(basis[directions].square().sum())


def test_weighting_spends_the_space_on_what_the_loss_depends_on() -> None:
    """Half of the tokens carry nearly all of the gradient: three quarters of the weight."""
    kept = {}
    for memory in ("features", "weighted_features"):
        model, optimizer = reader(memory, energy=0.7)
        learn(model, optimizer, 30)
        gorp.end_task(model, optimizer, "0")
        kept[memory] = (held(model, slice(12, 24)), held(model, slice(0, 12)))
    assert kept["weighted_features"][0] > 10
    assert kept["weighted_features"][1] < 1
    assert min(kept["features"]) > 6


def test_the_space_holds_the_promised_energy_of_the_exact_weighted_inputs() -> None:
    model, optimizer = reader("weighted_features", energy=0.9)
    exact: list[Tensor] = []
    layer = gorp.learned_layers(model)["lora"]
    plain = layer.see_inputs

    def both(delta: Tensor, inputs: Tensor) -> None:
        exact.append(weighted_inputs(inputs.detach(), delta.detach()))
        plain(delta, inputs)

    layer.see_inputs = both  # type: ignore[method-assign]
    learn(model, optimizer, 30)
    gorp.end_task(model, optimizer, "0")
    rows = torch.cat(exact)
    share = (rows @ layer.space.basis).square().sum() / rows.square().sum()
    assert 0.87 < share < 0.95
    fewest = grown_basis(torch.zeros(IN, 0), rows, 0.9).shape[1]
    assert abs(layer.space.input.rank - fewest) <= 1


def test_damped_steps_shrink_with_the_share_of_the_inputs_that_is_free() -> None:
    """The same gradients, the same Adam: after a task, a layer's first step is shorter by exactly that share."""
    moved, strides = [], []
    for damping in (0.0, 1.0):
        model, optimizer = reader("features", energy=0.9, damping=0.0)
        learn(model, optimizer, 5)
        gorp.end_task(model, optimizer, "0")
        layer = gorp.learned_layers(model)["lora"]
        layer.config = layer.config.model_copy(update={"damping": damping})
        before = layer.factors()[OUTPUT].clone()
        learn(model, optimizer, 1)
        moved.append(layer.factors()[OUTPUT] - before)
        strides.append(float(layer.stride))
    x, _ = tokens(0)
    free = x - x @ layer.space.basis @ layer.space.basis.T
    assert strides[0] == 1
    assert strides[1] == pytest.approx(float(free.norm() / x.norm()), rel=0.1)  # of random sums, of the exact inputs
    assert strides[1] < 0.5
    torch.testing.assert_close(moved[1], strides[1] * moved[0])


def test_what_damps_the_steps_is_saved_with_the_optimizer() -> None:
    runs = [reader("weighted_features", energy=0.9, damping=0.5) for _ in range(2)]
    for model, optimizer in runs:
        learn(model, optimizer, 3)
        gorp.end_task(model, optimizer, "0")
        learn(model, optimizer, 3)
    (model, optimizer), (resumed, fresh) = runs
    fresh.restart()  # or it would hold the same already
    fresh.load_state_dict(deepcopy(optimizer.state_dict()))
    energy = fresh.state[gorp.learned_layers(resumed)["lora"].factors()[INPUT]]["energy"]
    assert 0 < energy[0] < energy[1]
    for model, optimizer in runs:
        learn(model, optimizer, 3)
    for ours, theirs in zip(*(gorp.learned_layers(run).values() for run, _ in runs), strict=True):
        assert ours.effective_weight().equal(theirs.effective_weight())


@pytest.mark.parametrize("memory", ["features", "weighted_features"])
def test_checkpointing_and_passes_that_led_nowhere_change_nothing(memory: str) -> None:
    readers = [reader(memory) for _ in range(4)]
    saving, reentrant, stumbling = readers[1:]
    saving[0].checkpointing, reentrant[0].checkpointing = "saved tensors", "reentrant"
    for step in range(5):
        x, worth = tokens(step)
        (stumbling[0](3 * x) * worth).square().mean().backward()
        stumbling[0].zero_grad()  # the optimizer does not hear of it
        for model, optimizer in readers:
            x = x.detach().requires_grad_(model is reentrant[0])
            (worth * (model(x) - 1).square()).mean().backward()
            optimizer.step()
            model.zero_grad()
    sketches = [
        [optimizer.state[layer.factors()[INPUT]]["sketch"] for layer in gorp.learned_layers(model).values()]
        for model, optimizer in readers
    ]
    assert sketches[0][0].norm() > 0
    for others in sketches[1:]:
        for sketch, other in zip(sketches[0], others, strict=True):
            torch.testing.assert_close(other, sketch)


def test_passes_of_one_step_are_all_remembered() -> None:
    model, optimizer = reader("features", accumulation_steps=2)
    x, worth = tokens(0)
    for piece, weight in zip(x.chunk(2), worth.chunk(2), strict=True):
        (weight * (model(piece) - 1).square()).mean().backward()
    seen = {name: layer.seen[INPUT] for name, layer in gorp.learned_layers(model).items()}
    assert seen["lora"].shape == (2 * ROWS_PER_USE, IN)
    assert seen["full_rank"].shape == (4 * ROWS_PER_USE, IN)
    assert seen["lora"][0, :12].norm() == 0
    optimizer.step()
    for name, layer in gorp.learned_layers(model).items():
        gram = optimizer.state[layer.factors()[INPUT]]["sketch"]
        torch.testing.assert_close(gram, seen[name].mT @ seen[name])


def test_frozen_layers_and_what_learns_nothing_see_nothing() -> None:
    model, _ = reader("weighted_features")
    layers = gorp.learned_layers(model)
    with torch.no_grad():
        model(tokens(0)[0])
    assert not any(layer.seen or layer.rows_of_pass for layer in layers.values())
    layers["full_rank"].freeze()  # gradients still pass through it
    model.eval()  # to learn without dropout
    model(tokens(0)[0]).sum().backward()
    assert layers["lora"].seen
    assert not layers["full_rank"].seen
    assert not layers["full_rank"].rows_of_pass


def test_signs_differ_from_step_to_step_and_from_layer_to_layer_under_any_seed() -> None:
    inputs, delta = drawn()
    model, _ = reader("features", seed=2**31 - 1)
    layers = list(gorp.learned_layers(model).values())
    for layer, step in ((layers[0], 0), (layers[0], 1), (layers[1], 0)):
        layer.refresh_at(step)
        layer.see_inputs(delta, inputs)
    first, second, third = [*layers[0].rows_of_pass, *layers[1].rows_of_pass]
    assert (first - second).norm() > 0.1 * first.norm()
    assert (first - third).norm() > 0.1 * first.norm()
