"""New directions from inputs and output gradients, held to the weight's gradient formed whole."""

from __future__ import annotations

import gc
import weakref

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gorp
from gorp._linalg import (
    Dominant,
    dominant_subspace,
    orthonormalize,
    probe,
    project_out,
    seeded_normal,
)
from gorp._outer_products import CHUNK, OuterProducts
from gorp.full_rank_linear import FullRankLinear
from gorp.layers import ProjectedLinear

WIDTH, TOKENS, STEPS = 48, 24, 50
COMPILED: dict[str, dict[str, object]] = {
    "sketch": {"memory": "sketch"},
    "inputs": {"memory": "weighted_features"},
    "random": {"projection": "random"},
}


def outer(tokens: int = 30, out: int = 20, width: int = 40, uses: int = 2, decay: float = 0.8) -> OuterProducts:
    scale = decay ** torch.arange(width, dtype=torch.float64)
    return OuterProducts([
        (seeded_normal(tokens, out, i, torch.float64), seeded_normal(tokens, width, 10 + i, torch.float64) * scale)
        for i in range(uses)
    ])  # fmt: skip


def dense(products: OuterProducts) -> Tensor:
    return sum(left.double().T @ right.double() for left, right in products.panels)


@pytest.mark.parametrize("tokens", [30, CHUNK + 5], ids=["one chunk", "two chunks"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=["fp64", "bf16"])
def test_outer_products_stand_in_for_their_matrix(tokens: int, dtype: torch.dtype) -> None:
    products = OuterProducts([(left.to(dtype), right.to(dtype)) for left, right in outer(tokens).panels])
    matrix = dense(products)
    block, left_block = seeded_normal(40, 5, 3, torch.float64), seeded_normal(20, 5, 4, torch.float64)
    torch.testing.assert_close(products @ block, matrix @ block)
    torch.testing.assert_close(products.mT @ left_block, matrix.T @ left_block)
    torch.testing.assert_close(products.formed(torch.float64), matrix)
    torch.testing.assert_close((products + products) @ block, 2 * matrix @ block)
    torch.testing.assert_close(matrix + products, 2 * matrix)
    assert products.shape == tuple(matrix.shape)
    assert products.nbytes == 2 * tokens * 60 * dtype.itemsize


def test_the_faster_way_is_told_by_its_operations() -> None:
    few, many = outer(tokens=4, out=300, width=400, uses=1), outer(tokens=4000, out=300, width=400, uses=1)
    assert few.is_cheaper(200)
    assert not many.is_cheaper(200)
    assert many.is_cheaper(20)
    tie = outer(tokens=7, out=10, width=20, uses=1)  # 2 x 7 x 30 c < 200 (7 + 2 c): c < 70
    assert tie.is_cheaper(69)
    assert not tie.is_cheaper(70)


def norms_of_probes(matrix: OuterProducts, basis: Tensor) -> list[Tensor]:
    return [torch.linalg.vector_norm(images) for images in probe(matrix, basis, seed=0)]


@pytest.mark.parametrize("share", [1.0, 1e-4], ids=["much free", "little free"])
def test_directions_off_a_space_are_those_of_the_free_matrix(share: float) -> None:
    """Also where nearly all of the gradient lies in the space, and its round-off is no smaller than what is sought."""
    basis = orthonormalize(seeded_normal(40, 12, 5, torch.float64))
    inside = seeded_normal(30, 12, 6, torch.float64) @ basis.T
    ((delta, x),) = outer(uses=1).panels
    products = OuterProducts([(delta.float(), (share * project_out(x, basis) + inside).float())])
    free = project_out(dense(products), basis)
    u, v, rows, start = dominant_subspace(products, seeded_normal(40, 16, 7), 6, basis.float())
    assert (v.double().T @ basis).norm() < 1e-5
    assert (u.double().T @ free @ v.double()).square().sum() > 0.999 * torch.linalg.svdvals(free)[:6].square().sum()
    assert start.shape == (40, 16)
    torch.testing.assert_close(rows.double(), u.double().T @ dense(products), rtol=1e-3, atol=1e-3)
    room, size = norms_of_probes(products, basis.float())
    assert 0.5 < room / free.norm() < 2
    assert 0.5 < size / dense(products).norm() < 2


def test_norms_tell_nothing_and_nonsense() -> None:
    nothing, basis = OuterProducts([(torch.zeros(3, 4), torch.ones(3, 5))]), torch.eye(5)[:, :2]
    assert [float(norm) for norm in norms_of_probes(nothing, basis)] == [0, 0]
    for value in (float("nan"), float("inf")):
        left = torch.ones(3, 4)
        left[1, 2] = value
        _, size = norms_of_probes(OuterProducts([(left, torch.ones(3, 5))]), basis)
        assert not torch.isfinite(size)
    inside = OuterProducts([(torch.randn(3, 4), torch.randn(3, 2) @ basis.T)])
    room, size = norms_of_probes(inside, basis)
    assert room < 1e-6 * size


class Network(nn.Module):
    """Two full-rank layers, the second one used twice."""

    def __init__(self, checkpointing: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.shared, self.head = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, 6)
        self.checkpointing = checkpointing

    def body(self, x: Tensor) -> Tensor:
        return self.shared(torch.tanh(self.shared(torch.tanh(self.up(x)))))

    def forward(self, x: Tensor) -> Tensor:
        inner = checkpoint(self.body, x, use_reentrant=False) if self.checkpointing else self.body(x)
        return self.head(torch.tanh(inner))


def attached(
    refresh_from: str, checkpointing: bool = False, dtype: torch.dtype = torch.float32, **settings: object
) -> Network:
    model = Network(checkpointing).to(dtype)
    targets = {"full_rank_targets": ["up", "shared"], "rank": 4, "energy": 0.8, "refresh_from": refresh_from}
    return gorp.attach(model, gorp.GORPConfig.model_validate(targets | settings))


def data(task: int, step: int) -> tuple[Tensor, Tensor]:
    x = seeded_normal(TOKENS, 8, 500 * task + step) @ seeded_normal(8, WIDTH, 1000 + task)
    return x, torch.tanh(x @ seeded_normal(WIDTH, 6, 2000) / WIDTH**0.5)


def losses(
    model: Network,
    tasks: int = 1,
    passes: int = 1,
    autocast: bool = False,
    all_within: bool = False,
    forward: nn.Module | None = None,
) -> list[float]:
    """Of every pass; five refreshes a task. Under autocast the forward pass, or ``all_within``."""
    forward = model if forward is None else forward
    optimizer = gorp.GORPAdamW(gorp.param_groups(model), full_rank_lr=1e-2)
    told = []
    for task in range(tasks):
        for step in range(STEPS):
            x, y = (part.to(model.head.weight.dtype) for part in data(task, step))
            with torch.autocast("cpu", torch.bfloat16, enabled=all_within):
                optimizer.zero_grad()
                for part_x, part_y in zip(x.chunk(passes), y.chunk(passes), strict=True):
                    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
                        loss = (forward(part_x) - part_y).square().mean() / passes
                    loss.backward()
                    told.append(loss.item())
                optimizer.step()
        with torch.autocast("cpu", torch.bfloat16, enabled=all_within):
            gorp.end_task(model, optimizer, str(task))
    return told


def change(model: Network, start: dict[str, Tensor]) -> Tensor:
    layers = gorp.learned_layers(model)
    return torch.cat([(layers[name].effective_weight() - weight).flatten() for name, weight in start.items()])


@pytest.mark.parametrize("passes", [1, 4], ids=["one pass", "accumulated"])
@pytest.mark.parametrize("checkpointing", [False, True], ids=["plain", "checkpointed"])
@pytest.mark.parametrize("memory", ["sketch", "weighted_features"])
def test_activations_and_weight_gradient_learn_the_same(passes: int, checkpointing: bool, memory: str) -> None:
    """One task in fp32; two in fp64, for what the second may learn is small enough to be moved by round-off."""
    given = {"accumulation_steps": passes, "memory": memory, "checkpointing": checkpointing}
    for dtype, tasks in ((torch.float32, 1), (torch.float64, 2)):
        pair = [attached(form, dtype=dtype, **given) for form in ("activations", "weight_gradient")]
        start = {name: layer.effective_weight().clone() for name, layer in gorp.learned_layers(pair[0]).items()}
        told, expected = (losses(model, tasks, passes) for model in pair)
        assert told == pytest.approx(expected, rel=1e-4)
        assert expected[passes * STEPS - 1] < 0.6 * expected[0]
        first, second = (change(model, start) for model in pair)
        assert (first - second).norm() < 1e-4 * second.norm()


def test_under_autocast_the_panels_stay_as_they_are_and_learn_the_same() -> None:
    told = losses(attached("activations"), autocast=True)
    expected = losses(attached("weight_gradient"), autocast=True)
    torch.testing.assert_close(torch.tensor(told), torch.tensor(expected), rtol=0.05, atol=1e-3)
    assert told[-1] < 0.6 * told[0]


WITHIN: dict[str, dict[str, object]] = {
    "gradients": {"memory": "sketch", "protect_outputs": False},
    "inputs": {"memory": "weighted_features", "protect_outputs": False},
    "random": {"projection": "random", "protect_outputs": False},
    "paper": {"variant": "paper", "lora_dropout": 0.0},
}


@pytest.mark.parametrize("refresh_from", ["activations", "weight_gradient"])
@pytest.mark.parametrize("form", WITHIN.values(), ids=WITHIN)
def test_backward_and_step_within_autocast_are_those_outside(refresh_from: str, form: dict[str, object]) -> None:
    models = [attached(refresh_from, lora_targets=["head"], **form) for _ in range(2)]
    told = [
        losses(model, 2, autocast=True, all_within=within) for model, within in zip(models, (False, True), strict=True)
    ]
    assert told[0] == told[1]
    for within, outside in zip(*(gorp.learned_layers(model).values() for model in models), strict=True):
        assert within.effective_weight().equal(outside.effective_weight())
        assert within.space.basis.equal(outside.space.basis)


def test_attaching_loading_and_reading_within_autocast_are_exact() -> None:
    settings = {"projection": "random", "lora_targets": ["head"], "protect_outputs": False}
    first = attached("cheapest", **settings)
    losses(first)
    learnt = gorp.learned_layers(first)["up"].space.basis
    with torch.autocast("cpu", torch.bfloat16):
        config = gorp.GORPConfig(full_rank_targets=["up", "shared"], rank=4, **settings)
        model = gorp.attach(Network(False), config, first.gradient_space)
        chosen = [gorp.learned_layers(model)["up"].V]
        optimizer = gorp.GORPAdamW(gorp.param_groups(model))
        (model(data(1, 0)[0]) ** 2).mean().backward()
        optimizer.step()
        state = optimizer.state_dict()
        for part in state["state"].values():
            part["step"].fill_(10)  # when a refresh is due
        optimizer.load_state_dict(state)
        assert all(layer.effective_weight().dtype is torch.float32 for layer in gorp.learned_layers(model).values())
    assert learnt.shape[1] > 0
    chosen.append(gorp.learned_layers(model)["up"].V)
    for V in chosen:
        assert (V.mT @ learnt).abs().max() < 1e-6


@pytest.mark.parametrize("passes", [1, 4], ids=["one pass", "accumulated"])
def test_the_cheapest_form_is_held(passes: int) -> None:
    """Few tokens stay in parts; once the passes' panels outgrow the gradient, they are joined."""
    model = attached("cheapest", accumulation_steps=passes, rank=1)
    layer = gorp.learned_layers(model)["up"]
    assert isinstance(layer, ProjectedLinear)
    forms = []
    for rows in (1, 1, 2 * WIDTH, 1)[:passes]:
        model(torch.randn(rows, WIDTH)).sum().backward()
        forms.append(type(layer._gradient))
    assert forms[-1] is type(None), "chosen at the last pass, and nothing held"
    assert forms[:-1] == [OuterProducts, OuterProducts, Tensor][: passes - 1]


@pytest.fixture
def searched(monkeypatch: pytest.MonkeyPatch) -> list[Tensor | OuterProducts]:
    """The gradients that directions were searched in."""
    gradients: list[Tensor | OuterProducts] = []
    choose = ProjectedLinear._projection_of

    def watched(layer: ProjectedLinear, gradient: Tensor | OuterProducts) -> Dominant:
        gradients.append(gradient)
        return choose(layer, gradient)

    monkeypatch.setattr(ProjectedLinear, "_projection_of", watched)
    return gradients


def test_directions_are_searched_once_a_step(searched: list[Tensor | OuterProducts]) -> None:
    losses(attached("cheapest", accumulation_steps=4), passes=4)
    assert len(searched) == 2 * STEPS // 10, "of two layers"


@pytest.mark.parametrize("refresh_from", ["cheapest", "activations", "weight_gradient"])
def test_the_last_pass_may_stand_for_all(refresh_from: str) -> None:
    """Where the passes are alike it is the same; where they are not, the last one gives the directions."""
    learnt = {}
    for passes in ("all", "last"):
        model = attached(refresh_from, accumulation_steps=3, refresh_passes=passes)
        optimizer = gorp.GORPAdamW(gorp.param_groups(model), full_rank_lr=1e-2)
        for step in range(21):
            x, y = data(0, step)
            optimizer.zero_grad()
            for _ in range(3 if step < 15 else 2):
                (model(x) - y).square().mean().backward()
            optimizer.step()
        learnt[passes] = gorp.learned_layers(model)["up"]
    for part in ("V", "core"):
        torch.testing.assert_close(getattr(learnt["last"], part), getattr(learnt["all"], part), rtol=1e-3, atol=1e-4)
    layer = gorp.learned_layers(attached(refresh_from, accumulation_steps=2, refresh_passes="last"))["up"]
    assert isinstance(layer, ProjectedLinear)
    shown = [(torch.randn(3, WIDTH), torch.randn(3, WIDTH)) for _ in range(2)]
    for delta, x in shown:
        layer.accumulate_gradient(delta, x)
        layer.core.grad = torch.zeros_like(layer.core)
        layer._end_pass(layer.core)
    assert layer._chosen is not None
    delta, x = shown[-1]
    torch.testing.assert_close(layer._chosen.rows, 2 * layer._chosen.u.mT @ delta.mT @ x, rtol=1e-3, atol=1e-3)


def test_the_last_pass_alone_holds_no_more_than_all() -> None:
    held = {}
    for passes in ("all", "last"):
        layer = gorp.learned_layers(attached("cheapest", accumulation_steps=3, refresh_passes=passes))["up"]
        assert isinstance(layer, ProjectedLinear)
        held[passes] = []
        for _ in range(2):
            layer.accumulate_gradient(torch.randn(25, WIDTH), torch.randn(25, WIDTH))  # faster, but more, than G
            layer.core.grad = torch.zeros_like(layer.core)
            layer._end_pass(layer.core)
            assert layer._gradient is not None
            held[passes].append(layer._gradient.nbytes)
    assert max(held["last"]) <= max(held["all"]) <= 4 * WIDTH * WIDTH


@pytest.mark.parametrize("clip", [float("inf"), 1e-3], ids=["whole", "clipped"])
def test_a_step_of_fewer_passes_refreshes_by_what_they_showed(clip: float) -> None:
    """As where so many passes are expected. Clipped, it sees the old core's gradient: zero in a task's first step."""
    learnt = []
    for expected in (2, 5):
        model = attached("cheapest", accumulation_steps=expected)
        optimizer = gorp.GORPAdamW(gorp.param_groups(model), full_rank_lr=1e-2)
        for step in range(21):
            x, y = data(0, step)
            optimizer.zero_grad()
            for part_x, part_y in zip(x.chunk(2), y.chunk(2), strict=True):
                (model(part_x) - part_y).square().mean().backward()
            if step:
                nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], clip)
            optimizer.step()
        learnt.append(model)
    layers = zip(*(gorp.learned_layers(model).values() for model in learnt), strict=True)
    for layer, other in layers:
        assert isinstance(layer, ProjectedLinear) and isinstance(other, ProjectedLinear)
        torch.testing.assert_close(layer.V, other.V, rtol=0, atol=1e-2 if clip < 1 else 1e-5)
        torch.testing.assert_close(layer.core, other.core, rtol=0.2 if clip < 1 else 1e-5, atol=1e-5)


