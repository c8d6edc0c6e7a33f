"""Protection of the base model: what is remembered of general text, what it costs, and that later tasks leave it."""

from __future__ import annotations

import pytest
import torch

from gorp.backbones import load_backbone
from gorp.checkpoint import model_fingerprint
from gorp.config import GORPConfig
from gorp.encoding import answer_loss
from gorp.errors import GorpError, InputError
from gorp.general_text import pretraining_rows, read_texts
from gorp.interference import leak, leak_bound
from gorp.learner import ContinualLearner
from gorp.matching import make_encoder
from gorp.over_stages import BEFORE, over_stages, text_loss_of
from gorp.protect import (
    SHARES,
    check_covered,
    load_protection,
    protecting_space,
    remember_base,
    room_left,
)
from gorp.run import run_stream
from gorp.run_config import RunConfig
from gorp.run_setup import load_stream
from gorp.space import GradientSpace
from gorp.tasks.task import BASE

TARGETS = {
    "seq2seq": {"lora_targets": ["encoder.block.0.layer.0.SelfAttention"], "full_rank_targets": ["EncDecAttention"]},
    "causal": {"lora_targets": ["q_proj", "k_proj"], "full_rank_targets": ["layers.1.mlp.gate_proj"]},
    "encoder": {"lora_targets": ["attention.self"], "full_rank_targets": ["intermediate.dense"]},
}


def config_of(kind, **settings):
    return GORPConfig.model_validate({**TARGETS[kind], "rank": 2, **settings})


@pytest.fixture
def remembered(tiny_pretrained, general_text):
    """A fresh model of a kind, its encoder, rows of text, and what is remembered of them."""

    def make(kind, batch_size=4, **settings):
        backbone = load_backbone(str(tiny_pretrained[kind]))
        encoder = make_encoder(backbone.model, backbone.tokenizer, 64, 8)
        texts = [" ".join(text.split()[: 8 + n]) for n, text in enumerate(read_texts(general_text))]
        rows = pretraining_rows(encoder, texts, 64)
        memories = remember_base(backbone.model, encoder, rows, config_of(kind, **settings), batch_size)
        return backbone.model, encoder, rows, memories

    return make


def slow_gram(model, encoder, rows, name, batch_size=1):
    """Sum over batches of w x x^T with the weights spelt out; each row passes alone, so that nothing is padded."""
    shown = [slow_inputs(model, encoder, row, name) for row in rows]
    gram = torch.zeros(2 * (model.get_submodule(name).in_features,), dtype=torch.float64)
    for first in range(0, len(rows), batch_size):
        pairs = [pair for pairs in shown[first : first + batch_size] for pair in pairs]
        total, tokens = sum(size for _, size in pairs), sum(size > 0 for _, size in pairs)
        for x, size in pairs:
            gram += (0.5 * (size > 0) / tokens + 0.5 * size / total) * torch.outer(x, x)
    return gram


def slow_inputs(model, encoder, row, name):
    """Of every token of a row, the layer's input and the length of the loss's gradient at its output."""
    layer, seen = model.get_submodule(name), []
    handle = layer.register_forward_hook(lambda _, args, out: seen.append((args[0], out)))
    layer.weight.requires_grad_(True)
    batch = encoder.training_batch([row])
    logits = encoder.logits(model.eval(), batch)
    (inputs, output), *_ = seen
    (delta,) = torch.autograd.grad(answer_loss(logits, batch["labels"]), output)
    handle.remove()
    layer.weight.requires_grad_(False)
    return list(zip(inputs[0].detach().double(), [float(d.norm()) for d in delta[0]], strict=True))


