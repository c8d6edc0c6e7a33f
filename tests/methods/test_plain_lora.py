import pytest
import torch

from gorp.backbones import load_backbone
from gorp.errors import InputError
from gorp.methods import METHODS, load_method
from gorp.run_config import RunConfig
from gorp.tasks import Task

TASK = Task("a", [], [], [])


def attach(tiny_models, name, kind="causal", **lora):
    backbone = load_backbone(str(tiny_models[kind]))
    method = load_method(name)(RunConfig.from_mapping({"method": name, "lora": {"rank": 2, **lora}}))
    before = {key: value.clone() for key, value in backbone.model.state_dict().items()}
    method.attach(backbone.model)
    return method, before


def disturb(method):
    with torch.no_grad():
        for parameter in method.model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
@pytest.mark.parametrize("name", ["seq-lora", "inc-lora", "joint"])
def test_effective_weights_are_what_the_layer_computes(tiny_models, name, kind):
    method, before = attach(tiny_models, name, kind)
    assert method.layer_names()
    for layer, weight in method.effective_weights().items():
        assert torch.equal(weight, before[f"{layer}.weight"])
    disturb(method)
    for layer, weight in method.effective_weights().items():
        module = method.model.get_submodule(layer)
        x = torch.randn(5, weight.shape[1])
        torch.testing.assert_close(module(x), x @ weight.T, rtol=1e-4, atol=1e-4)


def test_only_factors_learn(tiny_models):
    method, _ = attach(tiny_models, "seq-lora")
    learning = [name for name, parameter in method.model.named_parameters() if parameter.requires_grad]
    assert learning
    assert all(".lora_" in name for name in learning)
    assert set(method.weights()) == set(learning)


@pytest.mark.parametrize("name", ["inc-lora", "o-lora", "n-lora"])
def test_small_tasks_merged_into_bf16_weights_add_up(tiny_models, name):
    backbone = load_backbone(str(tiny_models["causal"]), dtype="bfloat16")
    method = load_method(name)(RunConfig.from_mapping({"method": name, "dtype": "bfloat16", "lora": {"rank": 2}}))
    method.attach(backbone.model)
    before = method.effective_weights()
    for task in range(8):
        disturb(method)
        for factor in (parameter for parameter in backbone.model.parameters() if parameter.requires_grad):
            factor.data.mul_(1e-3)
        expected = method.effective_weights()
        method.end_task(TASK, task)
    for layer, weight in method.effective_weights().items():
        torch.testing.assert_close(weight, expected[layer], rtol=0, atol=1e-7)
        change = weight - before[layer]
        stored = method.model.get_submodule(layer).get_base_layer().weight
        assert change.abs().max() > 0 and stored.dtype is torch.bfloat16
        assert (stored.float() - before[layer] - change).norm() > 0.1 * change.norm(), "bf16 alone would have lost it"


def test_inc_lora_merges_and_starts_anew(tiny_models):
    method, _ = attach(tiny_models, "inc-lora")
    disturb(method)
    before = method.effective_weights()
    method.end_task(TASK, 0)
    for name, weight in method.effective_weights().items():
        layer = method.model.get_submodule(name)
        torch.testing.assert_close(weight, before[name])
        assert torch.equal(layer.get_base_layer().weight, weight)
        assert not layer.lora_B["default"].weight.any()
        assert layer.lora_A["default"].weight.any()


def test_seq_lora_keeps_its_factors(tiny_models):
    method, _ = attach(tiny_models, "seq-lora")
    disturb(method)
    before = method.weights()
    method.end_task(TASK, 0)
    assert all(torch.equal(value, before[name]) for name, value in method.weights().items())


@pytest.mark.parametrize("name", ["seq-lora", "inc-lora"])
def test_weights_bring_a_fresh_model_to_the_same_place(tiny_models, name):
    method, _ = attach(tiny_models, name)
    disturb(method)
    method.end_task(TASK, 0)
    again, _ = attach(tiny_models, name)
    again.load_weights(method.weights())
    for layer, weight in method.effective_weights().items():
        assert torch.equal(weight, again.effective_weights()[layer])


def test_bad_targets_and_ranks_are_named(tiny_models):
    with pytest.raises(InputError, match=r"'nothing' matches no linear layer .*q_proj"):
        attach(tiny_models, "seq-lora", targets=["nothing"])
    with pytest.raises(InputError, match=r"lora.rank: 33 is above the size of layer .*; accepted: 1 to 32"):
        attach(tiny_models, "seq-lora", rank=33)


def test_unknown_methods_are_named():
    with pytest.raises(InputError, match=r"unknown method 'gopr' \(did you mean 'gorp'\?\); methods: gorp, "):
        load_method("gopr")
    assert set(METHODS) >= {"gorp", "seq-lora", "inc-lora", "joint"}
