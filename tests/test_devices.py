"""The promise on every device at hand: what holds on the CPU holds on a GPU, in the same numbers."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from torch import Tensor, nn

import gorp
from gorp._linalg import dominant_subspace, extend_basis, orthonormalize, probe, seeded_normal
from gorp._outer_products import OuterProducts
from gorp._sketch import GRAM_WIDTH, sketch, sketched_rows
from gorp.backbones import load_backbone
from gorp.learned_layer import LearnedLayer
from gorp.progress import SilentProgress
from gorp.run import run_stream
from gorp.run_config import RunConfig

TARGETS = {
    "seq2seq": {"lora_targets": ["SelfAttention"], "full_rank_targets": ["EncDecAttention", "DenseReluDense"]},
    "causal": {"lora_targets": ["self_attn"], "full_rank_targets": ["mlp"]},
}
FORMS: dict[str, dict[str, object]] = {
    "sketch": {},
    "activations": {"refresh_from": "activations", "memory": "weighted_features"},
    "random": {"projection": "random"},
    "damped": {"memory": "features", "damping": 0.5, "share_inputs": True},
}
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=on_a_gpu)])
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture(params=list(TARGETS))
def folder(request: pytest.FixtureRequest, tiny_models: dict[str, Path]) -> Path:
    return tiny_models[request.param]


@pytest.fixture
def causal(tiny_models: dict[str, Path]) -> Path:
    return tiny_models["causal"]


def attached(folder: Path, device: torch.device, dtype: torch.dtype = torch.float32, **settings: object) -> nn.Module:
    model = load_backbone(str(folder)).model.eval().to(device, dtype)
    targets = TARGETS["seq2seq" if model.config.is_encoder_decoder else "causal"]
    config = {"rank": 4, "refresh_every": 3, "energy": 0.8, **targets, **settings}
    return gorp.attach(model, gorp.GORPConfig.model_validate(config))


def optimizer_for(model: nn.Module) -> gorp.GORPAdamW:
    return gorp.GORPAdamW(gorp.param_groups(model), lr=1e-2, full_rank_lr=1e-2)


def step_once(model: nn.Module, optimizer: gorp.GORPAdamW, task: int, step: int, precision: str = "fp32") -> float:
    """One step on tokens that the task's seed draws, the same on every device."""
    device = next(model.parameters()).device
    generator = torch.Generator().manual_seed(1000 * task + step)
    tokens = torch.randint(4 + 8 * task, 12 + 8 * task, (6, 10), generator=generator).to(device)
    optimizer.zero_grad()
    with torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext():
        loss = model(input_ids=tokens, labels=tokens).loss
    loss.backward()
    optimizer.step()
    return float(loss.detach())


def learn(
    model: nn.Module, optimizer: gorp.GORPAdamW, task: int, steps: int = 8, precision: str = "fp32"
) -> list[float]:
    losses = [step_once(model, optimizer, task, step, precision) for step in range(steps)]
    gorp.end_task(model, optimizer, str(task))
    return losses


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: layer.effective_weight().double().cpu() for name, layer in gorp.learned_layers(model).items()}


def worst_leak(model: nn.Module, before: dict[str, Tensor], held: dict[str, Tensor]) -> float:
    """Largest ||D S|| over its bound, 1e-5 ||D|| + 4 eps ||W||; the promise is that it is at most 1."""
    eps, after = torch.finfo(torch.float32).eps, weights(model)
    return max(
        float((after[name] - start).matmul(held[name]).norm())
        / float(1e-5 * (after[name] - start).norm() + 4 * eps * start.norm())
        for name, start in before.items()
    )


@pytest.mark.parametrize(
    ("dtype", "precision"), [(torch.float32, "fp32"), (torch.bfloat16, "bf16")], ids=["fp32", "bf16"]
)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_nothing_leaks(causal: Path, form: dict[str, object], dtype: torch.dtype, precision: str, device) -> None:
    model = attached(causal, device, dtype, **form)
    optimizer = optimizer_for(model)
    learn(model, optimizer, 0, precision=precision)
    held = {name: layer.space.basis.double().cpu() for name, layer in gorp.learned_layers(model).items()}
    assert all(basis.shape[1] for basis in held.values())
    before = weights(model)
    first, *_, last = learn(model, optimizer, 1, precision=precision)
    assert last < first
    assert worst_leak(model, before, held) <= 1
    assert {p.device.type for p in model.parameters()} == {device.type}


