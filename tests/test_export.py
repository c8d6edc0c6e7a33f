"""What is exported loads where gorp is not, and answers as the run does."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from gorp import checkpoint
from gorp.errors import GorpError, InputError
from gorp.export import export_run
from gorp.export_folder import MARKER
from gorp.learner import run_stream
from gorp.learnt_model import open_learnt
from gorp.matching import embed
from gorp.report.record import RunRecord
from gorp.run_config import RunConfig
from gorp.space import GradientSpace

LOADERS = {"seq2seq": AutoModelForSeq2SeqLM, "causal": AutoModelForCausalLM, "encoder": AutoModel}
TASKS = ("colour", "animal", "act")
LORA_ONLY = {"gorp": {"rank": 2, "refresh_every": 2, "full_rank_targets": []}}
IDS = [[5, 6, 7, 8, 21, 30, 1], [9, 24, 25, 31, 7, 6, 1]]

#: Loads an export with gorp out of reach; what it computes goes to the file named last.
CHILD = """
import sys

class NoGorp:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "gorp":
            raise ImportError("gorp is out of reach")

sys.meta_path.insert(0, NoGorp())
import json, torch, transformers
from safetensors.torch import save_file

folder, loader, ids, out = sys.argv[1:]
model = getattr(transformers, loader).from_pretrained(folder).eval()
transformers.AutoTokenizer.from_pretrained(folder)
for parameter in model.parameters():  # aligned as those of any other model: products may round otherwise else
    parameter.data = parameter.data.clone()
inputs = {"input_ids": torch.tensor(json.loads(ids))}
inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
found = {}
with torch.inference_mode():
    if loader == "AutoModel":
        found["states"] = model(**inputs).last_hidden_state
    else:
        found["tokens"] = model.generate(**inputs, max_new_tokens=8, do_sample=False)
        start = {"decoder_input_ids": found["tokens"]} if model.config.is_encoder_decoder else {}
        found["logits"] = model(**inputs, **start).logits
assert not any(name.partition(".")[0] == "gorp" for name in sys.modules)
save_file({name: value.contiguous() for name, value in found.items()}, out)
"""

Run = Callable[..., Path]


@pytest.fixture(scope="module")
def run(tiny_models, tiny_stream, tmp_path_factory) -> Run:
    """The folder of a run of three tasks with such settings, made once."""
    made: dict[str, Path] = {}

    def runs(kind: str = "seq2seq", method: str = "gorp", model: Path | None = None, **settings) -> Path:
        key = json.dumps([kind, method, str(model), settings])
        if key not in made:
            made[key] = tmp_path_factory.mktemp("run")
            values = {
                "method": method,
                "model": str(model or tiny_models[kind]),
                "stream": str(tiny_stream),
                "training": {"epochs": 1, "lr": 0.02, "batch_size": 6},
                "lora": {"rank": 2},
                "gorp": {"rank": 2, "refresh_every": 2},
                "data": {"train_rows": 12, "test_rows": 3, "validation_rows": 4},
                **settings,
            }
            run_stream(RunConfig.from_mapping(values), made[key])
        return made[key]

    return runs


def without_gorp(folder: Path, kind: str) -> dict[str, Tensor]:
    """What an export computes in a process that cannot import gorp."""
    out = folder.with_name(f"{folder.name}.found")
    program = [sys.executable, "-I", "-c", CHILD, str(folder), LOADERS[kind].__name__, json.dumps(IDS), str(out)]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return load_file(out)


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


@pytest.mark.parametrize("kind", ["seq2seq", "causal", "encoder"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_without_gorp_every_bit_of_an_answer_is_the_same(run, tiny_models, tmp_path, kind, dtype):
    folder = run(kind, dtype=dtype)
    export_run(folder, tmp_path / "out")
    expected = of_run(folder, kind)
    assert_same(without_gorp(tmp_path / "out", kind), expected)
    base = LOADERS[kind].from_pretrained(tiny_models[kind], dtype=dtype).eval()
    assert not computed(base, kind)[list(expected)[-1]].equal(list(expected.values())[-1]), "nothing was learnt"
