"""The fast path against the slow and literal one, and both against algorithms that are known."""

import pytest
import torch
from torch import Tensor, nn

import gorp
from gorp._linalg import rotation, seeded_normal
from gorp._sketch import GRAM_WIDTH, SKETCH_ROWS, sketch, sketched_rows
from gorp.errors import InputError
from gorp.layers import ProjectedLinear
from gorp.lora import LoRALayer
from gorp.random_projection import RandomlyProjectedLinear
from gorp.reference import ReferenceFullRank, ReferenceLoRA, ReferenceRandomFullRank, grown_basis

#: Variant and damping.
FORMS = {"exact": ("exact", 0.0), "damped": ("exact", 0.5), "paper": ("paper", 0.0)}
SHAPES = {"wide": (20, 48), "tall": (48, 20), "square": (32, 32)}
STEPS, TASKS = 50, 2


class OneLayer(nn.Module):
    def __init__(self, out_features: int, in_features: int) -> None:
        super().__init__()
        self.layer = nn.Linear(in_features, out_features, bias=False, dtype=torch.float64)
        with torch.no_grad():
            self.layer.weight.copy_(seeded_normal(out_features, in_features, 9) / in_features**0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


def batches(shape: tuple[int, int], task: int, rows: int = 16) -> list[tuple[Tensor, Tensor]]:
    """Regression on inputs that occupy part of the space, another part for each task."""
    out_features, in_features = shape
    mixing = seeded_normal(12, in_features, 100 + task, torch.float64)
    truth = seeded_normal(in_features, out_features, 200 + task, torch.float64) / in_features
    inputs = [seeded_normal(rows, 12, 1000 * task + i, torch.float64) @ mixing for i in range(STEPS)]
    return [(x, torch.tanh(x @ truth)) for x in inputs]


def loss_of(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    return (model(x) - y).square().mean()


def train(
    model: nn.Module, optimizer: gorp.GORPAdamW, task: int, shape: tuple[int, int], passes: int = 1, rows: int = 16
) -> None:
    for x, y in batches(shape, task, rows):
        optimizer.zero_grad()
        for part_x, part_y in zip(x.chunk(passes), y.chunk(passes), strict=True):
            (loss_of(model, part_x, part_y) / passes).backward()
        optimizer.step()


def full_gradient(weight: Tensor, x: Tensor, y: Tensor) -> Tensor:
    weight = weight.clone().requires_grad_()
    (x @ weight.T - y).square().mean().backward()
    assert weight.grad is not None
    return weight.grad


def relative(value: Tensor, expected: Tensor) -> float:
    return float((value.double() - expected.double()).norm() / expected.double().norm())


@pytest.mark.parametrize(("variant", "damping"), FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize(
    ("passes", "rows"), [(1, 16), (4, 16), (1, 2)], ids=["one pass", "accumulated", "gradients of rank 2 at rank 4"]
)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_full_rank_layer_equals_the_reference(
    shape: tuple[int, int], passes: int, rows: int, variant: str, damping: float
) -> None:
    model = OneLayer(*shape)
    start_weight = model.layer.weight.detach().clone()
    config = gorp.GORPConfig(
        variant=variant, full_rank_targets=["layer"], rank=4, energy=0.8, accumulation_steps=passes, max_share=1.0,
        damping=damping,
    )  # fmt: skip
    gorp.attach(model, config)
    optimizer = gorp.GORPAdamW(gorp.param_groups(model), full_rank_lr=1e-2)
    layer = gorp.learned_layers(model)["layer"]
    assert isinstance(layer, ProjectedLinear)
    weight = start_weight
    basis = torch.zeros(shape[1] if variant == "exact" else 4, 0, dtype=torch.float64)
    for task in range(TASKS):
        seed = layer.task_seed
        turns = (rotation(4, 2 * seed, torch.float64), rotation(4, 2 * seed + 1, torch.float64))
        reference = ReferenceFullRank(weight, basis, 4, 1e-2, layer.start.clone(), turns, variant, damping=damping)
        for x, y in batches(shape, task, rows):
            reference.step(full_gradient(reference.weight, x, y))
        train(model, optimizer, task, shape, passes, rows)
        assert relative(layer.effective_weight() - weight, reference.weight - weight) < 1e-5
        gorp.end_task(model, optimizer, str(task))
        weight, basis = reference.weight, reference.end_task(0.8)
        torch.testing.assert_close(layer.space.basis @ layer.space.basis.T, basis @ basis.T, atol=1e-5, rtol=0)


@pytest.mark.parametrize("passes", [1, 4], ids=["one pass", "accumulated"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_randomly_projected_layer_equals_the_reference(shape: tuple[int, int], passes: int) -> None:
    model = OneLayer(*shape)
    weight = model.layer.weight.detach().clone()
    config = gorp.GORPConfig(
        projection="random", full_rank_targets=["layer"], rank=4, energy=0.8, accumulation_steps=passes, max_share=1.0
    )
    gorp.attach(model, config)
    optimizer = gorp.GORPAdamW(gorp.param_groups(model), full_rank_lr=1e-2)
    layer = gorp.learned_layers(model)["layer"]
    assert isinstance(layer, RandomlyProjectedLinear)
    for task in range(TASKS):
        basis = layer.space.basis
        assert (basis.shape[1] > 0) == (task > 0)
        reference = ReferenceRandomFullRank(weight, basis, 1e-2, layer.draw)
        for x, y in batches(shape, task):
            reference.step(full_gradient(reference.weight, x, y))
        train(model, optimizer, task, shape, passes)
        assert relative(layer.effective_weight() - weight, reference.weight - weight) < 1e-5
        gorp.end_task(model, optimizer, str(task))
        weight = reference.weight


@pytest.mark.parametrize(("variant", "damping"), FORMS.values(), ids=FORMS.keys())
@pytest.mark.parametrize("passes", [1, 4], ids=["one pass", "accumulated"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_lora_layer_equals_the_reference(shape: tuple[int, int], passes: int, variant: str, damping: float) -> None:
    model = OneLayer(*shape)
    weight = model.layer.weight.detach().clone()
    config = gorp.GORPConfig(
        variant=variant, lora_targets=["layer"], rank=4, lora_dropout=0.0, energy=0.8, accumulation_steps=passes,
        max_share=1.0, damping=damping,
    )  # fmt: skip
    gorp.attach(model, config)
    optimizer = gorp.GORPAdamW(gorp.param_groups(model), lr=1e-2)
    layer = gorp.learned_layers(model)["layer"]
    assert isinstance(layer, LoRALayer)
    for task in range(TASKS):
        space = layer.space
        assert space.output_basis is not None
        reference = ReferenceLoRA(
            layer.A.detach(), layer.B.detach(), space.basis, space.output_basis, 1e-2, variant, damping
        )
        for x, y in batches(shape, task):
            gradient = full_gradient(weight + layer.scaling * reference.B @ reference.A, x, y)
            reference.step(layer.scaling * reference.B.T @ gradient, layer.scaling * gradient @ reference.A.T)
        train(model, optimizer, task, shape, passes)
        assert relative(layer.A.detach(), reference.A) < 1e-5
        assert relative(layer.B.detach(), reference.B) < 1e-5
        gorp.end_task(model, optimizer, str(task))
        weight = weight + layer.scaling * reference.B @ reference.A
        torch.testing.assert_close(layer.effective_weight(), weight, rtol=1e-5, atol=1e-5)
        basis, output_basis = reference.end_task(0.8)
        torch.testing.assert_close(layer.space.basis @ layer.space.basis.T, basis @ basis.T, atol=1e-5, rtol=0)
        assert layer.space.output_basis is not None
        torch.testing.assert_close(
            layer.space.output_basis @ layer.space.output_basis.T, output_basis @ output_basis.T, atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_with_identity_projections_it_is_adamw(decay: float) -> None:
    model, plain = OneLayer(16, 16), OneLayer(16, 16)
    gorp.attach(model, gorp.GORPConfig(full_rank_targets=["layer"], rank=16, refresh_every=1000))
    layer = gorp.learned_layers(model)["layer"]
    assert isinstance(layer, ProjectedLinear)
    with torch.no_grad():  # all of the weight in the core, seen through identities
        layer.U, layer.V = torch.eye(16, dtype=torch.float64), torch.eye(16, dtype=torch.float64)
        layer.core.copy_(layer.weight)
        layer.weight.zero_()
    layer.refresh_due = False
    optimizer = gorp.GORPAdamW(gorp.param_groups(model), full_rank_lr=1e-2, weight_decay=decay)
    adamw = torch.optim.AdamW(plain.parameters(), lr=1e-2, weight_decay=decay)
    for x, y in batches((16, 16), 0):
        for network, stepper in ((model, optimizer), (plain, adamw)):
            stepper.zero_grad()
            loss_of(network, x, y).backward()
            stepper.step()
        layer.refresh_due = False
    torch.testing.assert_close(layer.effective_weight(), plain.layer.weight.detach(), rtol=1e-9, atol=1e-11)


def test_lora_without_a_space_is_adamw_on_its_factors() -> None:
    model = OneLayer(12, 20)
    gorp.attach(model, gorp.GORPConfig(lora_targets=["layer"], rank=4))
    layer = gorp.learned_layers(model)["layer"]
    assert isinstance(layer, LoRALayer)
    twin = [nn.Parameter(layer.A.detach().clone()), nn.Parameter(layer.B.detach().clone())]
    base = layer.base.weight.detach().clone()
    optimizer = gorp.GORPAdamW(gorp.param_groups(model), lr=1e-2)
    adamw = torch.optim.AdamW(twin, lr=1e-2, weight_decay=0.0)
    for x, y in batches((12, 20), 0):
        optimizer.zero_grad()
        loss_of(model, x, y).backward()
        optimizer.step()
        adamw.zero_grad()
        (x @ (base + layer.scaling * twin[1] @ twin[0]).T - y).square().mean().backward()
        adamw.step()
    torch.testing.assert_close(layer.A.detach(), twin[0].detach(), rtol=1e-8, atol=1e-10)
    torch.testing.assert_close(layer.B.detach(), twin[1].detach(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("width", [40, GRAM_WIDTH + 64], ids=["whole", "shrunk"])
def test_sketch_keeps_the_leading_energy_of_all_rows(width: int) -> None:
    rows = seeded_normal(1000, 6, 1, torch.float64) @ seeded_normal(6, width, 2, torch.float64)
    kept = rows.new_zeros(0, width)
    for chunk in rows.split(8):
        kept = sketch(kept, chunk)
    assert kept.shape[0] < SKETCH_ROWS
    standing = sketched_rows(kept)
    torch.testing.assert_close(standing.T @ standing, rows.T @ rows, rtol=1e-6, atol=1e-6)


def test_a_gram_matrix_keeps_all_of_a_flat_spectrum_and_no_nonsense() -> None:
    rows = seeded_normal(3000, 60, 1)
    kept = rows.new_zeros(0, 60)
    assert len(sketched_rows(kept)) == 0, "nothing was seen"
    for chunk in rows.split(8):
        kept = sketch(kept, chunk)
    standing = sketched_rows(kept)
    torch.testing.assert_close(standing.T @ standing, rows.T @ rows, rtol=1e-4, atol=1e-3 * 3000)
    energies = standing.square().sum(dim=1)
    assert energies.equal(energies.sort(descending=True).values)
    assert len(sketched_rows(torch.zeros(60, 60))) == 0
    assert not torch.isfinite(sketched_rows(sketch(kept, torch.full((1, 60), float("nan"))))).all()


def test_a_sketch_of_an_earlier_version_is_refused() -> None:
    model = gorp.attach(nn.Sequential(nn.Linear(12, 12)), gorp.GORPConfig(lora_targets=["0"], rank=2))
    optimizer = gorp.GORPAdamW(gorp.param_groups(model))
    model(torch.randn(30, 12)).square().mean().backward()
    optimizer.step()
    state = optimizer.state_dict()
    optimizer.load_state_dict(state)
    rows = seeded_normal(30, 12, 1)
    for earlier in (rows[:8], torch.linalg.qr(rows, mode="r").R):
        state["state"][0]["sketch"] = earlier
        with pytest.raises(InputError, match=r"a sketch \(\d+, 12\) of an earlier version"):
            optimizer.load_state_dict(state)


def test_grown_basis_of_the_reference_holds_what_it_promises() -> None:
    rows = seeded_normal(30, 20, 1, torch.float64)
    basis = grown_basis(torch.zeros(20, 0, dtype=torch.float64), rows, 0.7)
    assert (rows @ basis).norm() ** 2 >= 0.7 * rows.norm() ** 2
    assert (rows @ basis[:, :-1]).norm() ** 2 < 0.7 * rows.norm() ** 2
