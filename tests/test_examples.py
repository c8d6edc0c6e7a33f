"""Every configuration in examples/ runs as it stands, on a model of its architecture shrunken to nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedModel

from gorp._quantized import StackedLinear, quantized_layers
from gorp.backbones import default_targets
from gorp.learner import ContinualLearner
from gorp.run import run_stream
from gorp.run_config import RunConfig
from gorp.targets import find_layers

EXAMPLES = Path(__file__).parents[1] / "examples"
SHRUNKEN = ["data.train_rows=20", "data.test_rows=3", "data.validation_rows=4", "training.epochs=1"]
VOCABULARY = 48

T5 = {
    "d_model": 32,
    "d_kv": 8,
    "d_ff": 64,
    "num_layers": 1,
    "num_heads": 4,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
LLAMA = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "eos_token_id": 1,
    "bos_token_id": 2,
    "pad_token_id": None,
}
#: The type of each example's model, and what makes one of that type small.
ARCHITECTURES = {
    "standard_cl_order1": ("t5", {**T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "t5_large_order1": ("t5", T5),
    "llama2_7b": ("llama", {**LLAMA, "num_key_value_heads": 4}),
    "llama_qlora": ("llama", {**LLAMA, "num_key_value_heads": 4}),
    "llama3_8b": ("llama", {**LLAMA, "rope_parameters": {"rope_type": "default", "rope_theta": 500000.0}}),
    "qwen3_8b": ("qwen3", LLAMA),
    "mistral_7b": ("mistral", {**LLAMA, "sliding_window": 8}),
}


def test_every_example_is_tried():
    assert {path.stem for path in EXAMPLES.glob("*.yaml")} == set(ARCHITECTURES)


def small_model(name: str) -> PreTrainedModel:
    model_type, sizes = ARCHITECTURES[name]
    torch.manual_seed(0)
    config = AutoConfig.for_model(model_type, vocab_size=VOCABULARY, **sizes)
    return (AutoModelForSeq2SeqLM if model_type == "t5" else AutoModelForCausalLM).from_config(config)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_it_runs_to_its_end(name, tmp_path, tiny_stream, tiny_models):
    model = small_model(name)
    model.save_pretrained(tmp_path / "model")
    kind = "seq2seq" if model.config.is_encoder_decoder else "causal"
    for file in tiny_models[kind].glob("tokenizer*"):
        (tmp_path / "model" / file.name).write_bytes(file.read_bytes())
    overrides = [f"model={tmp_path / 'model'}", f"stream={tiny_stream}", *SHRUNKEN]
    config = RunConfig.from_yaml(EXAMPLES / f"{name}.yaml", overrides)
    if config.quantize:
        pytest.importorskip("bitsandbytes", reason="pip install gorp-cl[quantized]")
    record = run_stream(config, tmp_path / "run")
    assert record.finished
    assert len(record.stages) == 3
    meters = [meter for stage in record.stages for meter in stage.layers.values() if meter.leak is not None]
    assert meters
    assert all(meter.leak <= meter.leak_bound for meter in meters)
    learner = ContinualLearner.of_run(tmp_path / "run")
    lora = find_layers(model, config.gorp.lora_targets, "lora_targets")
    full_rank = find_layers(model, config.gorp.full_rank_targets, "full_rank_targets")
    assert set(record.stages[0].layers) == {*lora, *full_rank}
    codes = {layer for layer, _ in quantized_layers(learner.model)}
    assert bool(codes) == bool(config.quantize)
    for layer in lora if config.quantize else ():
        assert isinstance(learner.model.get_submodule(f"{layer}.base_layer"), StackedLinear)
    assert codes.isdisjoint(full_rank)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_its_targets_are_there_and_defaults_are_known(name):
    model = small_model(name)
    for targets in default_targets(model):
        assert find_layers(model, targets, "targets")
