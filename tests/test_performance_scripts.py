"""The scripts that measure speed: how they time and tell; what they find is no test's business."""

import json
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import refresh
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
    given, from_tokens = refresh.cost(size=64, tokens=32, full=0.25, rounds=1)
    assert given.median > 0
    assert "from 32 tokens" in from_tokens.what


def test_a_block_learns_in_every_way(monkeypatch):
    """On the smallest LLaMA: every contender makes its steps, and gorp's work is found in the backward pass, too."""
    small = speed.LlamaConfig(
        vocab_size=speed.VOCABULARY, hidden_size=64, intermediate_size=96, num_hidden_layers=1, num_attention_heads=2,
        use_cache=False,
    )  # fmt: skip
    monkeypatch.setitem(speed.BLOCKS, "small", lambda: speed.LlamaForCausalLM(small))
    figures = speed.measure("small", rows=1, length=8, rounds=1)
    assert [figure.what.partition(": ")[2] for figure in figures[:4]] == [
        "gorp / LoRA", "gorp, random directions / LoRA", "gorp / full fine-tuning", "spaces a quarter full / empty",
    ]  # fmt: skip
    base = speed.BLOCKS["small"]()
    with speed.stopwatch(*speed.HOOKS) as hooks:
        model, optimizer = speed.attach(base, 0.25)
        assert {layer.space.input.rank for layer in model.learned_layers.values()} == {16}
        speed.steps_of(model, optimizer, 1, 8)()
    assert hooks[0] > 0
