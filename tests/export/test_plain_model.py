"""A whole model that is exported loads where gorp is not, and answers as the run does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from exports import IDS, LOADERS, assert_near, assert_same, computed, contents, described, of_run
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoModel

from gorp import GradientSpace
from gorp.errors import InputError
from gorp.export import export_run
from gorp.learnt_model import open_learnt
from gorp.methods import METHODS, load_method
from gorp.run import run_stream
from gorp.run_config import RunConfig
from gorp.run_setup import load_stream
from gorp.space_file import find_space

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

ids, out, *exports = sys.argv[1:]
found = {}
for folder, loader in zip(exports[::2], exports[1::2], strict=True):
    model = getattr(transformers, loader).from_pretrained(folder).eval()
    transformers.AutoTokenizer.from_pretrained(folder)
    for parameter in model.parameters():  # aligned as those of any model: other products may round otherwise
        parameter.data = parameter.data.clone()
    inputs = {"input_ids": torch.tensor(json.loads(ids))}
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    with torch.inference_mode():
        if loader == "AutoModel":
            found[f"{folder} states"] = model(**inputs).last_hidden_state.clone()
            continue
        tokens = model.generate(**inputs, max_new_tokens=8, do_sample=False)
        start = {"decoder_input_ids": tokens} if model.config.is_encoder_decoder else {}
        found[f"{folder} tokens"], found[f"{folder} logits"] = tokens, model(**inputs, **start).logits.contiguous()
assert not any(name.partition(".")[0] == "gorp" for name in sys.modules)
save_file(found, out)
"""

#: One of each kind: merged, never merged, whole weights, with weights of each task, refused.
FAST = ("gorp", "seq-lora", "osf", "per-task", "l2p")


@pytest.fixture(scope="module")
def without_gorp(run, tmp_path_factory) -> dict[tuple[str, str], dict[str, Tensor]]:
    """What exports of runs of each kind and dtype compute in a process that cannot import gorp."""
    place = tmp_path_factory.mktemp("exports")
    exports = {(kind, dtype): place / f"{kind}-{dtype}" for kind in LOADERS for dtype in ("float32", "bfloat16")}
    for (kind, dtype), folder in exports.items():
        export_run(run(kind, dtype=dtype), folder)
    named = [part for (kind, _), folder in exports.items() for part in (str(folder), LOADERS[kind].__name__)]
    program = [sys.executable, "-I", "-c", CHILD, json.dumps(IDS), str(place / "found"), *named]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = load_file(place / "found")
    return {
        key: {name.split()[-1]: value for name, value in found.items() if name.startswith(f"{folder} ")}
        for key, folder in exports.items()
    }


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", LOADERS)
def test_without_gorp_every_bit_of_an_answer_is_the_same(run, tiny_models, without_gorp, kind, dtype):
    expected = of_run(run(kind, dtype=dtype), kind)
    assert_same(without_gorp[kind, dtype], expected)
    base = LOADERS[kind].from_pretrained(tiny_models[kind], dtype=dtype).eval()
    last = list(expected)[-1]
    assert not computed(base, kind)[last].equal(expected[last]), "nothing was learnt"


@pytest.mark.parametrize("kind", LOADERS)
def test_it_is_what_other_programs_look_for(run, tiny_models, tmp_path, kind):
    """The class by its name, weights as safetensors of torch under the base's names, no code, no quantisation."""
    export_run(run(kind), tmp_path / "out")
    tensors, config = described(tmp_path / "out")
    base_tensors, base_config = described(tiny_models[kind])
    assert tensors == base_tensors
    assert config == base_config
    assert not {"auto_map", "quantization_config"} & config.keys()
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert {"README.md", "space", "tokenizer.json", "tokenizer_config.json"} <= names
    assert [name for name in names if name.endswith(".safetensors")] == ["model.safetensors"], (
        "vLLM takes each for weights"
    )
    assert ("generation_config.json" in names) == (kind != "encoder")
    assert not [name for name in names if name.endswith((".py", ".bin", ".pt"))]
    for path, content in contents(tmp_path / "out").items():
        assert str(tiny_models[kind]).encode() not in content, f"{path.name} tells where the base was"