@pytest.mark.parametrize(("tokens", "form"), [(1, OuterProducts), (20 * WIDTH, Tensor)], ids=["few", "many"])
def test_one_pass_chooses_from_the_form_of_fewer_operations(
    tokens: int, form: type, searched: list[Tensor | OuterProducts]
) -> None:
    model = attached("cheapest")
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(torch.randn(tokens, WIDTH)).sum()
    loss.backward()
    assert [type(gradient) for gradient in searched] == [form] * 2
    if form is OuterProducts:
        assert searched[-1].panels[0][0].dtype is torch.bfloat16, "panels stay as autocast made them"


@pytest.mark.parametrize("refresh_from", ["cheapest", "activations", "weight_gradient"])
def test_a_buffer_that_is_filled_again_spoils_no_earlier_pass(refresh_from: str) -> None:
    learnt = []
    for reuse in (False, True):
        model = attached(refresh_from, accumulation_steps=2)
        optimizer = gorp.GORPAdamW(gorp.param_groups(model), full_rank_lr=1e-2)
        buffer = torch.empty(4, WIDTH)
        for step in range(3):
            x, y = data(0, step)
            optimizer.zero_grad()
            for part_x, part_y in zip(x[:8].chunk(2), y[:8].chunk(2), strict=True):
                (model(buffer.copy_(part_x) if reuse else part_x) - part_y).square().mean().backward()
            optimizer.step()
        learnt.append(gorp.learned_layers(model)["up"].effective_weight())
    torch.testing.assert_close(*learnt)


