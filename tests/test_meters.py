"""Live meters are what their definitions say, cost no wait a step, and warn when they should."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

import gorp
from gorp._linalg import orthonormalize, project_out, seeded_normal
from gorp.errors import MostlyBlockedWarning, NearlyFullWarning
from gorp.layers import ProjectedLinear
from gorp.meters import Meter

IN, HIDDEN, OUT = 24, 20, 16


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.up, self.down = nn.Linear(IN, HIDDEN), nn.Linear(HIDDEN, OUT)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.tanh(self.up(x)))


def attached(**settings: object) -> tuple[Net, gorp.GORPAdamW, gorp.Meters]:
    given = {"lora_targets": ["up"], "full_rank_targets": ["down"], "rank": 3, "refresh_every": 2, **settings}
    model = gorp.attach(Net(), gorp.GORPConfig.model_validate(given))
    return model, gorp.GORPAdamW(gorp.param_groups(model), lr=1e-2), gorp.Meters(model)


def train(model: Net, optimizer: gorp.GORPAdamW, task: int, steps: int = 6) -> None:
    generator = torch.Generator().manual_seed(task)
    directions = torch.randn(4, IN, generator=generator)
    for _ in range(steps):
        x = torch.randn(12, 4, generator=generator) @ directions + 0.1 * torch.randn(12, IN, generator=generator)
        (model(x) - torch.roll(x[:, :OUT], task, 1)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()


def second_task(**settings: object) -> tuple[Net, gorp.GORPAdamW, gorp.Meters]:
    model, optimizer, meters = attached(**settings)
    train(model, optimizer, 0)
    gorp.end_task(model, optimizer, "first")
    return model, optimizer, meters


def energy(tensor: Tensor) -> float:
    return float(tensor.double().square().sum())


def test_a_protected_task_leaks_round_off_of_its_weights() -> None:
    model, optimizer, meters = second_task()
    before = {name: layer.effective_weight().double() for name, layer in gorp.learned_layers(model).items()}
    train(model, optimizer, 1)
    reading = meters.read()
    for name, layer in gorp.learned_layers(model).items():
        change = layer.effective_weight().double() - before[name]
        assert (change @ layer.space.basis.double()).norm() < 1e-5 * change.norm()
        assert 0 < reading.layers[name].leak < 1e-6
    assert 0 < reading.overall.leak < 1e-6


def test_the_leak_of_a_lora_layer_is_that_of_its_weight() -> None:
    model, optimizer, meters = second_task()
    layer = gorp.learned_layers(model)["up"]
    before = layer.effective_weight().double()
    train(model, optimizer, 1)
    with torch.no_grad():  # what an optimizer other than GORP's would do
        layer.A += 0.1 * seeded_normal(3, layer.space.input.rank, 1) @ layer.space.basis.mT
    change = layer.effective_weight().double() - before
    expected = (change @ layer.space.basis.double()).norm() / change.norm()
    assert expected > 1e-3
    assert meters.read().layers["up"].leak == pytest.approx(float(expected), rel=1e-4)


def test_the_leak_of_a_full_rank_layer_is_that_of_all_its_pieces() -> None:
    model, _, meters = second_task()
    layer, basis = gorp.learned_layers(model)["down"], gorp.learned_layers(model)["down"].space.basis
    felt = whole = 0.0
    for piece in range(3):
        with torch.no_grad():
            layer.U, layer.V = (orthonormalize(seeded_normal(side, 3, piece)) for side in (OUT, HIDDEN))
            layer.core.copy_(seeded_normal(3, 3, 9 + piece))
        change = (layer.U @ layer.core @ layer.V.mT).detach()
        felt, whole = felt + (change @ basis).norm(), whole + change.norm()
        if piece < 2:
            layer.merge()
    assert meters.read().layers["down"].leak == pytest.approx(float(felt / whole), rel=1e-5)
    assert meters.read().layers["down"].leak == pytest.approx(float(felt / whole), rel=1e-5), "reading changes nothing"


def test_what_protection_removes_of_lora_gradients_is_exact() -> None:
    model, optimizer, meters = second_task()
    train(model, optimizer, 1, steps=2)
    meters.read()
    layer = gorp.learned_layers(model)["up"]
    rows: dict[str, Tensor] = {}
    optimizer.register_step_pre_hook(lambda *_: rows.update({side: seen.clone() for side, seen in layer.seen.items()}))
    train(model, optimizer, 1, steps=1)
    passed = sum(energy(layer.space.side(side).project(seen)) for side, seen in rows.items())
    whole = sum(map(energy, rows.values()))
    assert 0.01 < passed / whole < 0.99
    assert meters.read().layers["up"].blocked_energy == pytest.approx(1 - passed / whole, rel=1e-4)
    assert meters.read().layers["up"].blocked_energy is None, "nothing has come since"


def test_what_refreshes_catch_and_what_is_removed_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Estimated from a few columns: what is caught well, what is removed over some refreshes."""
    model, optimizer, meters = second_task(refresh_every=1, refresh_from="weight_gradient", energy=0.5)
    layer = gorp.learned_layers(model)["down"]
    basis, seen = layer.space.basis.double(), []
    project = ProjectedLinear._projection_of

    def spied(self: ProjectedLinear, gradient: Tensor) -> object:
        seen.append(gradient.double())
        return project(self, gradient)

    monkeypatch.setattr(ProjectedLinear, "_projection_of", spied)
    train(model, optimizer, 1, steps=30)
    meter, free = meters.read().layers["down"], project_out(seen[-1], basis)
    caught = energy(layer.U.double().mT @ seen[-1] @ layer.V.double()) / energy(free)
    assert meter.captured_energy == pytest.approx(caught, abs=0.03)
    removed = 1 - sum(energy(project_out(each, basis)) for each in seen) / sum(map(energy, seen))
    assert 0.05 < removed < 0.99
    assert meter.blocked_energy == pytest.approx(removed, abs=0.1)


