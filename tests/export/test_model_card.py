"""The card of an export: read by the hub, true to the record, and its code runs."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from exports import LORA_ONLY
from huggingface_hub import ModelCard

from gorp.ask import ask
from gorp.export import export_run
from gorp.report.record import RunRecord

pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")


@pytest.mark.parametrize("kind", ["seq2seq", "causal", "encoder"])
@pytest.mark.parametrize("adapter", [False, True], ids=["model", "adapter"])
def test_its_code_loads_the_export_and_goes_on_learning(run, tiny_models, tmp_path, monkeypatch, capsys, kind, adapter):
    folder = run(kind, gorp=LORA_ONLY)
    export_run(folder, tmp_path / "out", adapter=adapter)
    card = (tmp_path / "out" / "README.md").read_text()
    monkeypatch.chdir(tmp_path)
    Path(tiny_models[kind].name).symlink_to(tiny_models[kind])  # where the card has the adapter's base
    names: dict[str, object] = {}
    load, go_on = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec(load, names)
    assert capsys.readouterr().out
    exec(go_on.replace("...  # ordinary training on the new task", "train()"), names | {"train": lambda: None})


@pytest.mark.parametrize("adapter", [False, True], ids=["model", "adapter"])
def test_its_code_answers_as_the_run_does_whatever_the_base_says(run, tiny_models, tmp_path, monkeypatch, adapter):
    base = tmp_path / "base"
    shutil.copytree(tiny_models["causal"], base)
    settings = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**settings, "eos_token_id": None, "pad_token_id": None}))
    (base / "generation_config.json").write_text('{"num_beams": 3, "repetition_penalty": 1.2}')
    folder = run("causal", model=base, gorp=LORA_ONLY)
    export_run(folder, tmp_path / "out", adapter=adapter)
    code = re.search(r"```python\n(.*?)```", (tmp_path / "out" / "README.md").read_text(), re.DOTALL).group(1)
    monkeypatch.chdir(tmp_path)
    prompts = ["What act is named ? the red cat sleeps", "the dog eats red green"]
    for prompt, expected in zip(prompts, ask(folder, prompts), strict=True):
        names: dict[str, object] = {}
        exec(code.replace("a prompt, in the form that it learnt from", prompt), names)
        start = names["inputs"]["input_ids"].shape[1]
        assert names["tokenizer"].decode(names["answer"][0, start:], skip_special_tokens=True) == expected
        assert names["answer"][0, -1] == 1, "it goes on until it may not"


def test_the_layers_that_it_goes_on_with_are_those_of_the_run(run, tmp_path):
    export_run(run("causal"), tmp_path / "out")
    card = (tmp_path / "out" / "README.md").read_text()
    assert "lora_targets=['model.layers.*.self_attn.q_proj', 'model.layers.*.self_attn.v_proj']" in card
    assert "full_rank_targets=['model.layers.*.mlp.gate_proj']" in card
    one = run("causal", gorp={"rank": 2, "lora_targets": ["0.self_attn.q_proj"], "full_rank_targets": []})
    export_run(one, tmp_path / "one")
    assert "lora_targets=['model.layers.0.self_attn.q_proj']" in (tmp_path / "one" / "README.md").read_text()


def test_the_hub_reads_from_it_what_the_record_has(run, tiny_models, tmp_path):
    folder = run("causal")
    export_run(folder, tmp_path / "out", repo="me/desk")
    record = RunRecord.load(folder)
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert card.data.library_name == "transformers"
    assert {"gorp", "continual-learning"} <= set(card.data.tags)
    assert card.data.base_model is None  # a folder is no model of the hub's
    assert card.data.model_name == record.name
    found = {result.dataset_name: result for result in card.data.eval_results}
    assert list(found) == record.tasks
    assert [result.metric_value for result in found.values()] == [round(x, 4) for x in record.matrix[-1]]
    assert {result.metric_type for result in found.values()} == {"exact_match"}
    assert 'from_pretrained("me/desk")' in card.text
    for part in (str(tiny_models["causal"].parent), str(folder)):
        assert part not in card.content, "a place on this machine"