def save_tied(source: Path, kind: str, target: Path) -> None:
    """A model like another, but that its head is its table of words."""
    shutil.copytree(source, target)
    model = LOADERS[kind].from_pretrained(source)
    model.config.tie_word_embeddings = True
    model.tie_weights()
    model.save_pretrained(target)


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
def test_tied_weights_are_held_once(run, tiny_models, tmp_path, kind):
    save_tied(tiny_models[kind], kind, tmp_path / "base")
    folder = run(kind, model=tmp_path / "base")
    export_run(folder, tmp_path / "out")
    assert described(tmp_path / "out")[0] == described(tmp_path / "base")[0]
    assert "lm_head.weight" not in described(tmp_path / "out")[0]
    model = LOADERS[kind].from_pretrained(tmp_path / "out").eval()
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert_same(computed(model, kind), of_run(folder, kind))


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings:UserWarning")
def test_a_weight_that_learnt_apart_from_what_it_is_tied_to_is_refused(run, tiny_models, tmp_path):
    save_tied(tiny_models["causal"], "causal", tmp_path / "base")
    lora = {"rank": 2, "targets": ["lm_head", "q_proj"]}
    folder = run("causal", "seq-lora", tmp_path / "base", lora=lora)
    with pytest.raises(InputError, match=r"lm_head\.weight is tied to a weight that learnt apart .*: --adapter$"):
        export_run(folder, tmp_path / "out")
    export_run(folder, tmp_path / "out", adapter=True)


def test_an_encoder_keeps_the_pooling_layer_of_its_base_if_it_has_one(run, tiny_models, tmp_path):
    export_run(run("encoder"), tmp_path / "out")
    base, exported = (load_file(folder / "model.safetensors") for folder in (tiny_models["encoder"], tmp_path / "out"))
    assert exported["pooler.dense.weight"].equal(base["pooler.dense.weight"])
    shutil.copytree(tiny_models["encoder"], tmp_path / "base")
    headless = AutoModel.from_pretrained(tmp_path / "base")
    headless.pooler = None
    headless.save_pretrained(tmp_path / "base")
    export_run(run("encoder", model=tmp_path / "base"), tmp_path / "again")
    assert described(tmp_path / "again")[0] == described(tmp_path / "base")[0]