@pytest.mark.parametrize("settings", [{"projection": "random"}, {"variant": "paper"}, {"memory": "first_moment"}])
def test_every_form_has_meters(settings: dict[str, object]) -> None:
    model, optimizer, meters = second_task(**settings)
    train(model, optimizer, 1)
    reading = meters.read()
    assert all(0 < meter.blocked_energy <= 1 for meter in reading.layers.values())
    assert all(0 <= meter.capacity_left < 1 for meter in reading.layers.values())
    is_of_inputs = settings.get("variant") != "paper"
    assert all((meter.leak is not None) == is_of_inputs for meter in reading.layers.values())
    assert (reading.layers["down"].captured_energy is None) == ("projection" in settings)
    assert reading.layers["up"].captured_energy is None


def test_all_layers_together_are_the_sums_of_their_parts() -> None:
    model, optimizer, meters = second_task()
    space, full = model.gradient_space, [0.0, 0.0]
    for layer in space.layers.values():
        sides = [side for side in (layer.input, layer.output) if side is not None]
        side = min(sides, key=lambda side: 1 - side.rank / space.cap(side))
        full = [full[0] + side.rank, full[1] + space.cap(side)]
    overall = meters.read().overall
    assert overall.capacity_left == pytest.approx(1 - full[0] / full[1])
    assert meters.read().layers["up"].capacity_left == pytest.approx(space.capacity("up"))
    space.layers["down"].frozen = True
    assert meters.read().layers["down"].capacity_left == 0
    train(model, optimizer, 1)
    gorp.end_task(model, optimizer, "second")
    assert meters.read().overall.leak is None, "a new task has written nothing"


def test_a_gradient_that_is_not_finite_spoils_no_meter() -> None:
    model, optimizer, meters = second_task()
    model(torch.full((2, IN), float("nan"))).sum().backward()
    optimizer.step()
    optimizer.zero_grad()
    assert optimizer.skipped_steps == 1
    train(model, optimizer, 1)
    assert all(0 <= meter.blocked_energy <= 1 for meter in meters.read().layers.values())