def test_at_most_one_layers_gradient_is_alive(monkeypatch: pytest.MonkeyPatch) -> None:
    """Formed within a layer's own backward pass, gone before the next layer's begins."""
    alive: list[weakref.ref[Tensor]] = []
    counts: list[int] = []
    formed = OuterProducts.formed

    def watched(self: OuterProducts, dtype: torch.dtype) -> Tensor:
        matrix = formed(self, dtype)
        gc.collect()
        alive.append(weakref.ref(matrix))
        counts.append(sum(ref() is not None for ref in alive))
        return matrix

    monkeypatch.setattr(OuterProducts, "formed", watched)
    model = nn.Sequential(*(layer for i in range(4) for layer in (nn.Linear(WIDTH, WIDTH), nn.Tanh())))
    gorp.attach(model, gorp.GORPConfig(full_rank_targets=["0", "2", "4", "6"], refresh_from="weight_gradient"))
    optimizer = gorp.GORPAdamW(gorp.param_groups(model))
    for _ in range(11):
        optimizer.zero_grad()
        model(torch.randn(TOKENS, WIDTH)).square().mean().backward()
        assert not any(ref() is not None for ref in alive)
        optimizer.step()
    assert counts == [1] * 8, "two refreshes of four layers"
    assert all(layer.weight.grad is None for layer in model if isinstance(layer, ProjectedLinear))


