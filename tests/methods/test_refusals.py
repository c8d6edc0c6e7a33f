"""What a method cannot learn as it is told to, it refuses before anything is learnt."""

from dataclasses import replace

import pytest
import torch

from gorp.backbones import load_backbone
from gorp.errors import InputError
from gorp.methods import load_method
from gorp.run import run_stream
from gorp.run_config import RunConfig
from gorp.tasks import TaskStream

LORA = ["inc-lora", "o-lora", "n-lora", "inflora"]
CHANGING_WEIGHTS = {
    **{name: {"lora": {"rank": 2, "targets": ["lm_head"]}} for name in LORA},
    "galore": {"options": {"targets": ["lm_head"]}},
    "osf": {"options": {"targets": ["lm_head"]}},
    "gorp": {"gorp": {"rank": 2, "lora_targets": ["lm_head"], "full_rank_targets": []}},
}


def attached(tiny_models, name, settings, change=lambda model: None):
    model = load_backbone(str(tiny_models["causal"])).model
    change(model)
    method = load_method(name)(RunConfig.from_mapping({"method": name, **settings}))
    method.attach(model)
    return method


def tie(model):
    model.config.tie_word_embeddings = True
    model.tie_weights()


@pytest.mark.parametrize("name", CHANGING_WEIGHTS)
def test_a_head_that_is_the_table_of_words(tiny_models, name):
    """A merge into it would change what every other layer reads, and no meter of that layer would show it."""
    if name == "galore":
        pytest.importorskip("galore_torch", reason="pip install gorp-cl[galore]")
    with pytest.raises(InputError, match=r"layer lm_head is tied to model\.embed_tokens\.weight: .* accepted: a base"):
        attached(tiny_models, name, CHANGING_WEIGHTS[name], tie)
    assert attached(tiny_models, name, CHANGING_WEIGHTS[name]).layer_names() == ["lm_head"]


@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings:UserWarning")
def test_a_tied_head_may_learn_by_factors_that_stay_beside_it(tiny_models):
    lora = {"rank": 2, "targets": ["lm_head"]}
    assert attached(tiny_models, "seq-lora", {"lora": lora}, tie).layer_names() == ["lm_head"]


@pytest.mark.parametrize("name", ["seq-lora", *LORA])
def test_weights_in_fp16(tiny_models, name):
    with pytest.raises(InputError, match=r"layer .* is torch\.float16; a layer can learn in float32, float64"):
        attached(tiny_models, name, {"lora": {"rank": 2}}, torch.nn.Module.half)


@pytest.mark.parametrize(("name", "tokens"), [("prog-prompt", 20), ("l2p", 25)])
def test_texts_that_leave_an_encoder_no_room_for_prompts(tiny_models, tiny_stream, tmp_path, name, tokens):
    """prog-prompt's first prompt would have fitted; it is told before the first task what the second one needs."""
    config = RunConfig.from_mapping(
        {"method": name, "model": str(tiny_models["encoder"]), "data": {"train_rows": 4, "test_rows": 2}}
    )
    short, other = list(TaskStream.from_yaml(tiny_stream, train_rows=4, test_rows=2))[:2]
    row = other.train[0]
    long = replace(other, train=[*other.train, replace(row, prompt="the " * 24 + row.prompt, truncatable=(0, 0))])
    most = rf"model of 64 tokens, of which the method will take {tokens}; .*max_source_length up to {64 - tokens}"
    with pytest.raises(InputError, match=rf"task '{long.name}' has texts too long for a {most}"):
        run_stream(config, tmp_path, [short, long])
    assert not list(tmp_path.glob("task-*"))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"method": "replay", "options": {"share": float("inf")}}, r"key 'options\.share': .*finite"),
        ({"method": "ewc", "options": {"strength": float("nan")}}, r"key 'options\.strength': .*"),
        ({"method": "osf", "options": {"targets": []}}, r"key 'options\.targets': .* at least 1"),
        ({"method": "seq-lora", "lora": {"targets": []}}, r"'?lora\.targets'?: .* at least 1"),
    ],
)
def test_numbers_that_are_not_finite_and_lists_of_nothing(settings, message):
    def method():
        config = RunConfig.from_mapping(settings)
        return load_method(config.method)(config)

    with pytest.raises(InputError, match=message):
        method()
