import pytest
import torch

from gorp.backbones import load_backbone
from gorp.methods.o_lora import OLoRA
from gorp.run_config import RunConfig
from gorp.tasks import Task

TASK = Task("a", [], [], [])
ORTHOGONALITY, L2 = 0.25, 0.125


@pytest.fixture(params=["seq2seq", "causal"])
def method(request, tiny_models):
    options = {"orthogonality": ORTHOGONALITY, "l2": L2}
    method = OLoRA(RunConfig.from_mapping({"method": "o-lora", "lora": {"rank": 2}, "options": options}))
    torch.manual_seed(0)
    method.attach(load_backbone(str(tiny_models[request.param])).model)
    return method


def factors(method):
    return [
        (module.lora_A["default"].weight, module.lora_B["default"].weight)
        for module in map(method.model.get_submodule, method.layer_names())
    ]


def learn(method):
    """A task that leaves random factors; returns a copy of its A's."""
    with torch.no_grad():
        for factor in (factor for pair in factors(method) for factor in pair):
            factor.normal_()
    As = [A.detach().clone() for A, _ in factors(method)]
    method.end_task(TASK, 0)
    return As


def test_the_penalty_is_the_literal_sum_over_earlier_tasks(method):
    earlier = [learn(method), learn(method)]
    expected = 0.0
    for index, (A, B) in enumerate(factors(method)):
        for task in earlier:
            for row in A:
                expected += ORTHOGONALITY * sum((row @ other).abs().item() for other in task[index])
        expected += L2 * (A.square().sum().sqrt() + B.square().sum().sqrt()).item()
    assert method.penalty({}, torch.zeros(1)).item() == pytest.approx(expected, rel=1e-5)


def test_autocast_leaves_the_penalty_alone(method):
    learn(method)
    learning = [factor for pair in factors(method) for factor in pair]
    penalties = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            penalties.append(method.penalty({}, torch.zeros(1)))
    assert penalties[0].equal(penalties[1])
    exact, within = (torch.autograd.grad(penalty, learning) for penalty in penalties)
    assert all(map(torch.equal, exact, within))


def test_the_penalty_moves_factors_by_the_sign_of_their_overlap(method):
    earlier = learn(method)
    method.penalty({}, torch.zeros(1)).backward()
    for (A, B), E in zip(factors(method), earlier, strict=True):
        expected = ORTHOGONALITY * (A @ E.T).sign() @ E + L2 * A / A.norm()
        torch.testing.assert_close(A.grad, expected.detach())
        assert not B.grad.any()  # at B = 0, where its norm has no slope


def test_the_merge_leaves_the_function_alone(method):
    with torch.no_grad():
        for A, B in factors(method):
            A.normal_()
            B.normal_()
    layers = [method.model.get_submodule(name) for name in method.layer_names()]
    inputs = [torch.randn(5, layer.in_features) for layer in layers]
    before = [layer(x) for layer, x in zip(layers, inputs, strict=True)]
    method.end_task(TASK, 0)
    for layer, x, expected in zip(layers, inputs, before, strict=True):
        torch.testing.assert_close(layer(x), expected, rtol=1e-4, atol=1e-4)
        assert torch.equal(layer(x), layer.get_base_layer()(x))


def test_earlier_factors_are_kept_through_a_saved_state(method, tiny_models):
    first = [A.clone() for A in learn(method)]
    second = learn(method)
    again = OLoRA(method.config)
    again.attach(load_backbone(method.model.name_or_path).model)
    again.load_state(method.state())
    for kept, A, B in zip(again.earlier_A.values(), first, second, strict=True):
        assert torch.equal(kept, torch.cat([A, B]))
