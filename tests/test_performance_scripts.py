"""The scripts that measure speed: how they time and tell; what they find is no test's business."""

import gzip
import json
import re
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import torch

import gorp
from gorp.backbones import load_backbone
from gorp.encoding import Encoder
from gorp.run_setup import first_difference
from gorp.tasks import Example
from gorp.tasks.benchmarks import DATASETS

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import communication
import evaluation
import memory
import pretrain_llama
import protection
import quantized
import refresh
import scaling
import speed
import timing


def test_candidates_take_turns_in_alternating_order():
    calls = []
    seconds = timing.alternate({name: lambda name=name: calls.append(name) for name in "ab"}, rounds=3)
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab", "one warm-up, then the rounds"
    assert {name: len(found) for name, found in seconds.items()} == {"a": 3, "b": 3}


def test_a_ratio_is_of_neighbours_in_time():
    figure = timing.Figure.ratio("what", [2.0, 30.0, 8.0], [1.0, 10.0, 2.0], "<= 1")
    assert (figure.median, figure.lowest, figure.highest) == (3, 2, 4)
    assert figure.seconds == (8, 2)


def test_figures_are_printed_and_kept_with_the_machine(tmp_path, capsys):
    figure = timing.Figure("something", 1.25, 1.0, 1.5, ">= 1")
    timing.tell("title", [figure], tmp_path / "new" / "figures.json")
    assert "something" in capsys.readouterr().out
    kept = json.loads((tmp_path / "new" / "figures.json").read_text())
    assert kept["figures"][0]["median"] == 1.25
    assert kept["machine"]["torch"] == torch.__version__


def test_a_refresh_is_timed():
    given, from_tokens, whole, in_bf16 = refresh.cost(size=64, tokens=32, full=0.25, rounds=1)
    assert given.median > 0
    assert "from 32 tokens" in from_tokens.what
    assert "whole refresh in fp32" in whole.what
    assert "whole refresh in bf16" in in_bf16.what


def test_a_whole_refresh_chooses_anew_and_merges():
    delta, x = torch.randn(32, 64), torch.randn(32, 64)
    layer = refresh.square_layer(torch.eye(64)[:, :8], torch.float32)
    refresh.refresh(layer, delta, x)
    first, weight = layer.V.clone(), layer.weight.detach().clone()
    torch.nn.init.normal_(layer.core)
    refresh.refresh(layer, delta.flip(0), x)
    assert not layer.V.equal(first)
    assert not layer.weight.equal(weight), "the core was merged"
    assert not layer.core.any()
    assert layer.V[:8].abs().max() < 1e-5, "off the space"


@pytest.fixture
def small(monkeypatch):
    """The smallest LLaMA as one of the blocks."""
    config = speed.LlamaConfig(
        vocab_size=speed.VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=2,
        use_cache=False,
    )  # fmt: skip
    monkeypatch.setitem(speed.BLOCKS, "small", lambda: speed.LlamaForCausalLM(config))


def test_a_peak_is_of_what_was_alive_at_once():
    def run():
        first = torch.zeros(1000)
        del first
        return [torch.zeros(1500) for _ in range(2)]

    assert memory.peak(run) == 2 * 4 * 1500


def test_memory_is_told_beside_loras(small):
    torch.manual_seed(0)
    figures = {figure.what: figure.median for figure in memory.measure("small", rows=1, length=8)}
    empty, quarter, forgetful, full, *_ = figures.values()
    assert 0.5 < forgetful < empty < full
    assert 0.5 < quarter < full
    held = memory.space_bytes(speed.attach(speed.BLOCKS["small"](), 0.25)[0])
    assert held == 4 * 5 * 16 * 64, "of q and v on either side and of the gate on one, a quarter of 64 each"


def test_answers_are_those_of_the_trainer(tiny_models):
    examples = [Example("sort: b a" + " c" * i, "a b", (0, 0), options=("a b", "b a")) for i in range(5)]
    *_, same = evaluation.measure(str(tiny_models["seq2seq"]), examples, length=32, rounds=1, batch=2)
    assert same.median == 1


def test_a_block_learns_in_every_way(small):
    """Every contender makes its steps, and gorp's work is found in the backward pass, too."""
    figures = speed.measure("small", rows=1, length=8, rounds=1)
    assert [figure.what.partition(": ")[2] for figure in figures[:6]] == [
        "gorp / LoRA", "gorp, random directions / LoRA", "gorp / full fine-tuning",
        "gorp, spaces a quarter full / gorp", "gorp / O-LoRA after 15 tasks", "gorp / OSF",
    ]  # fmt: skip
    base = speed.BLOCKS["small"]()
    with speed.stopwatch(*speed.HOOKS) as hooks:
        model, optimizer = speed.attach(base, 0.25)
        assert {layer.space.input.rank for layer in model.learned_layers.values()} == {16}
        speed.steps_of(model, optimizer, 1, 8)()
    assert hooks[0] > 0


def test_calls_are_timed_apart():
    (figure,) = speed.host(layers=1, rounds=1)
    assert figure.median > 0
    assert "16 factors" in figure.what
    assert "12 factors" in figure.what


def test_the_exponent_is_the_slope_over_sizes():
    assert scaling.exponent([1, 2, 4], [3.0, 12.0, 48.0]) == pytest.approx(2)


def test_growth_is_told_of_the_step_and_of_the_forward_pass(monkeypatch):
    monkeypatch.setattr(scaling, "MIDDLE", {"layers": 1, "rows": 1, "width": 64})
    figures = scaling.measure({"layers": (1, 3), "width": (64, 128)}, rounds=1, length=4)
    assert [figure.what.partition(" (")[0] for figure in figures] == [
        f"{name}, exponent in {measure}" for measure in ("layers", "width") for name in ("step", "forward pass")
    ]
    assert figures[0].lowest == figures[0].median == figures[0].highest


