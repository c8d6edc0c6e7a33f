"""Targets on real architectures, and the errors of attaching."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

import gorp
from gorp.backbones import default_targets
from gorp.errors import SpaceWarning
from gorp.layers import ProjectedLinear
from gorp.lora import LoRALayer
from gorp.targets import block_layers


def t5() -> T5ForConditionalGeneration:
    torch.manual_seed(0)
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=50, d_model=16, d_kv=8, d_ff=24, num_layers=1, num_heads=2, feed_forward_proj="gated-gelu",
            dropout_rate=0.0, decoder_start_token_id=0,
        )
    )  # fmt: skip


def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=50, hidden_size=16, intermediate_size=40, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=2,
        )
    )  # fmt: skip


def loss_of(model: nn.Module, task: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(task)
    tokens = torch.randint(5 + 20 * task, 25 + 20 * task, (4, 12), generator=generator)
    return model(input_ids=tokens, labels=tokens).loss


@pytest.mark.parametrize("build", [t5, llama])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("share_inputs", [False, True], ids=["own", "shared"])
def test_default_targets_learn_and_keep_their_promise(build, dtype: torch.dtype, share_inputs: bool) -> None:
    model = build().to(dtype)
    lora, full_rank = default_targets(model)
    config = gorp.GORPConfig(
        lora_targets=lora, full_rank_targets=full_rank, rank=4, energy=0.8, max_share=1.0, share_inputs=share_inputs
    )
    assert gorp.attach(model, config) is model
    layers = gorp.learned_layers(model)
    assert {type(layer) for layer in layers.values()} == {LoRALayer, ProjectedLinear}
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert all(name.endswith(("lora_A.default.weight", "lora_B.default.weight", ".core")) for name in trained)
    optimizer = gorp.GORPAdamW(gorp.param_groups(model), lr=5e-3, full_rank_lr=5e-3)
    frozen = model.get_input_embeddings().weight.detach().clone()
    for task in (0, 1):
        before = {name: layer.effective_weight().double() for name, layer in layers.items()}
        held = {name: layer.space.basis.double() for name, layer in layers.items()}
        losses = []
        for _ in range(25):
            optimizer.zero_grad()
            loss = loss_of(model, task)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < losses[0]
        gorp.end_task(model, optimizer, str(task))
        for name, layer in layers.items():
            change = layer.effective_weight().double() - before[name]
            bound = 1e-5 * change.norm() + 4 * 1.2e-7 * before[name].norm()
            assert (change @ held[name]).norm() <= bound, name
    assert all(layer.space.basis.shape[1] > 0 for layer in layers.values())
    assert model.get_input_embeddings().weight.equal(frozen)
    assert model.gradient_space.tasks == ["0", "1"]


def t5_of_two_blocks() -> T5ForConditionalGeneration:
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=50, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu",
            decoder_start_token_id=0,
        )
    )  # fmt: skip


def bart() -> BartForConditionalGeneration:
    return BartForConditionalGeneration(
        BartConfig(
            vocab_size=50, d_model=16, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
            decoder_attention_heads=2, encoder_ffn_dim=24, decoder_ffn_dim=24,
        )
    )  # fmt: skip


def bert() -> BertModel:
    return BertModel(
        BertConfig(
            vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
            is_decoder=True, add_cross_attention=True,
        )
    )  # fmt: skip


@pytest.mark.parametrize("build", [t5_of_two_blocks, llama, bart, bert])
def test_layers_share_a_space_where_they_read_the_same_tensor(build) -> None:
    """As the names tell, and as a forward pass shows."""
    model = build()
    names = block_layers(model, "lora_targets")
    gorp.attach(model, gorp.GORPConfig(lora_targets=names, rank=4, share_inputs=True))
    read: dict[str, torch.Tensor] = {}
    for name in names:
        model.get_submodule(name).register_forward_pre_hook(
            lambda module, args, name=name: read.update({name: args[0]})
        )
    given = {"encoder_hidden_states": torch.randn(1, 3, 16)} if isinstance(model, BertModel) else {}
    model(torch.arange(6)[None], **({"labels": torch.arange(6)[None]} if model.config.is_encoder_decoder else given))
    for one in read:
        for other in read:
            spaces = (gorp.learned_layers(model)[name].space.input for name in (one, other))
            assert (next(spaces) is next(spaces)) == (read[one] is read[other]), (one, other)


def test_a_shared_space_holds_what_each_layer_needs() -> None:
    energies, sizes = [], []
    for share_inputs in (False, True):
        model = t5()
        config = gorp.GORPConfig(
            lora_targets=["SelfAttention"], rank=4, energy=0.8, max_share=1.0, share_inputs=share_inputs
        )
        gorp.attach(model, config)
        optimizer = gorp.GORPAdamW(gorp.param_groups(model))
        for _ in range(3):
            optimizer.zero_grad()
            loss_of(model, 0).backward()
            optimizer.step()
        layers = gorp.learned_layers(model)
        memories = {name: optimizer.state[layer.factors()["input"]]["sketch"] for name, layer in layers.items()}
        gorp.end_task(model, optimizer, "0")
        for name, memory in memories.items():  # Gram matrices
            basis = layers[name].space.basis
            energies.append(float((basis.mT @ memory @ basis).trace() / memory.trace()))
        sizes.append(sum(side.rank for side in model.gradient_space.input_sides))
    assert min(energies) >= 0.8 - 1e-5
    assert sizes[1] < sizes[0]


def test_grouped_query_layers_are_not_square() -> None:
    model = llama()
    gorp.attach(model, gorp.GORPConfig(lora_targets=["v_proj"], rank=4))
    layer = gorp.learned_layers(model)["model.layers.0.self_attn.v_proj"]
    assert layer.effective_weight().shape == (8, 16)


def test_generation_and_caching_work_on_an_attached_model() -> None:
    model = llama().eval()
    prompt = torch.tensor([[1, 2, 3]])
    options = {"max_new_tokens": 5, "do_sample": False, "pad_token_id": 0, "attention_mask": torch.ones_like(prompt)}
    plain = model.generate(prompt, **options)
    gorp.attach(model, gorp.GORPConfig(lora_targets=["q_proj"], full_rank_targets=["gate_proj"], rank=4))
    assert model.generate(prompt, **options).equal(plain), "attaching changes nothing"


def test_the_wrapping_of_accelerate_is_seen_through() -> None:
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = llama()
    gorp.attach(model, gorp.GORPConfig(lora_targets=["q_proj"], rank=4))
    optimizer = gorp.GORPAdamW(gorp.param_groups(model))
    wrapped_model, wrapped_optimizer = accelerator.prepare(nn.DataParallel(model), optimizer)
    accelerator.backward(loss_of(model, 0))
    wrapped_optimizer.step()
    gorp.end_task(wrapped_model, wrapped_optimizer, "0")
    assert model.gradient_space.tasks == ["0"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, r"no targets: give lora_targets or full_rank_targets; linear layers are: .*SelfAttention\.q"),
        (
            {"lora_targets": ["SelfAttention.qq"]},
            r"no linear layer of this model \(did you mean 'SelfAttention.q'\?\);",
        ),
        ({"lora_targets": ["self_attn"]}, r"lora_targets: 'self_attn' matches no linear layer.*EncDecAttention\.k"),
        (
            {"lora_targets": ["EncDecAttention.q"], "full_rank_targets": ["EncDecAttention"]},
            r"layer decoder\.block\.0\.layer\.1\.EncDecAttention\.q matches both",
        ),
        ({"lora_targets": ["SelfAttention.q"], "rank": 17}, r"rank 17 is above the size of layer encoder.*\(16, 16\)"),
    ],
)
def test_bad_targets_are_named_with_what_would_be_accepted(settings: dict[str, object], message: str) -> None:
    model = t5()
    with pytest.raises(gorp.InputError, match=message):
        gorp.attach(model, gorp.GORPConfig.model_validate(settings))
    assert not hasattr(model, "gradient_space")


def test_attaching_twice_or_with_a_foreign_space_is_refused() -> None:
    model = t5()
    gorp.attach(model, gorp.GORPConfig(lora_targets=["SelfAttention.q"], rank=4))
    with pytest.raises(gorp.InputError, match="attached already"):
        gorp.attach(model, gorp.GORPConfig(lora_targets=["SelfAttention.q"], rank=4))
    wider = nn.ModuleDict({"q": nn.Linear(20, 8)})
    gorp.attach(wider, gorp.GORPConfig(lora_targets=["q"], rank=4))
    narrow = nn.ModuleDict({"q": nn.Linear(10, 8)})
    with pytest.raises(gorp.InputError, match="holds q with 20 inputs, the model has 10"):
        gorp.attach(narrow, gorp.GORPConfig(lora_targets=["q"], rank=4), wider.gradient_space)


def test_a_space_of_layers_named_otherwise_is_refused_and_changes_nothing() -> None:
    """As of the same model within another module: nothing would be protected."""
    config = gorp.GORPConfig(lora_targets=["q"], full_rank_targets=["v"], rank=4)
    learnt = gorp.attach(nn.ModuleDict({"q": nn.Linear(8, 8), "v": nn.Linear(8, 8)}), config).gradient_space
    learnt.tasks.append("first")
    inner = nn.ModuleDict({"inner": nn.ModuleDict({"q": nn.Linear(8, 8), "v": nn.Linear(8, 8)})})
    with pytest.raises(gorp.InputError, match=r"space is not of inner\.q and 1 more, but of q and the like"):
        gorp.attach(inner, config, learnt)
    assert list(learnt.layers) == ["q", "v"]
    assert list(inner.state_dict()) == ["inner.q.weight", "inner.q.bias", "inner.v.weight", "inner.v.bias"]
    assert all(parameter.requires_grad for parameter in inner.parameters())


def test_layers_that_a_space_knows_nothing_of_are_named() -> None:
    learnt = gorp.attach(nn.ModuleDict({"q": nn.Linear(8, 8)}), gorp.GORPConfig(lora_targets=["q"], rank=4))
    learnt.gradient_space.tasks.append("first")
    wider = nn.ModuleDict({name: nn.Linear(8, 8) for name in "qkv"})
    with pytest.warns(SpaceWarning, match="knows nothing of k and 1 more: what the tasks first depend on there"):
        gorp.attach(wider, gorp.GORPConfig(lora_targets=["q", "k", "v"], rank=4), learnt.gradient_space)


def test_half_precision_is_refused() -> None:
    with pytest.raises(gorp.InputError, match=r"layer q is torch\.float16; a layer can learn in float32"):
        gorp.attach(nn.ModuleDict({"q": nn.Linear(8, 8).half()}), gorp.GORPConfig(lora_targets=["q"], rank=4))


def test_a_copy_made_after_attaching_cannot_be_trained_unprotected() -> None:
    model = t5()
    gorp.attach(model, gorp.GORPConfig(lora_targets=["SelfAttention.q"], rank=4))
    stale = [parameter for parameter in copy.deepcopy(model).parameters() if parameter.requires_grad]
    with pytest.raises(ValueError, match="belongs to no learned layer"):
        gorp.GORPAdamW([{"params": stale}])


@pytest.mark.parametrize("settings", [{"lr": -1.0}, {"full_rank_lr": -1.0}, {"betas": (0.9, 1.0)}, {"eps": -1e-8}])
def test_optimizer_arguments_have_bounds(settings: dict[str, object]) -> None:
    model = t5()
    gorp.attach(model, gorp.GORPConfig(lora_targets=["SelfAttention.q"], rank=4))
    with pytest.raises(ValueError, match="should be"):
        gorp.GORPAdamW(gorp.param_groups(model), **settings)


def test_unattached_models_and_foreign_optimizers_are_refused() -> None:
    with pytest.raises(ValueError, match="not attached"):
        gorp.param_groups(t5())
    model = t5()
    gorp.attach(model, gorp.GORPConfig(lora_targets=["SelfAttention.q"], rank=4))
    with pytest.raises(ValueError, match="needs the GORPAdamW"):
        gorp.end_task(model, torch.optim.SGD(model.parameters(), lr=0.1), "0")


@pytest.mark.parametrize("settings", [{"variant": "paper"}, {"memory": "first_moment"}])
def test_damping_needs_a_memory_that_sees_rows(settings: dict[str, str]) -> None:
    with pytest.raises(ValueError, match="with 'first_moment' it accepts 0 alone"):
        gorp.GORPConfig.model_validate({**settings, "damping": 0.3})


def test_the_paper_keeps_first_moments_only() -> None:
    with pytest.raises(ValueError, match="'paper' accepts 'first_moment'"):
        gorp.GORPConfig(variant="paper", memory="sketch")