@pytest.mark.parametrize("projection", ["gradient", "random"])
@pytest.mark.parametrize("stagger", [False, True], ids=["together", "staggered"])
def test_layers_refresh_together_or_take_turns(projection: str, stagger: bool) -> None:
    names = [str(index) for index in range(0, 14, 2)]
    torch.manual_seed(0)
    model = nn.Sequential(*(part for _ in names for part in (nn.Linear(WIDTH, WIDTH), nn.Tanh())))
    settings = {"full_rank_targets": names, "projection": projection, "refresh_every": 5, "stagger_refresh": stagger}
    gorp.attach(model, gorp.GORPConfig.model_validate(settings))
    optimizer = gorp.GORPAdamW(gorp.param_groups(model))
    layers = [layer for layer in model if isinstance(layer, FullRankLinear)]
    turns = []
    for _ in range(11):
        before = [layer.V.clone() for layer in layers]
        optimizer.zero_grad()
        model(torch.randn(TOKENS, WIDTH)).square().mean().backward()
        optimizer.step()
        turns.append(sum(not layer.V.equal(old) for layer, old in zip(layers, before, strict=True)))
    if stagger:
        assert max(turns[1:]) == 2, "seven layers in five turns"
        assert sum(turns[1:6]) == sum(turns[2:7]) == len(layers)
    else:
        assert sorted(turns[1:]) == [0] * 8 + [7] * 2


@pytest.mark.filterwarnings("ignore::UserWarning")  # Dynamo looks at .grad of its own copies
@pytest.mark.parametrize("form", COMPILED.values(), ids=COMPILED)
def test_a_compiled_model_learns_the_same(form: dict[str, object]) -> None:
    """A layer is compiled with and without a refresh, and for inputs that learn or not; never as U, V and W change."""
    torch._dynamo.reset()
    plain, compiled = attached("activations", **form), attached("activations", **form)
    expected = losses(plain)
    with torch._dynamo.config.patch(recompile_limit=4, fail_on_recompile_limit_hit=True):
        told = losses(compiled, forward=torch.compile(compiled, backend="aot_eager"))
    assert told == pytest.approx(expected, rel=1e-4)
