"""An adapter that is exported answers, on its base, as the run does."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from exports import LOADERS, LORA_ONLY, assert_near, assert_same, computed, contents, described, of_run
from peft import PeftModel
from safetensors import safe_open
from transformers import BitsAndBytesConfig

from gorp._quantized import ready_to_learn
from gorp.backbones import load_backbone
from gorp.errors import InputError
from gorp.export import export_run
from gorp.lora_adapter import factorised, rounding_norm

#: That of peft's own doing, when it takes hold of a model.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


def on(base, folder: Path):
    """A base model under an exported adapter."""
    return PeftModel.from_pretrained(base, folder).eval()


@pytest.mark.parametrize("kind", LOADERS)
def test_what_tasks_merged_is_one_adapter_of_the_sum_of_their_ranks(run, tiny_models, tmp_path, kind):
    folder = run(kind, gorp=LORA_ONLY)
    done = export_run(folder, tmp_path / "out", adapter=True)
    assert "rank 6, for what 3 tasks added; it leaves out" in done.notes[0]
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert (config["peft_type"], config["r"], config["lora_alpha"]) == ("LORA", 6, 6)
    assert not config["rank_pattern"]
    assert config["base_model_name_or_path"] == tiny_models[kind].name
    for path, content in contents(tmp_path / "out").items():
        assert str(tiny_models[kind]).encode() not in content, f"{path.name} tells where the base was"
    base = LOADERS[kind].from_pretrained(tiny_models[kind])
    before = computed(base.eval(), kind)
    expected = of_run(folder, kind)
    assert_near(computed(on(base, tmp_path / "out"), kind), expected)
    last = list(expected)[-1]
    assert (before[last] - expected[last]).abs().max() > 0.01 * expected[last].abs().max(), "nothing was learnt"
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"adapter_model.safetensors", "README.md", "space"} <= names
    assert not {"model.safetensors", "config.json"} & names


def test_factors_that_are_not_merged_are_taken_as_they_are(run, tiny_models, tmp_path):
    folder = run("causal", "seq-lora")
    done = export_run(folder, tmp_path / "out", adapter=True)
    assert done.notes == ["The adapter has rank 2, for what 3 tasks added."]
    base = LOADERS["causal"].from_pretrained(tiny_models["causal"])
    assert_same(computed(on(base, tmp_path / "out"), "causal"), of_run(folder, "causal"))
    with safe_open(tmp_path / "out" / "adapter_model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert all(name.startswith("base_model.model.model.layers.") for name in file.keys())  # noqa: SIM118


def test_the_adapter_of_a_task(run, tiny_models, tmp_path):
    folder = run("seq2seq", "per-task")
    export_run(folder, tmp_path / "out", task="animal", adapter=True, dtype="float32")
    base = LOADERS["seq2seq"].from_pretrained(tiny_models["seq2seq"])
    assert_same(computed(on(base, tmp_path / "out"), "seq2seq"), of_run(folder, "seq2seq", task="animal"))


@pytest.mark.parametrize("method", ["gorp", "inc-lora"])
def test_of_bf16_weights_it_takes_no_rounding_for_something_learnt(run, tiny_models, tmp_path, method):
    """gorp keeps what bf16 rounds off, so that the difference is exact; inc-lora's merges are rounded."""
    folder = run("causal", method, dtype="bfloat16", gorp=LORA_ONLY)
    done = export_run(folder, tmp_path / "out", adapter=True)
    assert "rank 6" in done.notes[0]
    assert done.notes[-1] == "Answers are those of the run but for rounding to bfloat16."
    base = LOADERS["causal"].from_pretrained(tiny_models["causal"], dtype="bfloat16")
    answers = (computed(on(base, tmp_path / "out"), "causal"), of_run(folder, "causal"))
    assert_near(*({"logits": of["logits"]} for of in answers), tolerance=0.05)


