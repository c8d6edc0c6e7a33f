import pytest
import torch

from gorp.backbones import load_backbone
from gorp.methods.n_lora import NLoRA
from gorp.run_config import RunConfig


@pytest.fixture(params=["seq2seq", "causal"])
def method(request, tiny_models):
    """Every kind of layer: square, wide and tall."""
    targets = {"seq2seq": ["SelfAttention.q", "wi", "wo"], "causal": ["self_attn", "gate_proj", "down_proj"]}
    lora = {"rank": 2, "alpha": 6, "targets": targets[request.param]}
    method = NLoRA(RunConfig.from_mapping({"method": "n-lora", "lora": lora, "options": {"sparsity": 0.25}}))
    torch.manual_seed(0)
    method.attach(load_backbone(str(tiny_models[request.param])).model)
    with torch.no_grad():
        for factor in learning(method):
            factor.normal_()
    return method


def learning(method):
    return [parameter for parameter in method.model.parameters() if parameter.requires_grad]


def test_the_penalty_is_the_l1_norm_of_what_the_task_adds(method):
    added = [
        method.effective_weights()[name] - method.model.get_submodule(name).get_base_layer().weight
        for name in method.layer_names()
    ]
    assert {(change.shape[0] > change.shape[1]) - (change.shape[0] < change.shape[1]) for change in added} == {-1, 0, 1}
    expected = 0.25 * sum(float(change.detach().abs().sum()) for change in added)
    assert method.penalty({}, torch.zeros(1)).item() == pytest.approx(expected, rel=1e-4)


def test_autocast_leaves_the_penalty_alone(method):
    penalties = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            penalties.append(method.penalty({}, torch.zeros(1)))
    assert penalties[0].equal(penalties[1])
    exact, within = (torch.autograd.grad(penalty, learning(method)) for penalty in penalties)
    assert all(map(torch.equal, exact, within))


def test_minimising_the_penalty_empties_the_update(method):
    before = method.penalty({}, torch.zeros(1)).item()
    optimizer = torch.optim.Adam(learning(method), lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        method.penalty({}, torch.zeros(1)).backward()
        optimizer.step()
    assert method.penalty({}, torch.zeros(1)).item() < 0.05 * before
