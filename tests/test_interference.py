import pytest
import torch

from gorp._linalg import orthonormalize, project_out, seeded_normal
from gorp.interference import coverage, drift, leak, leak_bound, measure
from gorp.space import GradientSpace, LayerSpace, Side

BASIS = orthonormalize(seeded_normal(20, 4, 1, torch.float64))


def test_a_protected_change_does_not_leak_and_a_free_one_does() -> None:
    change = seeded_normal(8, 20, 2, torch.float64)
    weight = seeded_normal(8, 20, 3, torch.float64)
    assert leak(project_out(change, BASIS), BASIS) <= leak_bound(change, weight)
    assert leak(change, BASIS) > 1000 * leak_bound(change, weight)
    assert leak(change, BASIS) == pytest.approx(float((change @ BASIS).norm()))


def test_drift_lies_between_untouched_and_the_worst_possible() -> None:
    direction = BASIS[:, :1]
    change = torch.outer(torch.ones(8, dtype=torch.float64), direction[:, 0])
    assert drift(change, 5 * direction.T) == pytest.approx(1.0)
    assert drift(change, BASIS[:, 1:].T) == pytest.approx(0.0, abs=1e-12)
    assert drift(torch.zeros(8, 20), BASIS.T) == 0.0


def test_coverage_is_the_share_of_energy() -> None:
    inputs = torch.eye(20)[[0, 1, 2, 3]] * torch.tensor([[3.0], [1.0], [1.0], [1.0]])
    assert coverage(inputs, torch.eye(20)[:, :2]) == pytest.approx(10 / 12)


def test_meters_speak_for_every_layer_with_or_without_a_space() -> None:
    before = {"q": seeded_normal(8, 20, 3)}
    after = {"q": before["q"] + seeded_normal(8, 20, 4)}
    inputs = {"old": {"q": seeded_normal(30, 20, 5)}, "new": {}}
    plain = measure(before, after, {}, None, inputs)["q"]
    assert plain.leak is None
    assert 0 < plain.drift["old"] <= 1
    assert "new" not in plain.drift
    space = GradientSpace(max_share=0.5)
    space.layers["q"] = LayerSpace(Side(BASIS.float(), torch.ones(4)))
    meter = measure(before, after, {"q": BASIS.float()}, space, inputs)["q"]
    assert meter.leaks
    assert (meter.rank, meter.width, meter.cap) == (4, 20, 10)
    assert 0 < meter.coverage["old"] < 1
    assert meter.stored_leak == meter.leak