def test_what_sentence_transformers_reads_comes_along(run, tiny_models, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(tiny_models["encoder"], base)
    modules = [{"idx": n, "name": str(n), "path": path, "type": "x"} for n, path in enumerate(["", "1_Pooling", "2_N"])]
    (base / "modules.json").write_text(json.dumps(modules))
    (base / "sentence_bert_config.json").write_text("{}")
    (base / "1_Pooling").mkdir()
    (base / "1_Pooling" / "config.json").write_text('{"pooling_mode_cls_token": true}')
    done = export_run(run("encoder", model=base), tmp_path / "out")
    for name in ("modules.json", "sentence_bert_config.json", "1_Pooling/config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (base / name).read_bytes()
    assert "pools the tokens otherwise than by their mean" in done.notes[-1]
    assert "library_name: sentence-transformers" in (tmp_path / "out" / "README.md").read_text()
    (base / "modules.json").write_text('[{"path": "../.."}]')
    with pytest.raises(InputError, match=r"modules\.json is no list of modules with a path each .*leaves the folder"):
        export_run(run("encoder", model=base), tmp_path / "out")


def test_answers_end_where_they_did_in_the_run(run, tiny_models, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(tiny_models["causal"], base)
    (base / "generation_config.json").write_text('{"eos_token_id": [7], "bos_token_id": 2}')
    export_run(run("causal", model=base), tmp_path / "out")
    settings = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert settings["eos_token_id"] == [7, 1]
    assert settings["pad_token_id"] == 0


def test_settings_that_the_run_answers_with_come_along_without_those_that_do_nothing(run, tiny_models, tmp_path):
    """The latter are such as transformers loads but never saves."""
    base = tmp_path / "base"
    shutil.copytree(tiny_models["causal"], base)
    acting = {"eos_token_id": [7, 1], "repetition_penalty": 3.0, "no_repeat_ngram_size": 2}
    idle = {"temperature": 0.9, "top_p": 0.8, "top_k": 5, "length_penalty": 0.5, "output_scores": True}
    (base / "generation_config.json").write_text(json.dumps({**acting, **idle, "pad_token_id": -1}))
    folder = run("causal", model=base)
    export_run(folder, tmp_path / "out")
    settings = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert acting.items() <= settings.items()
    assert settings["pad_token_id"] == 0 and not idle.keys() & {key for key in settings if settings[key] is not None}
    model = LOADERS["causal"].from_pretrained(tmp_path / "out").eval()
    assert_same(computed(model, "causal"), of_run(folder, "causal"))
    drawing = {"do_sample": True, "temperature": 0.9, "repetition_penalty": 3.0}
    (base / "generation_config.json").write_text(json.dumps(drawing))
    export_run(folder, tmp_path / "out")
    settings = json.loads((tmp_path / "out" / "generation_config.json").read_text())
    assert drawing.items() <= settings.items()


def test_a_vocabulary_that_converters_ask_for_comes_along(run, tiny_models, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(tiny_models["causal"], base)
    (base / "tokenizer.model").write_bytes(b"sentencepiece")
    export_run(run("causal", model=base), tmp_path / "out")
    assert (tmp_path / "out" / "tokenizer.model").read_bytes() == b"sentencepiece"


def test_a_bf16_run_is_exported_as_it_computes_or_as_it_keeps(run, tmp_path):
    folder = run("causal", dtype="bfloat16")
    done = export_run(folder, tmp_path / "rounded")
    assert "what bfloat16 rounds off is not in here" in done.notes[-1]
    export_run(folder, tmp_path / "exact", dtype="float32")
    rounded, exact = (load_file(tmp_path / name / "model.safetensors") for name in ("rounded", "exact"))
    learning = open_learnt(folder).learning
    for name, weight in learning.method.effective_weights().items():
        assert exact[f"{name}.weight"].equal(weight)
        assert rounded[f"{name}.weight"].equal(learning.base.get_submodule(name).weight.cpu())
    assert {value.dtype for value in exact.values()} == {torch.float32}
    assert any(not exact[name].bfloat16().float().equal(exact[name]) for name in exact), "nothing was kept more exactly"
    assert json.loads((tmp_path / "exact" / "config.json").read_text())["dtype"] == "float32"


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_every_method_is_exported_or_refused(run, tmp_path, name):
    if name == "galore":
        pytest.importorskip("galore_torch", reason="pip install gorp-cl[galore]")
    folder = run("causal", name)
    how = {"task": "animal"} if load_method(name).told_task else {}
    if name in ("l2p", "prog-prompt"):
        with pytest.raises(InputError, match="which a plain model has no place for; gorp generate"):
            export_run(folder, tmp_path / "out", **how)
        assert not list(tmp_path.iterdir())
        return
    export_run(folder, tmp_path / "out", **how)
    model = LOADERS["causal"].from_pretrained(tmp_path / "out").eval()
    assert_near(computed(model, "causal"), of_run(folder, "causal", **how))


def test_an_earlier_task_is_exported_as_if_the_run_had_ended_there(run, tiny_models, tiny_stream, tmp_path):
    folder = run("causal")
    config = RunConfig.from_yaml(folder / "config.yaml")
    run_stream(config, tmp_path / "short", load_stream(config)[:1])
    for path, to in ((folder, "colour"), (tmp_path / "short", None)):
        export_run(path, tmp_path / f"out-{to}", to=to)
    early, short = (tmp_path / f"out-{to}" for to in ("colour", None))
    weights, expected = (load_file(place / "model.safetensors") for place in (early, short))
    assert all(weights[name].equal(value) for name, value in expected.items())
    assert GradientSpace.load(find_space(early)).tasks == ["colour"]
    assert "animal" not in (early / "README.md").read_text()
    before = (folder / "state.json").read_bytes()
    with pytest.raises(InputError, match=r"no task 'anmal' is learnt in this run \(did you mean 'animal'\?\)"):
        export_run(folder, tmp_path / "no", to="anmal")
    assert (folder / "state.json").read_bytes() == before


def test_joint_training_has_no_model_of_an_earlier_task(run, tmp_path):
    with pytest.raises(InputError, match="after task 'colour' is not kept; accepted: 'act'"):
        export_run(run("causal", "joint"), tmp_path / "out", to="colour")


def test_a_method_with_weights_for_each_task_has_to_be_told_which(run, tmp_path):
    folder = run("causal", "per-task")
    with pytest.raises(InputError, match=r"has to be told which \(--task\); accepted: colour, animal, act"):
        export_run(folder, tmp_path / "out")
    with pytest.raises(InputError, match="answers every task with the same model; leave --task out"):
        export_run(run("causal"), tmp_path / "out", task="act")
    export_run(folder, tmp_path / "out", task="act")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "It answers the task act alone" in card
    assert "name: act" in card and "name: animal" not in card


@pytest.mark.parametrize("adapter", [False, True], ids=["model", "adapter"])
def test_its_files_are_for_whom_the_umask_says(run, tmp_path, adapter):
    before = os.umask(0o027)
    try:
        export_run(run("causal", gorp={"rank": 2, "full_rank_targets": []}), tmp_path / "out", adapter=adapter)
    finally:
        os.umask(before)
    files = [path for path in (tmp_path / "out").rglob("*") if path.is_file()]
    assert {path.name: path.stat().st_mode & 0o777 for path in files} == {path.name: 0o640 for path in files}