@on_a_gpu
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_a_gpu_learns_what_the_cpu_learns(folder: Path, form: dict[str, object]) -> None:
    found = {}
    for place in ("cpu", "cuda"):
        model = attached(folder, torch.device(place), **form)
        optimizer = optimizer_for(model)
        found[place] = learn(model, optimizer, 0) + learn(model, optimizer, 1)
        sizes = {name: layer.space.input.rank for name, layer in gorp.learned_layers(model).items()}
        found[place + "-sizes"] = sizes
    assert found["cuda"][:4] == pytest.approx(found["cpu"][:4], rel=1e-4)
    assert found["cuda"] == pytest.approx(found["cpu"], rel=2e-2), "round-off, which Adam's first steps enlarge"
    assert found["cuda-sizes"] == pytest.approx(found["cpu-sizes"], abs=1), "a direction may lie at the threshold"


@on_a_gpu
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_the_host_waits_once_a_step_between_refreshes(folder: Path, form: dict[str, object]) -> None:
    """For the check that gradients are finite; the backward pass and its hooks never wait."""
    model = attached(folder, torch.device("cuda"), **{**form, "refresh_every": 100})
    optimizer = optimizer_for(model)
    learn(model, optimizer, 0)
    tokens = torch.randint(4, 12, (6, 10), device="cuda")

    def waits() -> list[str]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                model(input_ids=tokens, labels=tokens).loss.backward()
                optimizer.step()
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return [str(warning.message) for warning in caught if "synchroniz" in str(warning.message)]

    for _ in range(2):  # the first of a task is a refresh
        optimizer.zero_grad()
        found = waits()
    assert len(found) <= 1, found


def test_bases_are_orthonormal_and_span_what_they_are_of(device: torch.device) -> None:
    columns = seeded_normal(64, 12, 0)
    found = orthonormalize(columns.to(device)).cpu().double()
    torch.testing.assert_close(found.mT @ found, torch.eye(12, dtype=torch.float64), atol=1e-6, rtol=0)
    exact = torch.linalg.qr(columns.double()).Q
    torch.testing.assert_close(exact @ (exact.mT @ found), found, atol=1e-6, rtol=0)