def assert_weighed(model, encoder, rows, memories, batch_size):
    for memory in memories:
        found = memory.rows.double()
        expected = slow_gram(model, encoder, rows, memory.layers[0], batch_size)
        torch.testing.assert_close(found.mT @ found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
def test_inputs_are_weighed_by_what_hangs_on_them(remembered, kind):
    model, encoder, rows, memories = remembered(kind, batch_size=1)
    assert_weighed(model, encoder, rows, memories[:: len(memories) // 3], 1)
    assert not any(parameter.grad is not None or parameter.requires_grad for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
def test_padding_weighs_nothing(remembered, kind):
    model, encoder, rows, memories = remembered(kind, batch_size=12)
    assert len({len(row.prompt) + len(row.answer) for row in rows}) > 5
    # none is a causal query: the first token's has but one key, so that its gradient is what round-off leaves
    assert_weighed(model, encoder, rows, memories[1::3], 12)


def test_an_encoders_inputs_weigh_the_same(remembered):
    model, encoder, rows, memories = remembered("encoder")
    (memory,) = [memory for memory in memories if memory.layers == ("encoder.layer.0.attention.self.query",)]
    inputs = torch.cat([model.embeddings(torch.tensor([row.prompt]))[0].detach() for row in rows])
    torch.testing.assert_close(memory.rows.mT @ memory.rows, inputs.mT @ inputs, rtol=1e-4, atol=1e-4)
    assert encoder.kind == "encoder"


def test_layers_that_share_an_input_share_a_memory(remembered):
    model, _, _, memories = remembered("causal", share_inputs=True)
    shared = [memory for memory in memories if len(memory.layers) == 2]
    assert [layer.rpartition(".")[2] for layer in shared[0].layers] == ["q_proj", "k_proj"]
    space = protecting_space(model, memories, 0.9, 1.0)
    first, second = (space.layers[name] for name in shared[0].layers)
    assert first.input is second.input
    assert (first.growth, second.growth) == ([first.input.rank], [0])
    assert torch.equal(first.shares["input"], second.shares["input"]), "what the base relies on is known of both"
    assert float(first.shares["input"].sum()) >= 0.9 - 1e-6


def test_the_table_counts_what_the_space_then_holds(remembered):
    model, _, _, memories = remembered("seq2seq")
    left = room_left(memories, 0.75, SHARES)
    for position, share in enumerate(SHARES):
        space = protecting_space(model, memories, share, 0.75)
        kind = "decoder.block.*.layer.*.EncDecAttention.o"
        layers = [layer for name, layer in space.layers.items() if name.endswith("EncDecAttention.o")]
        slow = [0.0 if layer.frozen else 1 - layer.input.rank / int(0.75 * layer.input.width) for layer in layers]
        assert left[kind][position] == pytest.approx(sum(slow) / len(slow))
    assert all(row == sorted(row, reverse=True) for row in left.values())
    assert len(set(left[kind])) > 2, "shares can be told apart"


@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_the_space_holds_the_share_and_no_column_more(remembered, share):
    model, _, _, memories = remembered("causal")
    space = protecting_space(model, memories, share, 1.0)
    for memory in memories:
        basis = space.layers[memory.layers[0]].basis.double()
        rows = memory.rows.double()
        held = float((rows @ basis).square().sum() / rows.square().sum())
        assert held >= share - 1e-6
        if basis.shape[1]:
            assert float((rows @ basis[:, :-1]).square().sum() / rows.square().sum()) < share
    assert space.tasks == [BASE]
    assert space.base_fingerprint == model_fingerprint(model)


def test_of_inputs_too_wide_for_a_whole_memory_the_share_is_of_all_that_was_shown(remembered, monkeypatch):
    monkeypatch.setattr("gorp._sketch.GRAM_WIDTH", 16)
    monkeypatch.setattr("gorp._sketch.SKETCH_ROWS", 24)
    monkeypatch.setattr("gorp._sketch.SKETCH_KEPT", 12)
    model, _, _, memories = remembered("causal")
    monkeypatch.undo()
    whole = {memory.layers: memory.rows.double() for memory in remembered("causal")[-1]}
    assert max(memory.held for memory in memories) < 0.999, "something is lost"
    space = protecting_space(model, memories, 0.8, 1.0)
    for memory in memories:
        basis, rows = space.layers[memory.layers[0]].basis.double(), whole[memory.layers]
        held = float((rows @ basis).square().sum() / rows.square().sum())
        assert held >= min(0.8, memory.held) - 0.02, "what is remembered of the energy is not more than there was"
        if memory.held > 0.8:
            assert basis.shape[1] == memory.columns([0.8])[0] < len(memory.rows)
        else:
            assert basis.shape[1] == torch.linalg.matrix_rank(memory.rows.double())


def test_a_layer_that_needs_more_than_its_cap_is_frozen(remembered):
    model, _, _, memories = remembered("causal", share_inputs=True)
    space = protecting_space(model, memories, 1.0, 0.1)
    assert all(layer.frozen and layer.input.rank == 0 for layer in space.layers.values())
    assert set(map(tuple, room_left(memories, 0.1, [1.0]).values())) == {(0.0,)}


def test_the_same_text_gives_the_same_space(remembered):
    first, second = (remembered("seq2seq")[3] for _ in range(2))
    assert all(a.rows.equal(b.rows) for a, b in zip(first, second, strict=True))


def test_damaged_weights_are_told(tiny_pretrained, general_text):
    backbone = load_backbone(str(tiny_pretrained["causal"]))
    encoder = make_encoder(backbone.model, backbone.tokenizer, 64, 8)
    rows = pretraining_rows(encoder, read_texts(general_text), 64)
    backbone.model.model.layers[0].mlp.up_proj.weight.data[0, 0] = torch.nan
    with pytest.raises(GorpError, match="not finite"):
        remember_base(backbone.model, encoder, rows, config_of("causal"))


def test_the_papers_form_is_refused(remembered):
    with pytest.raises(InputError, match=r"gorp\.variant"):
        remembered("causal", variant="paper")


def test_layers_that_are_not_protected_are_named():
    with pytest.raises(InputError, match=r"s\.safetensors: does not protect layer b and 1 more, which learn;"):
        check_covered({"a"}, ["a", "b", "c"], "s.safetensors")
    check_covered({"a", "b"}, ["a"], "s.safetensors")


@pytest.fixture
def protection(remembered, tmp_path):
    """The file of a space that protects the tiny T5."""
    model, _, _, memories = remembered("seq2seq")
    path = tmp_path / "space.safetensors"
    protecting_space(model, memories, 0.8, 0.9).save(path)
    return path


def run_config(tiny_pretrained, tiny_stream, protection, **settings):
    plain = {
        "model": str(tiny_pretrained["seq2seq"]),
        "stream": str(tiny_stream),
        "protect": str(protection) if protection else None,
        "training": {"epochs": 1, "lr": 0.01, "batch_size": 8, "max_source_length": 64},
        "gorp": {**TARGETS["seq2seq"], "rank": 2, "refresh_every": 2, "max_share": 0.9},
        "data": {"train_rows": 16, "test_rows": 3, "validation_rows": 2},
    }
    return RunConfig.from_mapping({**plain, **settings})


def test_a_run_leaves_the_base_directions_alone(tiny_pretrained, tiny_stream, protection, general_text, tmp_path):
    config = run_config(tiny_pretrained, tiny_stream, protection)
    record = run_stream(config, tmp_path / "run")
    meters = record.stages[0].layers
    assert all(meter.leak is not None and not meter.leaks for meter in meters.values()), "from the first task on"
    base = load_backbone(config.model).model
    learner = ContinualLearner.of_run(tmp_path / "run")
    after, moved = learner.method.effective_weights(), 0
    for name, layer in GradientSpace.load(protection).layers.items():
        start = base.get_submodule(name).weight.detach()
        change = after[name].double() - start.double()
        assert leak(change, layer.basis) <= 3 * leak_bound(change, start), "three tasks, each within the bound"
        moved += bool(change.norm() > 1e-3)
    assert moved > len(after) / 2
    space = learner.method.space
    assert space.tasks == [BASE, *record.tasks]
    assert all(layer.output is not None for name, layer in space.layers.items() if "SelfAttention" in name)
    texts = read_texts(general_text)
    losses = over_stages(tmp_path / "run", text_loss_of(texts, 64))
    assert list(losses) == [BEFORE, *record.tasks]
    assert len(set(losses.values())) == 4
    assert over_stages(tmp_path / "run", text_loss_of(texts, 64), last_alone=True) == {
        name: losses[name] for name in (BEFORE, record.tasks[-1])
    }


def test_a_run_goes_on_without_the_file_once_a_task_is_learnt(tiny_pretrained, tiny_stream, protection, tmp_path):
    config = run_config(tiny_pretrained, tiny_stream, protection)
    first, *others = load_stream(config)
    backbone = load_backbone(config.model)
    ContinualLearner(backbone.model, backbone.tokenizer, run_dir=tmp_path / "run", config=config).learn(first)
    protection.unlink()
    learner = ContinualLearner.of_run(tmp_path / "run")
    learner.learn(others[0])
    assert learner.method.space.tasks == [BASE, first.name, others[0].name]


def test_another_space_is_another_run(tiny_pretrained, tiny_stream, protection, remembered, tmp_path):
    config = run_config(tiny_pretrained, tiny_stream, protection)
    backbone = load_backbone(config.model)
    ContinualLearner(backbone.model, backbone.tokenizer, run_dir=tmp_path / "run", config=config)
    model, _, _, memories = remembered("seq2seq")
    protecting_space(model, memories, 0.5, 0.9).save(protection)
    with pytest.raises(InputError, match="protected directions"):
        ContinualLearner.of_run(tmp_path / "run")


def test_what_does_not_learn_is_left_out_of_the_space(tiny_pretrained, tiny_stream, protection, tmp_path):
    narrow = {"lora_targets": [], "full_rank_targets": ["EncDecAttention"], "rank": 2}
    config = run_config(tiny_pretrained, tiny_stream, protection, gorp=narrow)
    backbone = load_backbone(config.model)
    learner = ContinualLearner(backbone.model, backbone.tokenizer, run_dir=tmp_path / "run", config=config)
    assert list(learner.method.space.layers) == list(learner.method.layer_names())
    assert learner.method.space.max_share == 0.75


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ({"method": "seq-lora"}, "key 'protect': method 'seq-lora' begins with no space; accepted: null, or gorp"),
        ({"gorp": {"lora_targets": ["wi"], "rank": 2}}, "does not protect layer"),
        ({"model": "causal", "gorp": {}}, "protects another base model"),
        ({"protect": "nowhere.safetensors"}, "no such file"),
    ],
)
def test_a_space_that_does_not_fit_is_refused(tiny_pretrained, tiny_stream, protection, tmp_path, settings, problem):
    settings = {**settings, **({"model": str(tiny_pretrained["causal"])} if "model" in settings else {})}
    config = run_config(tiny_pretrained, tiny_stream, protection, **settings)
    with pytest.raises(InputError, match=problem):
        run_stream(config, tmp_path / "run")
    assert not (tmp_path / "run" / "state.json").exists()


def test_a_space_of_unknown_weights_is_refused(tmp_path):
    GradientSpace().save(tmp_path / "s.safetensors")
    with pytest.raises(InputError, match="does not tell of which weights"):
        load_protection(tmp_path / "s.safetensors", "f", 0.5)


def test_a_run_without_a_finished_stage_has_nothing_to_measure(tiny_pretrained, tiny_stream, tmp_path):
    config = run_config(tiny_pretrained, tiny_stream, None)
    backbone = load_backbone(config.model)
    ContinualLearner(backbone.model, backbone.tokenizer, run_dir=tmp_path / "run", config=config)
    with pytest.raises(InputError, match="has learnt no task yet"):
        over_stages(tmp_path / "run", text_loss_of(["x"], 64))
