"""What `gorp plan` tells, beside what a real model under its method has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, T5Config

from gorp.errors import InputError
from gorp.forecast import Forecast, forecast
from gorp.held_bytes import PARTS, parts_of
from gorp.probe import fit
from gorp.rehearsal import put_together
from gorp.run_config import RunConfig
from gorp.space import GradientSpace, LayerSpace, Side
from gorp.space_growth import SideGrowth, bytes_after, growth_of, layers_full_at, measured_shares
from gorp.stand_ins import random_model, read_tokenizer
from gorp.tasks.task import BASE

SIZES = {"vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4, "num_hidden_layers": 2}
GORP = {"lora_targets": ["self_attn.q_proj"], "full_rank_targets": ["mlp.gate_proj"], "rank": 4}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A folder that holds a configuration and nothing else."""
    folder = tmp_path / "llama"
    LlamaConfig(
        **SIZES, num_key_value_heads=2, max_position_embeddings=64, architectures=["LlamaForCausalLM"]
    ).save_pretrained(folder)
    assert [path.name for path in folder.iterdir()] == ["config.json"]
    return folder


@pytest.fixture
def tickets(tmp_path: Path) -> Path:
    """A stream of two tasks of 24 rows to train on."""
    for name in ("a", "b"):
        rows = [{"text": "a word or two " * (1 + n % 4), "label": ["yes", "no"][n % 2]} for n in range(36)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    stream = tmp_path / "desk.yaml"
    stream.write_text("name: desk\ntasks: [{path: a.jsonl}, {path: b.jsonl}]\n")
    return stream


def settings(model: Path, stream: Path | str, **others: object) -> RunConfig:
    """A small run."""
    training = {"epochs": 1, "batch_size": 4, "max_source_length": 64}
    values = {"model": str(model), "stream": str(stream), "training": training, "evaluation": {"batch_size": 4}}
    return RunConfig.from_mapping({**values, "gorp": GORP, **others})


def test_parameters_and_bytes_are_those_of_the_real_model(model: Path, tickets: Path) -> None:
    config = settings(model, tickets)
    told = forecast(config, probe_seconds=None)
    model_config = LlamaConfig.from_pretrained(model)
    real = put_together(random_model(model_config, "float32"), read_tokenizer(str(model), model_config)[0], config)
    numbers = {name: p.numel() for name, p in real.base.named_parameters()}
    lora = sum(count for name, count in numbers.items() if ".lora_" in name)
    cores = sum(count for name, count in numbers.items() if name.endswith(".core"))
    assert (told.parameters["lora"], told.parameters["cores"]) == (lora, cores) == (2 * 2 * 4 * 32, 2 * 4 * 4)
    assert told.parameters["frozen"] == sum(numbers.values()) - lora - cores
    parts = parts_of(real.base, real.method, None)
    for part in ("weights", "factors", "projections"):
        assert told.memory.parts[part] == parts[part], part
    assert told.memory.parts["memory"] == 4 * 2 * (32 * 32 + 32 * 32 + 32 * 32), (
        "Gram matrices: q's sides, gate's input"
    )
    assert told.memory.peak == max(told.memory.phases.values()) == sum(told.memory.parts.values())
    assert told.steps == [5, 5], "a task has 17 to 20 rows to train on, four at a time"


def test_training_keeps_moments_and_gradients(model: Path, tickets: Path) -> None:
    told = forecast(settings(model, tickets, method="seq-full", evaluation={"batch_size": 1}), probe_seconds=None)
    whole = 4 * told.parameters["other"]
    assert told.memory.phase in ("training", "keeping")
    assert whole <= told.memory.parts["factors"] <= told.memory.peak
    assert 2 * whole <= told.memory.parts["moments"] <= 2 * whole + 4 * 100, "two moments, and a count a tensor"


def test_the_json_reads_back(model: Path, tickets: Path) -> None:
    told = forecast(settings(model, tickets, method="seq-lora"), probe_seconds=None)
    content = json.loads(told.model_dump_json())
    assert Forecast.model_validate(content) == told
    assert set(content["memory"]["parts"]) == set(PARTS)
    assert content["space"] is None and content["time"] is None and content["format_version"] == 1
    assert all(count > 0 for count in content["operations"]["training"])


def test_what_is_missing_is_assumed_and_told(model: Path) -> None:
    told = forecast(
        settings(model, "standard-cl/1", data={"dir": "nowhere", "train_rows": 8, "test_rows": 4}),
        3,
        probe_seconds=None,
    )
    assert told.steps == [2, 2, 2] and len(told.tasks) == 3
    assert any(line.startswith("tokenizer: none") for line in told.assumed)
    assert any("standard-cl/1 cannot be read" in line and "3 tasks of 8 rows" in line for line in told.assumed)


def test_what_cannot_be_planned_is_named(model: Path, tickets: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no configuration to plan by"):
        forecast(settings(tmp_path, tickets), probe_seconds=None)
    with pytest.raises(InputError, match="no stream 'nothing'"):
        forecast(settings(model, "nothing"), probe_seconds=None)
    with pytest.raises(InputError, match="matches no linear layer"):
        forecast(settings(model, tickets, gorp={"lora_targets": ["nowhere"]}), probe_seconds=None)
    with pytest.raises(InputError, match="gradient_space"):
        forecast(settings(model, tickets), like=tmp_path, probe_seconds=None)


def test_the_probe_makes_its_steps(model: Path, tickets: Path) -> None:
    told = forecast(settings(model, tickets), probe_seconds=600.0)
    assert told.time is not None and told.time.steps == 20 and not told.time.scaled_from_blocks
    assert all(seconds > 0 for seconds in (*told.time.training, *told.time.evaluation))
    assert told.time.total == pytest.approx(
        sum(told.time.training) + sum(told.time.evaluation) + 2 * (told.time.keeping or 0.0)
    )


def test_layers_are_full_when_a_task_does_not_fit() -> None:
    small, wide = SideGrowth("small", 10, 7, 2.0), SideGrowth("wide", 100, 75, 10.0)
    assert small.full_at == 4, "three tasks take 6 of 7 columns, the fourth does not fit"
    assert wide.full_at == 8
    assert [small.columns_after(tasks) for tasks in (0, 1, 3, 4, 9)] == [0, 2, 6, 6, 6]
    assert layers_full_at([small, wide]) == (4, 6, 8)
    assert layers_full_at([small, SideGrowth("never", 10, 7, 0.0)]) is None
    assert bytes_after([small], 2) == 4 * 4 * 11
    begun, over = SideGrowth("begun", 10, 7, 2.0, begun=4), SideGrowth("over", 10, 7, 2.0, begun=8)
    assert (begun.full_at, over.full_at, SideGrowth("none", 10, 7, 0.0, frozen=True).full_at) == (2, 1, 1)
    assert [begun.columns_after(tasks) for tasks in (0, 1, 2)] == [4, 6, 6] and over.columns_after(3) == 8


def test_growth_is_measured_in_a_run(tmp_path: Path) -> None:
    space = GradientSpace(max_share=0.5)
    space.tasks = ["a", "b"]
    space.layers["q"] = LayerSpace(
        Side(torch.eye(16, 4), torch.ones(4)), Side(torch.eye(8, 2), torch.ones(2)), growth=[3, 1]
    )
    space.save(tmp_path / "gradient_space.safetensors")
    shares = measured_shares(tmp_path)
    assert shares == {"q": (4 / 16 / 2, 2 / 8 / 2)}
    sides = growth_of(space, shares, 0.1)
    assert [(side.columns, side.full_at) for side in sides] == [(2.0, 5), (1.0, 5)]


def protecting(**ranks: int) -> GradientSpace:
    """A space of general text, of so many columns of 32 by layer; of none where the layer is frozen."""
    space = GradientSpace(max_share=0.75)
    space.base_fingerprint, space.tasks = "f", [BASE]
    for name, rank in ranks.items():
        side = Side(torch.eye(32, rank), torch.ones(rank))
        space.layers[name] = LayerSpace(side, frozen=not rank, growth=[rank])
    return space


LAYERS = ["model.layers.0.self_attn.q_proj", "model.layers.1.self_attn.q_proj"] + [
    f"model.layers.{block}.mlp.gate_proj" for block in (0, 1)
]


def test_a_space_that_protects_the_base_is_there_from_the_start(model: Path, tickets: Path, tmp_path: Path) -> None:
    path = tmp_path / "space.safetensors"
    protecting(**dict(zip(LAYERS, (16, 16, 16, 0), strict=True))).save(path)
    plain, told = (
        forecast(settings(model, tickets, protect=file), 3, share=0.1, probe_seconds=None) for file in (None, str(path))
    )
    assert plain.space is not None and told.space is not None
    # a task takes 3.2 columns a side; two fit into the 8 that are left of three inputs, the fourth is frozen
    held = 4 * (3 * round(16 + 2 * 3.2) + 2 * round(3 * 3.2)) * 33
    assert told.space.bytes_after == held
    assert told.memory.parts["space"] == held
    assert told.space.bytes_per_task == 4 * 5 * 3 * 33
    assert told.space.first_layer_full_at_task == 1 and plain.space.first_layer_full_at_task == 8
    assert told.space.half_of_layers_full_at_task == told.space.all_layers_full_at_task == 3
    assert "48 columns" in told.space.rests_on and str(path) in told.space.rests_on
    assert any(line.startswith("protect: that") and "not read" in line for line in told.assumed)


def test_what_a_run_could_not_begin_with_is_refused(model: Path, tickets: Path, tmp_path: Path) -> None:
    path = tmp_path / "space.safetensors"

    def plan(space: GradientSpace | None, **others: object) -> None:
        if space:
            space.save(path)
        forecast(settings(model, tickets, protect=str(path), **others), probe_seconds=None)

    with pytest.raises(InputError, match="no such file"):
        plan(None)
    with pytest.raises(InputError, match="does not protect layer"):
        plan(protecting(**{LAYERS[0]: 16}))
    with pytest.raises(InputError, match="'seq-lora' begins with no space"):
        plan(protecting(), method="seq-lora")
    narrow = protecting(**dict.fromkeys(LAYERS, 4))
    narrow.layers[LAYERS[0]].input.basis = torch.eye(16, 4)
    with pytest.raises(InputError, match="with 16 features, the model has 32"):
        plan(narrow)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(InputError, match="not a readable safetensors file"):
        plan(None)


def test_a_share_of_nothing_is_taken(model: Path, tickets: Path) -> None:
    space = forecast(settings(model, tickets), share=0.0, probe_seconds=None).space
    assert space is not None and (space.columns_per_task, space.bytes_after) == (0, 0)


def test_general_text_is_no_task_whose_growth_is_measured(tmp_path: Path) -> None:
    space = protecting(q=8, k=4)
    space.save(tmp_path / "gradient_space.safetensors")
    with pytest.raises(InputError, match="holds no task yet"):
        measured_shares(tmp_path)
    space.tasks += ["a", "b"]
    space.layers["q"].growth += [3, 1]
    space.layers["q"].input = Side(torch.eye(32, 12), torch.ones(12))
    space.layers["k"].growth += [2, 0]
    space.layers["k"].input = Side(torch.eye(32, 6), torch.ones(6))
    space.layers["k"].frozen = True
    space.save(tmp_path / "gradient_space.safetensors")
    assert measured_shares(tmp_path) == {"q": (4 / 32 / 2, 0.0), "k": (2 / 32, 0.0)}


def test_times_are_fitted_to_steps_and_refreshes() -> None:
    tokens = [100, 200, 300, 400, 150, 250, 350]
    seconds = [0.5 + 0.01 * count + (2.0 if step % 3 == 0 else 0.0) for step, count in enumerate(tokens)]
    seconds[5] += 100.0  # another process had the machine
    found = fit(tokens, seconds, 3)
    assert found.constant == pytest.approx(0.5) and found.per_token == pytest.approx(0.01)
    assert found.refresh == pytest.approx(2.0)
    assert found.of([100] * 4, 3) == pytest.approx(4 * 0.5 + 400 * 0.01 + 2 * 2.0)


@pytest.mark.slow
def test_an_encoder_decoder_has_a_forecast(tmp_path: Path, tickets: Path) -> None:
    T5Config(
        vocab_size=60, d_model=32, d_ff=48, d_kv=8, num_heads=4, num_layers=2, decoder_start_token_id=0,
        architectures=["T5ForConditionalGeneration"],
    ).save_pretrained(tmp_path / "t5")  # fmt: skip
    told = forecast(settings(tmp_path / "t5", tickets, gorp={"rank": 4}), probe_seconds=None)
    assert told.parameters["cores"] and told.parameters["lora"]
    assert set(told.memory.phases) == {"evaluating", "training", "keeping"}
