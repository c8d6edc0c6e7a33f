"""What a model computes on fixed inputs, and how that of an export is compared with that of its run."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

from gorp.learnt_model import open_learnt

LOADERS = {"seq2seq": AutoModelForSeq2SeqLM, "causal": AutoModelForCausalLM, "encoder": AutoModel}
LORA_ONLY = {"rank": 2, "refresh_every": 2, "full_rank_targets": []}
IDS = [[5, 6, 7, 8, 21, 30, 1], [9, 24, 25, 31, 7, 6, 1]]


@torch.inference_mode()
def computed(model: nn.Module, kind: str) -> dict[str, Tensor]:
    """What a model computes, as `CHILD` does."""
    for parameter in model.parameters():
        parameter.data = parameter.data.clone()
    inputs = {"input_ids": torch.tensor(IDS)}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    if kind == "encoder":
        return {"states": model(**inputs).last_hidden_state}
    tokens = model.generate(**inputs, max_new_tokens=8, do_sample=False)
    start = {"decoder_input_ids": tokens} if kind == "seq2seq" else {}
    return {"tokens": tokens, "logits": model(**inputs, **start).logits}


def of_run(run: Path, kind: str, **how) -> dict[str, Tensor]:
    """What the run's own model computes."""
    return computed(open_learnt(run, **how).learning.base.eval(), kind)


def assert_same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].equal(value), name


def assert_near(found: dict[str, Tensor], expected: dict[str, Tensor], tolerance: float = 1e-4) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        scale = float(value.float().abs().max())
        torch.testing.assert_close(found[name].float(), value.float(), rtol=0, atol=tolerance * scale, msg=name)


def contents(folder: Path) -> dict[Path, bytes]:
    """Every file of an export, at any depth."""
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def described(folder: Path) -> tuple[dict[str, tuple], dict]:
    """Names, shapes and types of a model's weights, and its configuration."""
    tensors = load_file(folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    return {name: (value.shape, value.dtype) for name, value in tensors.items()}, config