def test_a_search_is_the_same_from_panels_and_on_every_device(device: torch.device) -> None:
    delta, x, basis = seeded_normal(96, 48, 0), seeded_normal(96, 64, 1), orthonormalize(seeded_normal(64, 10, 2))
    start = seeded_normal(64, 24, 3)
    expected = dominant_subspace(delta.mT @ x, start, 8, basis)
    panels = OuterProducts([(delta.to(device), x.to(device))])
    found = dominant_subspace(panels, start.to(device), 8, basis.to(device))
    for name in ("u", "v", "rows"):
        torch.testing.assert_close(getattr(found, name).cpu(), getattr(expected, name), atol=2e-3, rtol=1e-3)
    seen = [probe(part, held, 5) for part, held in ((delta.mT @ x, basis), (panels, basis.to(device)))]
    torch.testing.assert_close(*(torch.cat(pair).cpu() for pair in seen), rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("width", [64, GRAM_WIDTH + 8])
def test_memories_are_the_same_on_every_device(width: int, device: torch.device) -> None:
    kept = {place: torch.zeros(0, width, device=place) for place in ("cpu", device)}
    for turn in range(4):
        rows = seeded_normal(200, width, turn) * 0.97 ** torch.arange(width)
        kept = {place: sketch(now, rows.to(place)) for place, now in kept.items()}
    grams = [(rows.mT @ rows).cpu() for rows in map(sketched_rows, kept.values())]
    scale = float(grams[0].norm())
    torch.testing.assert_close(grams[0], grams[-1], atol=1e-4 * scale, rtol=0)
    bases = [extend_basis(torch.zeros(width, 0, device=place), sketched_rows(now), 0.9) for place, now in kept.items()]
    assert bases[0][0].shape == bases[-1][0].shape


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_going_on_from_a_checkpoint_is_bit_for_bit(form: dict[str, object], causal: Path, device: torch.device) -> None:
    """What is saved of model and optimizer brings back a training, mid-task, on the same device."""
    model = attached(causal, device, **form)
    optimizer = optimizer_for(model)
    learn(model, optimizer, 0)
    for step in range(5):
        step_once(model, optimizer, 1, step)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    space = copy.deepcopy(model.gradient_space)
    straight = [step_once(model, optimizer, 1, step) for step in range(5, 10)]

    again = load_backbone(str(causal)).model.eval().to(device)
    config = next(iter(gorp.learned_layers(model).values())).config
    gorp.attach(again, config, space)
    taken_up = optimizer_for(again)
    again.load_state_dict(saved[0])
    taken_up.load_state_dict(saved[1])
    assert [step_once(again, taken_up, 1, step) for step in range(5, 10)] == straight


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_skipped(bad: float, causal: Path, device: torch.device) -> None:
    model = attached(causal, device)
    optimizer = optimizer_for(model)
    step_once(model, optimizer, 0, 0)
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    loss = model(input_ids=torch.arange(4, 12, device=device)[None]).logits.sum() * bad
    loss.backward()
    optimizer.step()
    assert optimizer.skipped_steps == 1
    assert all(p.equal(before[name]) for name, p in model.named_parameters())


def layers_of(model: nn.Module) -> list[LearnedLayer]:
    return list(gorp.learned_layers(model).values())


@on_a_gpu
def test_a_space_learnt_on_a_gpu_is_gone_on_with_on_the_cpu(causal: Path, tmp_path: Path) -> None:
    model = attached(causal, torch.device("cuda"))
    learn(model, optimizer_for(model), 0)
    model.gradient_space.save(tmp_path / "space.safetensors")
    space = gorp.GradientSpace.load(tmp_path / "space.safetensors")
    on_cpu = load_backbone(str(causal)).model.eval()
    gorp.attach(on_cpu, layers_of(model)[0].config, space)
    held, before = (
        {name: layer.space.basis.double() for name, layer in gorp.learned_layers(on_cpu).items()},
        weights(on_cpu),
    )
    learn(on_cpu, optimizer_for(on_cpu), 1)
    assert worst_leak(on_cpu, before, held) <= 1


@pytest.fixture
def gpu_runs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Runs choose the GPU, which the other tests do not let them."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "false")
    AcceleratorState._reset_state(reset_partial_state=True)
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


class Stopped(BaseException):
    pass


class StopsInTheSecondTask(SilentProgress):
    """Ends the run after the third step of the second stage, the second being saved."""

    def stage_started(self, index: int, task: str, steps: int) -> None:
        self.stage = index

    def training_step(self, step: int, loss: float | None = None) -> None:
        if (self.stage, step) == (1, 3):
            raise Stopped


@on_a_gpu
@pytest.mark.filterwarnings("ignore:inner dimension:UserWarning")  # bitsandbytes, of layers as narrow as these
@pytest.mark.parametrize("quantize", [None, "4bit", "8bit"])
@pytest.mark.parametrize("kind", ["seq2seq", "causal", "encoder"])
@pytest.mark.usefixtures("gpu_runs")
def test_a_run_on_a_gpu_keeps_its_promise_and_goes_on_as_it_would_have(
    kind, quantize, tiny_models, tiny_stream, tmp_path
):
    if quantize:
        pytest.importorskip("bitsandbytes", reason="pip install gorp-cl[quantized]")
        if kind == "encoder":
            pytest.skip("an encoder is held whole")
    config = RunConfig.from_mapping(
        {
            "method": "gorp",
            "model": str(tiny_models[kind]),
            "quantize": quantize,
            "dtype": "bfloat16" if quantize else "float32",
            "stream": str(tiny_stream),
            "training": {"epochs": 1, "lr": 0.01, "save_every": 2, "batch_size": 4},
            "gorp": {"rank": 2, "refresh_every": 2},
            "data": {"train_rows": 18, "test_rows": 3, "validation_rows": 4},
        }
    )
    whole = run_stream(config, tmp_path / "whole")
    assert "cuda" in whole.environment["device"].lower() or "nvidia" in whole.environment["device"].lower()
    assert not [layer for stage in whole.stages for layer in stage.layers.values() if layer.leaks]
    with pytest.raises(Stopped):
        run_stream(config, tmp_path / "ended", progress=StopsInTheSecondTask())
    assert run_stream(config, tmp_path / "ended").comparable() == whole.comparable()
