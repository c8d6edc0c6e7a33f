import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from gorp.backbones import default_targets, load_backbone
from gorp.errors import InputError
from gorp.targets import find_layers


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
def test_the_configuration_says_the_kind(tiny_models, kind):
    backbone = load_backbone(str(tiny_models[kind]))
    assert backbone.kind == kind
    assert all(parameter.dtype == torch.float32 for parameter in backbone.model.parameters())
    assert backbone.tokenizer.eos_token_id == 1


def test_weights_load_in_bfloat16_when_asked(tiny_models):
    model = load_backbone(str(tiny_models["causal"]), dtype="bfloat16").model
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    with pytest.raises(InputError, match=r"unknown dtype 'bfloat' \(did you mean 'bfloat16'\?\)"):
        load_backbone(str(tiny_models["causal"]), dtype="bfloat")


def test_t5_targets(tiny_models):
    model = load_backbone(str(tiny_models["seq2seq"])).model
    lora, full_rank = default_targets(model)
    assert sorted({name.split(".")[-1] for name in find_layers(model, lora, "lora")}) == ["q", "v"]
    assert len(find_layers(model, lora, "lora")) == 8  # 2 encoder and 2 decoder blocks
    assert sorted({name.split(".")[-1] for name in find_layers(model, full_rank, "full")}) == ["k", "o", "q", "v"]
    assert all("EncDecAttention" in name for name in find_layers(model, full_rank, "full"))


SMALL = {
    "vocab_size": 16,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 4,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 1,
}


@pytest.mark.parametrize("model_type", ["llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2"])
def test_llama_types_are_known_by_their_layers(model_type):
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **SMALL))
    lora, full_rank = default_targets(model)
    names = [name.split(".", 3)[-1] for name in find_layers(model, [*lora, *full_rank], "targets")]
    assert names == ["self_attn.q_proj", "self_attn.v_proj", "mlp.gate_proj"]


def test_mt5_is_a_t5():
    config = AutoConfig.for_model(
        "mt5", vocab_size=16, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    assert default_targets(AutoModelForSeq2SeqLM.from_config(config))[1] == ["EncDecAttention"]


def test_other_architectures_are_told_what_could_be_targeted():
    model = nn.Sequential(nn.Linear(2, 2), nn.Sequential(nn.Linear(2, 3)), nn.ModuleDict({"head": nn.Linear(2, 3)}))
    with pytest.raises(InputError, match=r"no default target layers for Sequential; .*: \*, \*\.\*, \*\.head$"):
        default_targets(model)


def test_a_missing_model_is_named(tmp_path):
    with pytest.raises(InputError, match=r"model '.*nowhere': cannot be loaded .*accepted: "):
        load_backbone(str(tmp_path / "nowhere"))
    (tmp_path / "config.json").write_text("{broken")
    with pytest.raises(InputError, match="cannot be loaded"):
        load_backbone(str(tmp_path))