@pytest.mark.parametrize("bits", ["4bit", "8bit"])
def test_beside_a_quantised_base_what_is_stacked_is_the_adapter(run, tiny_models, tmp_path, bits):
    pytest.importorskip("bitsandbytes", reason="pip install gorp-cl[quantized]")
    folder = run("causal", quantize=bits, gorp=LORA_ONLY)
    done = export_run(folder, tmp_path / "out", adapter=True)
    assert "rank 6" in done.notes[0] and bits in done.notes[1]
    base = load_backbone(str(tiny_models["causal"]), "float32", bits).model
    assert_near(computed(on(base, tmp_path / "out"), "causal"), of_run(folder, "causal"))
    if bits == "4bit":  # as who does without gorp loads it
        config = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )
        base = LOADERS["causal"].from_pretrained(tiny_models["causal"], quantization_config=config)
        ready_to_learn(base)  # or bitsandbytes packs codes anew on some CPUs, which fails on layers as small as these
        assert_near(computed(on(base, tmp_path / "out"), "causal"), of_run(folder, "causal"))


@pytest.mark.parametrize("gorp", [LORA_ONLY, {"rank": 2, "refresh_every": 2}], ids=["lora", "full rank, too"])
def test_a_quantised_run_is_a_plain_model_of_what_its_codes_stand_for(run, tiny_models, tmp_path, gorp):
    pytest.importorskip("bitsandbytes", reason="pip install gorp-cl[quantized]")
    folder = run("causal", quantize="4bit", gorp=gorp)
    done = export_run(folder, tmp_path / "out")
    assert "what its codes stand for" in done.notes[0]
    tensors, config = described(tmp_path / "out")
    assert (tensors, config) == described(tiny_models["causal"])
    model = LOADERS["causal"].from_pretrained(tmp_path / "out").eval()
    assert_near(computed(model, "causal"), of_run(folder, "causal"))


def test_in_8_bits_too_but_for_what_bitsandbytes_rounds_of_the_inputs(run, tmp_path):
    pytest.importorskip("bitsandbytes", reason="pip install gorp-cl[quantized]")
    folder = run("causal", quantize="8bit", gorp=LORA_ONLY)
    export_run(folder, tmp_path / "out", dtype="float32")
    model = LOADERS["causal"].from_pretrained(tmp_path / "out").eval()
    found, expected = ({"logits": of["logits"]} for of in (computed(model, "causal"), of_run(folder, "causal")))
    assert_near(found, expected, tolerance=0.05)


def test_what_no_adapter_holds_is_refused(run, tmp_path):
    for method, message in [
        ("gorp", r"layer model.layers.0.mlp.gate_proj learnt at full rank, which no adapter holds; accepted: no --ada"),
        ("seq-full", "layer model.layers.0.self_attn.q_proj learnt at full rank"),
        ("zero-shot", "method 'zero-shot' changes no weight, so that there is nothing for an adapter to hold"),
        ("l2p", "method 'l2p' changes no weight"),
    ]:
        with pytest.raises(InputError, match=message):
            export_run(run("causal", method), tmp_path / "out", adapter=True)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("shape", [(40, 24), (24, 40), (12, 12)])
def test_a_change_is_factorised_at_its_own_rank(shape):
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(shape, generator=generator) / 5
    after = weight.clone()
    for _ in range(3):
        left, right = torch.randn(shape[0], 2, generator=generator), torch.randn(2, shape[1], generator=generator)
        after.addmm_(left / 10, right)
    change = after.double() - weight
    noise = rounding_norm(weight, torch.finfo(torch.float32).eps, merges=3)
    factors, left_out = factorised(change, most=20, noise=noise)
    assert factors.right.shape == (6, shape[1])
    assert 0 < left_out < 1e-6
    assert (factors.left.double() @ factors.right.double() - change).norm() < 2e-6 * change.norm()
    nothing, left_out = factorised(torch.zeros(shape, dtype=torch.float64), most=6, noise=noise)
    assert len(nothing.right) == left_out == 0