def test_counting_makes_the_host_wait_no_more_often(monkeypatch: pytest.MonkeyPatch) -> None:
    waits: Counter[str] = Counter()

    def counted(name: str, operation):
        def count(tensor: Tensor, *args: object):
            waits[name] += 1
            return operation(tensor, *args)

        return count

    for name in ("item", "tolist", "cpu", "numpy", "__bool__", "__float__", "__int__"):
        monkeypatch.setattr(Tensor, name, counted(name, getattr(Tensor, name)))
    of_steps = []
    for metered in (False, True):
        model, optimizer, _ = second_task()
        if not metered:
            for layer in gorp.learned_layers(model).values():
                layer.tally = None
        waits.clear()
        train(model, optimizer, 1)
        of_steps.append(Counter(waits))
    assert of_steps[0] == of_steps[1] != Counter()
    waits.clear()
    gorp.Meters(model).read()
    assert sum(waits.values()) == 1


def test_learning_is_the_same_with_meters_and_without() -> None:
    weights = []
    for metered in (False, True):
        model, optimizer, _ = second_task()
        if not metered:
            for layer in gorp.learned_layers(model).values():
                layer.tally = None
        train(model, optimizer, 1)
        weights.append([layer.effective_weight() for layer in gorp.learned_layers(model).values()])
    assert all(map(torch.equal, *weights))


def told(meters: gorp.Meters) -> Iterator[type[Warning]]:
    return (category for _, category in meters.warnings())


def test_a_nearly_full_layer_is_warned_of_once() -> None:
    model, optimizer, meters = second_task(max_share=0.9)
    assert list(told(meters)) == []
    space = model.gradient_space.layers["up"].input
    full = orthonormalize(seeded_normal(IN, int(0.9 * IN) - 1, 3))
    space.basis, space.energy = full, torch.zeros(full.shape[1])
    ((message, category),) = meters.warnings()
    assert category is NearlyFullWarning
    assert "1 of 2 layers are nearly full: up (5% left)" in message
    assert "raise max_share (it is 0.9; model.gradient_space.max_share may be set), lower energy" in message
    assert list(told(meters)) == list(told(gorp.Meters(model))) == []
    train(model, optimizer, 1)


def test_a_mostly_blocked_task_is_warned_of_once() -> None:
    model, optimizer, meters = second_task()
    train(model, optimizer, 1)
    meters.read()
    assert list(told(meters)) == [], "most of it may pass"
    for side in (model.gradient_space.layers[name].input for name in ("up", "down")):
        side.basis = orthonormalize(seeded_normal(side.width, side.width - 1, 3))
        side.energy = torch.zeros(side.width - 1)
    outputs = model.gradient_space.layers["up"].output
    outputs.basis, outputs.energy = orthonormalize(seeded_normal(HIDDEN, HIDDEN - 1, 4)), torch.zeros(HIDDEN - 1)
    model.gradient_space.max_share = 10.0  # nothing is nearly full
    model.gradient_space.tasks.append("second")
    train(model, optimizer, 2, steps=8)
    meters.read()
    ((message, category),) = meters.warnings()
    assert category is MostlyBlockedWarning
    assert "of the gradient's energy in this task, after 2 others" in message and "train for longer" in message
    assert list(told(meters)) == []


def test_logs_name_what_there_is_to_tell() -> None:
    _, _, meters = attached()
    assert meters.read().as_logs() == {"gorp/capacity_left": 1.0}
    assert meters.read().layers_as_logs() == {"gorp/capacity_left/up": 1.0, "gorp/capacity_left/down": 1.0}
    assert meters.read().layers["up"] == Meter(None, 1.0, None, None)


def test_the_model_must_be_attached() -> None:
    with pytest.raises(ValueError, match="not attached"):
        gorp.Meters(Net())
