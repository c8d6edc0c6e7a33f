import torch
from torch import nn

from gorp.layer_inputs import ROWS_PER_LAYER, collect_inputs, input_covariances


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, x):
        return self.second(self.first(x))


def test_inputs_are_those_of_the_layer_evenly_spread():
    model = Model().train()
    batches = [{"x": torch.randn(1, 10, 3)} for _ in range(3)]
    inputs = collect_inputs(model, ["first", "second"], batches, rows_per_batch=4)
    assert inputs["first"].shape == (12, 3)
    assert inputs["second"].shape == (12, 4)
    assert torch.equal(inputs["first"][:4], batches[0]["x"][0, [0, 3, 6, 9]])
    assert model.training
    assert not model.first._forward_pre_hooks


def test_short_batches_and_the_limit():
    model = Model()
    inputs = collect_inputs(model, ["first"], [{"x": torch.randn(1, 2, 3)}] * 200)
    assert inputs["first"].shape == (ROWS_PER_LAYER, 3)


def test_covariances_are_summed_over_every_position():
    model = Model().train()
    batches = [{"x": torch.randn(1, length, 3)} for length in (4, 7)]
    covariances = input_covariances(model, ["first", "second"], batches)
    rows = torch.cat([batch["x"][0] for batch in batches])
    torch.testing.assert_close(covariances["first"], rows.mT @ rows)
    hidden = model.first(rows).detach()
    torch.testing.assert_close(covariances["second"], hidden.mT @ hidden)
    assert model.training
    assert not model.first._forward_pre_hooks
