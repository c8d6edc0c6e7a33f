"""A base in 4 or 8 bits: tasks are kept beside it, exactly, and it stays what it was."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import Tensor, nn

import gorp
from gorp._quantized import StackedLinear, dequantized, is_quantized, quantized_layers
from gorp.backbones import load_backbone
from gorp.checkpoint import model_fingerprint
from gorp.errors import InputError
from gorp.footprint import footprint
from gorp.interference import leak, leak_bound
from gorp.learner import ContinualLearner
from gorp.methods import METHODS, load_method
from gorp.progress import SilentProgress
from gorp.run import run_stream
from gorp.run_config import RunConfig
from gorp.run_setup import load_stream

pytest.importorskip("bitsandbytes", reason="pip install gorp-cl[quantized]")
pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="a quantised base is loaded onto the GPU: test_devices.py"
)

TARGETS = {"lora_targets": ["self_attn.q_proj", "self_attn.v_proj"], "full_rank_targets": ["mlp.gate_proj"]}


@pytest.fixture(params=["4bit", "8bit"])
def bits(request) -> str:
    return request.param


def quantized(folder, bits, whole=("gate_proj",), dtype="bfloat16"):
    def whole_layers(model):
        return [name for name, _ in model.named_modules() if name.endswith(whole)]

    return load_backbone(str(folder), dtype, bits, whole_layers).model


def stacked(folder, bits) -> StackedLinear:
    return StackedLinear(quantized(folder, bits).get_submodule("model.layers.0.mlp.up_proj"))  # (64, 32)


def settings(tiny_models, tiny_stream, method="gorp", kind="causal", **changes) -> RunConfig:
    return RunConfig.from_mapping(
        {
            "method": method,
            "model": str(tiny_models[kind]),
            "quantize": "4bit",
            "dtype": "bfloat16",
            "stream": str(tiny_stream),
            "training": {"epochs": 1, "lr": 0.01, "save_every": 2, "batch_size": 4},
            "lora": {"rank": 2},
            "gorp": {"rank": 2, "refresh_every": 2},
            "data": {"train_rows": 12, "test_rows": 3, "validation_rows": 4},
            **changes,
        }
    )


def test_the_blocks_are_quantised_but_for_what_stays_whole_and_always_to_the_same(tiny_models, bits):
    model = quantized(tiny_models["causal"], bits)
    kinds = {name.rpartition(".")[2] for name, _ in quantized_layers(model)}
    assert kinds == {"q_proj", "k_proj", "v_proj", "o_proj", "up_proj", "down_proj"}
    assert model.lm_head.weight.dtype is model.model.layers[0].mlp.gate_proj.weight.dtype is torch.bfloat16
    again, plain = quantized(tiny_models["causal"], bits), load_backbone(str(tiny_models["causal"]), "bfloat16").model
    assert model_fingerprint(model) == model_fingerprint(again) != model_fingerprint(plain)
    name = "model.layers.1.self_attn.q_proj"
    codes, weight = (each.get_submodule(name) for each in (model, plain))
    assert 0 < (dequantized(codes) - weight.weight).norm() < 0.5 * weight.weight.norm()
    acts_with = codes.train()(torch.eye(32, dtype=torch.bfloat16)).mT.float()
    torch.testing.assert_close(acts_with, dequantized(codes), rtol=1e-2, atol=1e-3)


def test_answering_leaves_the_base_as_it_was(tiny_models, bits):
    model = quantized(tiny_models["causal"], bits).eval()
    before = model_fingerprint(model)
    with torch.no_grad():
        model(torch.arange(8)[None])
    assert model_fingerprint(model) == before
    assert not any(getattr(layer.weight.quant_state, "packing_format_for_cpu", False) for _, layer in fours(model))


def fours(model: nn.Module):
    return [(name, layer) for name, layer in quantized_layers(model) if hasattr(layer.weight, "quant_state")]


def test_what_is_appended_is_added_exactly(tiny_models, bits):
    layer = stacked(tiny_models["causal"], bits)
    start, codes = layer.exact_weight(), layer.weight.clone()
    assert start.equal(dequantized(layer.quantized))
    parts = [(torch.randn(64, rank), torch.randn(rank, 32)) for rank in (3, 5)]
    for left, right in parts:
        layer.append(left, right)
    change = sum(left.double() @ right.double() for left, right in parts)
    assert layer.right.shape == (8, 32)
    assert (layer.exact_weight().double() - start.double() - change).norm() < 1e-6 * (change.norm() + start.norm())
    assert layer.weight.equal(codes)
    x = torch.randn(4, 5, 32)
    added = layer(x) - layer.quantized(x)
    torch.testing.assert_close(added.double(), x.double() @ change.mT, rtol=1e-4, atol=1e-4)
    layer.append(torch.zeros(64, 2), torch.randn(2, 32))
    assert len(layer.right) == 8, "zeros take no room"


@pytest.mark.parametrize("name", ["up_proj", "down_proj"], ids=["tall", "wide"])
def test_stacks_stop_growing_at_the_smaller_side(tiny_models, name):
    layer = StackedLinear(quantized(tiny_models["causal"], "4bit").get_submodule(f"model.layers.0.mlp.{name}"))
    change = torch.zeros(layer.out_features, layer.in_features, dtype=torch.float64)
    for _ in range(9):
        left, right = torch.randn(layer.out_features, 5), torch.randn(5, layer.in_features)
        change += left.double() @ right.double()
        layer.append(left, right)
        assert len(layer.right) <= 32
    kept = layer.left.double() @ layer.right.double()
    assert (kept - change).norm() < 1e-6 * change.norm()


def test_a_state_is_taken_up_whatever_it_has_grown_to(tiny_models, bits):
    grown, fresh = (stacked(tiny_models["causal"], bits) for _ in range(2))
    grown.append(torch.randn(64, 3), torch.randn(3, 32))
    stacks = {name: value for name, value in grown.state_dict().items() if not name.startswith("quantized.")}
    assert list(stacks) == ["left", "right"]
    fresh.load_state_dict(stacks, strict=False)
    assert fresh.exact_weight().equal(grown.exact_weight())


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        tokens = torch.randint(4, 30, (4, 9), generator=generator)
        optimizer.zero_grad()
        model(tokens, labels=tokens).loss.backward()
        optimizer.step()


def test_a_task_adds_its_factors_and_nothing_that_earlier_ones_feel(tiny_models, bits):
    torch.manual_seed(0)
    config = gorp.GORPConfig(**TARGETS, rank=2, refresh_every=2, energy=0.7)
    model = gorp.attach(quantized(tiny_models["causal"], bits).train(), config)
    optimizer = gorp.GORPAdamW(gorp.param_groups(model), lr=1e-2, full_rank_lr=1e-2)
    layers = gorp.learned_layers(model)
    lora = {name: layer for name, layer in layers.items() if isinstance(layer.holder, StackedLinear)}
    assert len(lora) == 4 < len(layers)
    codes = {name: layer.holder.weight.clone() for name, layer in lora.items()}
    for task in range(3):
        before = {name: layer.effective_weight() for name, layer in layers.items()}
        kept = {name: layer.space.basis.clone() for name, layer in layers.items()}
        train(model, optimizer, 5, seed=task)
        learnt: dict[str, Tensor] = {
            name: torch.mm(*(part.detach().double() for part in layer.change())) for name, layer in lora.items()
        }
        gorp.end_task(model, optimizer, f"task {task}")
        for name, layer in layers.items():
            change = layer.effective_weight().double() - before[name].double()
            assert change.norm() > 100 * leak_bound(change, before[name])
            assert leak(change, kept[name]) <= leak_bound(change, before[name])
            if name in lora:
                assert (change - learnt[name]).norm() <= leak_bound(change, before[name])
                assert layer.holder.weight.equal(codes[name])
                assert layer.holder.right.shape == (2 * (task + 1), 32)
    with pytest.raises(InputError, match="keeps what it learnt beside a quantised weight"):
        gorp.detach(model)
    assert all(basis.shape[1] for basis in kept.values())


class Stopped(BaseException):
    pass


class StopsInTheSecondTask(SilentProgress):
    """Ends the run after the third step of the second stage, the second being saved."""

    def stage_started(self, index, task, steps):
        self.stage = index

    def training_step(self, step, loss=None):
        if (self.stage, step) == (1, 3):
            raise Stopped


SMOKE = [("causal", "4bit", False), ("causal", "8bit", True), ("seq2seq", "4bit", True), ("seq2seq", "8bit", False)]
THE_REST = [(kind, bits, not checkpointing) for kind, bits, checkpointing in SMOKE] + [("encoder", "4bit", False)]


@pytest.mark.parametrize(
    ("kind", "bits", "checkpointing"), [*SMOKE, *(pytest.param(*case, marks=pytest.mark.slow) for case in THE_REST)]
)
def test_a_run_stopped_or_not_comes_to_the_same_and_does_not_leak(
    tiny_models, tiny_stream, tmp_path, kind, bits, checkpointing
):
    training = {"epochs": 1, "lr": 0.01, "save_every": 2, "batch_size": 4, "gradient_checkpointing": checkpointing}
    config = settings(tiny_models, tiny_stream, kind=kind, quantize=bits, training=training)
    tasks = load_stream(config)[:2]
    whole = run_stream(config, tmp_path / "whole", tasks)
    with pytest.raises(Stopped):
        run_stream(config, tmp_path / "stopped", tasks, StopsInTheSecondTask())
    assert run_stream(config, tmp_path / "stopped", tasks).comparable() == whole.comparable()
    assert whole.finished
    meters = [meter for stage in whole.stages for meter in stage.layers.values() if meter.leak is not None]
    assert meters
    assert all(meter.leak <= meter.leak_bound for meter in meters)
    learner = ContinualLearner.of_run(tmp_path / "stopped")
    assert list(learner.evaluate().values()) == whole.stages[-1].scores
    stacks = {name: module for name, module in learner.model.named_modules() if isinstance(module, StackedLinear)}
    assert {len(stack.right) for stack in stacks.values()} == {4}
    for name, meter in whole.stages[1].layers.items():
        assert meter.stored_leak == meter.leak or f"{name}.base_layer" not in stacks, "stacks are stored as they act"
    saved = learner.folder.stage_files().weights
    assert any(name.endswith(".base_layer.left") for name in saved)
    assert not any(".quantized." in name for name in saved), "the base is not saved with every task"


def test_checkpointing_changes_nothing_that_is_learnt(tiny_models, tiny_stream, tmp_path, bits):
    training = {"epochs": 1, "lr": 0.01, "batch_size": 4}
    losses = []
    for on in (False, True):
        config = settings(tiny_models, tiny_stream, quantize=bits, training={**training, "gradient_checkpointing": on})
        record = run_stream(config, tmp_path / str(on), load_stream(config)[:1])
        losses.append(record.stages[0].train_loss)
    assert losses[0] == losses[1]


ACCEPTED = [name for name in METHODS if load_method(name).on_quantized]
QUICK = ("inc-lora", "l2p")


@pytest.mark.parametrize(
    "method",
    [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in ACCEPTED if name != "gorp"],
)
def test_methods_that_leave_the_base_alone_learn_on_it(tiny_models, tiny_stream, tmp_path, method):
    config = settings(tiny_models, tiny_stream, method, kind="seq2seq")
    record = run_stream(config, tmp_path, load_stream(config)[:2])
    assert record.finished
    assert list(ContinualLearner.of_run(tmp_path).evaluate().values()) == record.stages[-1].scores


def test_methods_that_change_the_base_are_refused(tiny_models, tiny_stream, tmp_path):
    assert set(METHODS) - set(ACCEPTED) == {"seq-full", "osf", "galore"}
    config = settings(tiny_models, tiny_stream, "seq-full")
    message = r"'seq-full' changes the weights of its base, .* accepted: quantize: null, or a method of gorp, seq-lora"
    with pytest.raises(InputError, match=message):
        run_stream(config, tmp_path)
    backbone = load_backbone(str(tiny_models["causal"]), quantize="4bit")
    with pytest.raises(InputError, match=message):
        ContinualLearner(backbone.model, backbone.tokenizer, "seq-full", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_quantised_layer_does_not_learn_at_full_rank(tiny_models):
    model = quantized(tiny_models["causal"], "8bit", whole=("nothing",))
    with pytest.raises(InputError, match=r"gate_proj is quantised, and learns at full rank; accepted: to leave it out"):
        gorp.attach(model, gorp.GORPConfig(**TARGETS, rank=2))


def test_a_run_goes_on_with_the_base_it_began_with(tiny_models, tiny_stream, tmp_path):
    config = settings(tiny_models, tiny_stream)
    run_stream(config, tmp_path, load_stream(config)[:1])
    with pytest.raises(InputError, match=r"is a run with quantize = '4bit', not '8bit'"):
        run_stream(config.model_copy(update={"quantize": "8bit"}), tmp_path)
    plain = load_backbone(str(tiny_models["causal"]), "bfloat16")
    with pytest.raises(InputError, match="run of another base model"):
        ContinualLearner(plain.model, plain.tokenizer, run_dir=tmp_path)


def test_the_package_is_asked_for_where_it_is_missing(tiny_models, monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(InputError, match=r"key 'quantize': .* not installed; pip install gorp-cl\[quantized\]"):
        load_backbone(str(tiny_models["causal"]), quantize="4bit")


def test_bytes_told_are_bytes_held(tiny_models, bits):
    config = gorp.GORPConfig(**TARGETS, rank=2)
    told = footprint(quantized(tiny_models["causal"], bits), config, tasks=2, growth=0.1)
    model = quantized(tiny_models["causal"], bits)
    buffers = sum(buffer.nbytes for buffer in model.buffers())
    assert told["weights"] == buffers + sum(tensor.nbytes for tensor in model.state_dict().values())
    gorp.attach(model, config)
    for module in model.modules():
        if isinstance(module, StackedLinear):
            for _ in range(2):
                module.append(torch.ones(module.out_features, 2), torch.ones(2, module.in_features))
    stacks = [module for module in model.modules() if isinstance(module, StackedLinear)]
    assert told["stacks"] == sum(stack.left.nbytes + stack.right.nbytes for stack in stacks) > 0
    assert all(is_quantized(stack.quantized) for stack in stacks)
