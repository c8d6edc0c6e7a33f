"""What `detach` leaves is a plain model, which saves, loads, and learns on with other settings."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

import gorp

SETTINGS = {"lora_targets": ["q_proj", "v_proj"], "full_rank_targets": ["gate_proj"], "rank": 4, "max_share": 1.0}
TOKENS = torch.randint(2, 40, (4, 12), generator=torch.Generator().manual_seed(0))


def llama(dtype: torch.dtype = torch.float32, **settings: object) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, **settings
    )
    return LlamaForCausalLM(config).to(dtype)


def learn(model: nn.Module, task: int, end: bool = True) -> None:
    optimizer = gorp.GORPAdamW(gorp.param_groups(model), lr=5e-3, full_rank_lr=5e-3)
    for step in range(4):
        tokens = TOKENS.roll(7 * task + step, dims=1)
        model(input_ids=tokens, labels=tokens).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    if end:
        gorp.end_task(model, optimizer, f"task-{task}")


@torch.no_grad()
def logits(model: nn.Module) -> Tensor:
    return model.eval()(input_ids=TOKENS).logits


@pytest.mark.parametrize("projection", ["gradient", "random"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_it_saves_and_loads_as_any_model(projection: str, dtype: torch.dtype, tmp_path: Path) -> None:
    model, base = (llama(dtype, attention_bias=True, mlp_bias=True) for _ in range(2))
    gorp.attach(model, gorp.GORPConfig(**SETTINGS, projection=projection))
    learn(model, 0)
    learnt = logits(model)
    assert not learnt.equal(logits(base))
    space = gorp.detach(model)
    assert space.tasks == ["task-0"]
    assert logits(model).equal(learnt)
    assert {name: type(module) for name, module in model.named_modules()} == {
        name: type(module) for name, module in base.named_modules()
    }
    assert model.state_dict().keys() == base.state_dict().keys()
    assert not hasattr(model, "peft_config")
    model.save_pretrained(tmp_path)
    again, report = LlamaForCausalLM.from_pretrained(tmp_path, dtype=dtype, output_loading_info=True)
    assert not any(report.values())
    saved = again.state_dict()
    assert all(value.equal(saved[name]) for name, value in model.state_dict().items())


def test_another_configuration_goes_on_and_leaves_earlier_tasks_alone() -> None:
    model = gorp.attach(llama(), gorp.GORPConfig(**SETTINGS, energy=0.95))
    learn(model, 0)
    space = gorp.detach(model)
    held = {name: layer.basis.double() for name, layer in space.layers.items()}
    gorp.attach(model, gorp.GORPConfig(**SETTINGS | {"rank": 2}, energy=0.5), space)
    layers = gorp.learned_layers(model)
    before = {name: layer.effective_weight().double() for name, layer in layers.items()}
    learn(model, 1)
    assert space.tasks == ["task-0", "task-1"]
    for name, layer in layers.items():
        change = layer.effective_weight().double() - before[name]
        assert change.norm() > 1e-3
        assert (change @ held[name]).norm() <= 1e-6 * before[name].norm()


def test_nothing_is_detached_in_the_middle_of_a_task() -> None:
    model = gorp.attach(llama(), gorp.GORPConfig(**SETTINGS, refresh_every=2))
    learn(model, 0, end=False)
    kept = list(model.state_dict())
    with pytest.raises(ValueError, match=r"q_proj is in the middle of a task; call gorp\.end_task"):
        gorp.detach(model)
    assert list(model.state_dict()) == kept
    with pytest.raises(ValueError, match="not attached"):
        gorp.detach(llama())