@pytest.mark.slow
def test_bytes_that_ranks_send_are_counted():
    """Of a real block, for the processes do not see what a test puts in its place."""
    between, refresh, lora = communication.measure("T5-large", rows=1, length=4)
    whole = sum(p.nbytes for p in speed.BLOCKS["T5-large"]().parameters())
    factors, cores = 4 * 2 * 8 * 1024, 4 * 8 * 8
    assert between.lowest == between.highest
    assert between.median * whole == pytest.approx(4 * (2 * factors + cores)), "A and B, their gradients' rows, and Z"
    assert lora.median * whole == pytest.approx(4 * 2 * factors), "twice as many layers"
    assert between.highest < refresh.lowest < 0.05


def test_bytes_of_a_quantised_model_are_told_from_shapes():
    sizes = {"hidden_size": 128, "intermediate_size": 256, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = gorp.GORPConfig(**quantized.SETTINGS, **quantized.FORMS["LoRA alone"])
    plain, eight, four = (quantized.count(quantized.llama(**sizes), bits, config, 2, 0.1) for bits in (16, 8, 4))
    numbers = 4 * 128**2 + 3 * 128 * 256  # of the block
    assert plain["weights"] - eight["weights"] == numbers - 4 * (5 * 128 + 2 * 256)
    assert plain["weights"] - four["weights"] == numbers * 3 // 2 - numbers // 64 - numbers // 4096
    assert (plain["stacks"], plain["rounding"]) == (0, 2 * 2 * 128**2)
    assert eight["stacks"] == four["stacks"] == 4 * 2 * (2 * 8) * (128 + 128)


def test_protection_is_judged_beside_the_best_that_is_unprotected():
    slow, fast, kept = (protection.Setting(*values) for values in ((None, 1), (None, 2), (0.9, 2)))
    outcomes = {
        slow: [protection.Outcome(4.0, 2.0, 60.0), protection.Outcome(4.0, 1.0, 62.0)],
        fast: [protection.Outcome(4.0, 9.0, 50.0), protection.Outcome(4.0, 9.0, 71.0)],
        kept: [protection.Outcome(4.0, 0.5, 58.5), protection.Outcome(4.0, 0.5, 62.0)],
    }
    told = {figure.what: figure for figure in protection.figures(outcomes)}
    shares, lost = (told[f"0.9 protected, rates x 2: {what}"] for what in ("share of the rise", "AP lost"))
    assert (shares.lowest, shares.median, shares.highest) == (0.25, 0.375, 0.5)
    assert (lost.lowest, lost.median, lost.highest) == (0.0, 0.75, 1.5)


def test_protection_runs_differ_in_what_they_say(tmp_path):
    options = Namespace(model="t5-tiny", data=tmp_path, rows=10, test_rows=5, causal=False)
    plain, fast = (protection.configuration(options, 1, rate) for rate in (1, 2))
    assert (fast.training.lr, fast.training.full_rank_lr) == (2 * plain.training.lr, 2 * plain.training.full_rank_lr)
    kept = protection.configuration(options, 1, 1, tmp_path / "s.safetensors")
    assert first_difference(kept, plain) == f"protect = None, not {str(tmp_path / 's.safetensors')!r}"
    causal = protection.configuration(Namespace(**{**vars(options), "causal": True}), 1)
    assert list(causal.gorp.full_rank_targets) == ["mlp.gate_proj"]


def test_a_llama_is_pretrained_on_texts_and_questions(tmp_path, monkeypatch):
    for name in DATASETS:
        folder = tmp_path / "data" / "olora" / name
        folder.mkdir(parents=True)
        with gzip.open(folder / "train.jsonl.gz", "wt") as file:
            texts = (f"the wording of {name} says nothing about {number} of them" for number in range(8))
            file.writelines(json.dumps({"text": text, "label": "AB"[at % 2]}) + "\n" for at, text in enumerate(texts))
    monkeypatch.setattr(pretrain_llama, "ROWS", 8)
    monkeypatch.setattr(torch, "compile", lambda function: function)
    source = load_backbone("t5-tiny").tokenizer
    source.save_pretrained(tmp_path / "t5")
    command = [
        "x",
        "--data",
        tmp_path / "data",
        "--tokenizer",
        tmp_path / "t5",
        "--out",
        tmp_path / "llama",
        "--steps",
        "2",
    ]
    monkeypatch.setattr("sys.argv", [str(word) for word in command])
    pretrain_llama.main()
    made = load_backbone(str(tmp_path / "llama"))
    end = made.tokenizer.eos_token_id
    assert made.kind == "causal"
    ids = made.tokenizer("text 7")["input_ids"]
    assert ids[0] == end, "a text opens with the token that parts texts"
    assert ids.count(end) == 1, "and is not closed"
    assert made.tokenizer.decode(ids, skip_special_tokens=True).strip() == "text 7"
    encoder = Encoder(made.model, made.tokenizer, 112, 16)
    ids, weights = next(pretrain_llama.batches(encoder, tmp_path / "data"))
    for row in (1, 3, 5, 7):
        question, answer = (
            made.tokenizer.decode(ids[row][part], skip_special_tokens=True).strip()
            for part in (weights[row] == 1, weights[row] > 1)
        )
        assert question.endswith("Answer:")
        if row % 4 == 1:
            assert answer in "AB" and not any(name in question for name in pretrain_llama.UNASKED)
        else:
            assert answer in re.search("(?s)Which word (?:stands in|is missing from).*Option: (.*)", question)[1]
    assert ids[0, :64].equal(ids[0, 64:]), "copying is learnt"
