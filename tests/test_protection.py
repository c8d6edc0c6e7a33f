"""The promise, from weights alone: what an earlier task's space holds, no later change touches."""

from __future__ import annotations

import io
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import gorp
from gorp._linalg import seeded_normal

IN, HIDDEN, OUT = 40, 32, 6


class Network(nn.Module):
    """A LoRA layer, a full-rank layer with a bias, a full-rank layer used twice, and a frozen head."""

    def __init__(self, checkpointing: str = "") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.query = nn.Linear(IN, HIDDEN, bias=False)
        self.up = nn.Linear(HIDDEN, HIDDEN)
        self.shared = nn.Linear(HIDDEN, HIDDEN, bias=False)
        self.head = nn.Linear(HIDDEN, OUT)
        self.checkpointing = checkpointing

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.query(x))
        body = self.body
        if self.checkpointing and torch.is_grad_enabled():
            return self.head(checkpoint(body, x, use_reentrant=self.checkpointing == "reentrant"))
        return self.head(body(x))

    def body(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.up(x))
        return torch.tanh(self.shared(torch.tanh(self.shared(x))))


#: Settings whose paths through the layers differ.
FORMS = {
    **{memory: {"memory": memory} for memory in ("sketch", "first_moment", "features", "weighted_features")},
    "random": {"projection": "random"},
}
every_form = pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
three_forms = pytest.mark.parametrize(
    "form", [FORMS[name] for name in ("sketch", "weighted_features", "random")], ids=["sketch", "inputs", "random"]
)
two_forms = pytest.mark.parametrize("form", [FORMS["sketch"], FORMS["random"]], ids=["gradient", "random"])


def attached(dtype: torch.dtype = torch.float32, checkpointing: str = "", **settings: object) -> Network:
    model = Network(checkpointing).to(dtype)
    defaults = {"lora_targets": ["query"], "full_rank_targets": ["up", "shared"], "rank": 4, "energy": 0.8}
    gorp.attach(model, gorp.GORPConfig.model_validate(defaults | settings))
    return model


def optimizer_for(model: Network, **settings: float) -> gorp.GORPAdamW:
    return gorp.GORPAdamW(gorp.param_groups(model), **({"lr": 1e-2, "full_rank_lr": 1e-2} | settings))


def batch(task: int, step: int, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """A task lives in eight of the forty input directions."""
    directions = seeded_normal(8, IN, 50 + task)
    x = seeded_normal(48, 8, 1000 * task + step) @ directions
    truth = seeded_normal(IN, OUT, 70 + task) / IN**0.5
    return x.to(dtype), torch.tanh(x @ truth).to(dtype)


def step_once(model: nn.Module, optimizer: gorp.GORPAdamW, x: Tensor, y: Tensor) -> float:
    optimizer.zero_grad()
    loss = (model(x) - y).square().mean()
    loss.backward()
    nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1.0)
    optimizer.step()
    return loss.item()


def train(model: Network, optimizer: gorp.GORPAdamW, task: int, steps: range = range(25)) -> list[float]:
    dtype = model.head.weight.dtype
    return [step_once(model, optimizer, *batch(task, step, dtype)) for step in steps]


def weights(model: nn.Module) -> dict[str, Tensor]:
    return {name: layer.effective_weight().double().clone() for name, layer in gorp.learned_layers(model).items()}


def bases(model: nn.Module) -> dict[str, Tensor]:
    return {name: layer.space.basis.double().clone() for name, layer in gorp.learned_layers(model).items()}


def worst_leak(before: dict[str, Tensor], after: dict[str, Tensor], held: dict[str, Tensor]) -> float:
    """Largest ||D S|| / (1e-5 ||D|| + 4 eps ||W||) over the layers; the promise is that it stays at or below 1."""
    eps = torch.finfo(torch.float32).eps
    ratios = []
    for name, start in before.items():
        change = after[name] - start
        bound = 1e-5 * change.norm() + 4 * eps * start.norm()
        ratios.append(float((change @ held[name]).norm() / bound))
    return max(ratios)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@every_form
def test_no_step_and_no_merge_leaks(dtype: torch.dtype, form: dict[str, object]) -> None:
    model = attached(dtype, **form)
    optimizer = optimizer_for(model, weight_decay=0.01)
    train(model, optimizer, 0)
    gorp.end_task(model, optimizer, "0")
    for task in (1, 2):
        held, before = bases(model), weights(model)
        assert all(basis.shape[1] > 0 for basis in held.values())
        for step in range(25):
            step_once(model, optimizer, *batch(task, step, dtype))
            assert worst_leak(before, weights(model), held) <= 1
        gorp.end_task(model, optimizer, str(task))
        assert worst_leak(before, weights(model), held) <= 1
        moved = [(weights(model)[name] - before[name]).norm() / before[name].norm() for name in before]
        assert min(moved) > 0.01, "a layer that did not move shows nothing"


@two_forms
def test_every_column_ever_kept_stays_protected(form: dict[str, object]) -> None:
    model = attached(**form)
    optimizer = optimizer_for(model)
    history = [(weights(model), bases(model))]
    for task in range(4):
        train(model, optimizer, task)
        gorp.end_task(model, optimizer, str(task))
        history.append((weights(model), bases(model)))
    for (before, held), (_, later) in pairwise(history):
        for name, basis in held.items():
            assert basis.equal(later[name][:, : basis.shape[1]]), "columns are kept as they are"
        assert worst_leak(before, history[-1][0], held) <= 1


@pytest.mark.parametrize("rest", [{"project_step": False}, {"variant": "paper", "lora_dropout": 0.0}])
def test_gradient_projection_alone_leaks(rest: dict[str, object]) -> None:
    """The claim matters: the published form, which projects gradients only, moves what the exact form keeps."""
    exact, other = attached(), attached(**rest)
    leaks = []
    for model in (exact, other):
        optimizer = optimizer_for(model)
        space_from = exact  # the same directions judge both
        train(model, optimizer, 0)
        gorp.end_task(model, optimizer, "0")
        before, held = weights(model), bases(space_from)
        train(model, optimizer, 1)
        leaks.append(worst_leak(before, weights(model), held))
    assert leaks[0] <= 1
    assert leaks[1] > 1000


def test_output_side_of_lora_is_protected_too() -> None:
    model = attached()
    optimizer = optimizer_for(model)
    train(model, optimizer, 0)
    gorp.end_task(model, optimizer, "0")
    before = weights(model)["query"]
    kept = gorp.learned_layers(model)["query"].space.output_basis
    assert kept is not None
    assert kept.shape[1] > 0
    train(model, optimizer, 1)
    change = weights(model)["query"] - before
    assert (kept.double().T @ change).norm() <= 1e-5 * change.norm()
    assert attached(protect_outputs=False).gradient_space.layers["query"].output_basis is None


def test_the_old_task_is_kept_and_the_new_one_learned() -> None:
    model = attached(full_rank_targets=[], energy=0.999, max_share=1.0, protect_outputs=False)
    optimizer = optimizer_for(model)
    train(model, optimizer, 0, range(150))
    old = batch(0, 999)
    outputs = model.query(old[0]).detach()
    gorp.end_task(model, optimizer, "0")
    losses = train(model, optimizer, 1, range(150))
    assert losses[-1] < 0.85 * losses[0]
    drift = (model.query(old[0]) - outputs).norm() / outputs.norm()
    assert drift < 0.05


@two_forms
@pytest.mark.parametrize("checkpointing", ["reentrant", "saved tensors"])
def test_gradient_checkpointing_changes_nothing(checkpointing: str, form: dict[str, object]) -> None:
    plain, saving = attached(**form), attached(checkpointing=checkpointing, **form)
    for model in (plain, saving):
        train(model, optimizer_for(model), 0)
    for name, weight in weights(plain).items():
        torch.testing.assert_close(weights(saving)[name], weight, rtol=1e-6, atol=1e-7)


@two_forms
def test_accumulation_equals_one_large_batch(form: dict[str, object]) -> None:
    whole, parts = attached(torch.float64, **form), attached(torch.float64, accumulation_steps=3, **form)
    optimizers = [optimizer_for(whole), optimizer_for(parts)]
    for step in range(50):
        x, y = batch(0, step, torch.float64)
        step_once(whole, optimizers[0], x, y)
        optimizers[1].zero_grad()
        for part_x, part_y in zip(x.chunk(3), y.chunk(3), strict=True):
            ((parts(part_x) - part_y).square().mean() / 3).backward()
        nn.utils.clip_grad_norm_([p for p in parts.parameters() if p.requires_grad], 1.0)
        optimizers[1].step()
    for name, weight in weights(whole).items():
        start = weights(attached(torch.float64, **form))[name]
        assert (weights(parts)[name] - weight).norm() <= 1e-5 * (weight - start).norm()


def test_a_second_backward_pass_needs_to_be_announced() -> None:
    model = attached()
    x, y = batch(0, 0)
    (model(x) - y).square().mean().backward()
    with pytest.raises(RuntimeError, match="accumulation_steps"):
        (model(x) - y).square().mean().backward()


@two_forms
def test_gradients_cleared_without_a_step_leave_no_trace(form: dict[str, object]) -> None:
    clean, stumbling = attached(**form), attached(**form)
    optimizers = [optimizer_for(clean), optimizer_for(stumbling)]
    for step in range(12):
        x, y = batch(0, step)
        (stumbling(x * 3) - y).square().mean().backward()
        stumbling.zero_grad()
        for model, optimizer in zip((clean, stumbling), optimizers, strict=True):
            step_once(model, optimizer, x, y)
    gorp.end_task(clean, optimizers[0], "0")
    gorp.end_task(stumbling, optimizers[1], "0")
    for name, weight in weights(clean).items():
        assert weights(stumbling)[name].equal(weight)
        assert bases(stumbling)[name].equal(bases(clean)[name])


@two_forms
def test_clipping_sees_the_norm_of_what_is_trained(form: dict[str, object]) -> None:
    model = attached(**form)
    optimizer = optimizer_for(model)
    train(model, optimizer, 0, range(11))  # the next step is no refresh, the one at 20 is
    for step in range(11, 21):
        x, y = batch(0, step)
        optimizer.zero_grad()
        (model(x) - y).square().mean().backward()
        core = gorp.learned_layers(model)["up"].core  # type: ignore[attr-defined]
        seen = nn.utils.clip_grad_norm_([p for p in model.parameters() if p.requires_grad], 1e-3)
        assert core.grad.norm() <= 1e-3
        trained = [p.grad for p in model.parameters() if p.grad is not None]
        assert sum(g.square().sum() for g in trained).sqrt() <= 1.001e-3
        assert seen > 0
        optimizer.step()
    assert all(p.grad is None for name, p in model.named_parameters() if name.endswith("weight") and "lora" not in name)


def test_autocast_trains_and_does_not_leak() -> None:
    model = attached()
    optimizer = optimizer_for(model)
    losses = []
    for task in (0, 1):
        before, held = weights(model), bases(model)
        for step in range(40):
            x, y = batch(task, step)
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = (model(x).float() - y).square().mean()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert worst_leak(before, weights(model), held) <= 1
        gorp.end_task(model, optimizer, str(task))
    assert losses[39] < 0.6 * losses[0]


def test_bf16_weights_lose_no_merge() -> None:
    wide, narrow = attached(torch.float32), attached(torch.bfloat16)
    with torch.no_grad():
        for parameter, rounded in zip(wide.parameters(), narrow.parameters(), strict=True):
            parameter.copy_(rounded)
    moved = []
    for model in (wide, narrow):
        start = weights(model)
        train(model, optimizer_for(model, lr=1e-5, full_rank_lr=1e-5), 0, range(60))
        moved.append(weights(model)["up"] - start["up"])
    assert moved[1].norm() == pytest.approx(float(moved[0].norm()), rel=0.1)
    assert float((moved[0] * moved[1]).sum() / moved[0].norm() / moved[1].norm()) > 0.9


def _save(model: Network, optimizer: gorp.GORPAdamW) -> io.BytesIO:
    file = io.BytesIO()
    torch.save({"model": model.state_dict(), "optimizer": optimizer.state_dict()}, file)
    file.seek(0)
    return file


@three_forms
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("stop", [3, 10, 17])
def test_resuming_is_bit_for_bit(dtype: torch.dtype, stop: int, form: dict[str, object], tmp_path) -> None:
    model = attached(dtype, **form)
    optimizer = optimizer_for(model)
    train(model, optimizer, 0)
    gorp.end_task(model, optimizer, "0")
    before, held = weights(model), bases(model)
    train(model, optimizer, 1, range(stop))
    saved = _save(model, optimizer)
    model.gradient_space.save(tmp_path / "space.safetensors")
    train(model, optimizer, 1, range(stop, 25))

    again = Network().to(dtype)
    gorp.attach(
        again,
        model.learned_layers["query"].config,
        gorp.GradientSpace.load(tmp_path / "space.safetensors"),
    )
    state = torch.load(saved, weights_only=True)
    optimizer_again = optimizer_for(again)
    again.load_state_dict(state["model"])
    optimizer_again.load_state_dict(state["optimizer"])
    train(again, optimizer_again, 1, range(stop, 25))
    assert worst_leak(before, weights(again), held) <= 1
    gorp.end_task(model, optimizer, "1")
    gorp.end_task(again, optimizer_again, "1")
    for name, weight in weights(model).items():
        assert weights(again)[name].equal(weight)
        assert bases(again)[name].equal(bases(model)[name])


def test_one_schedule_moves_both_learning_rates() -> None:
    model = attached()
    optimizer = optimizer_for(model, lr=1e-3, full_rank_lr=1e-2)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 0.5**step)
    train(model, optimizer, 0, range(1))
    schedule.step()
    assert schedule.get_last_lr() == [5e-4, 5e-3]


def _poison(value: float) -> Callable[[Tensor], Tensor]:
    return lambda gradient: torch.full_like(gradient, value)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 0.0])
def test_bad_gradients_are_skipped_and_poison_nothing(value: float) -> None:
    model = attached()
    optimizer = optimizer_for(model)
    train(model, optimizer, 0, range(10))  # the next step is a refresh
    before = weights(model)
    x, _ = batch(0, 10)
    optimizer.zero_grad()
    output = model(x)
    output.register_hook(_poison(value))
    output.sum().backward()
    optimizer.step()
    if value != 0.0:
        assert optimizer.skipped_steps == 1
        for name, weight in weights(model).items():
            assert weight.equal(before[name])
    assert gorp.learned_layers(model)["up"].skipped_refreshes == 1  # type: ignore[attr-defined]
    train(model, optimizer, 0, range(11, 25))
    gorp.end_task(model, optimizer, "0")
    for tensor in [*weights(model).values(), *bases(model).values()]:
        assert torch.isfinite(tensor).all()


def test_a_task_seen_again_adds_at_most_a_column() -> None:
    model = attached(energy=0.9)
    optimizer = optimizer_for(model)
    train(model, optimizer, 0, range(60))
    first = gorp.end_task(model, optimizer, "0")
    train(model, optimizer, 0, range(60))
    again = gorp.end_task(model, optimizer, "0 again")
    assert first["query"] >= 4
    assert again["query"] <= 1


@two_forms
def test_inputs_that_lie_in_the_space_move_nothing(form: dict[str, object]) -> None:
    targets = {"full_rank_targets": ["query"], "lora_targets": []}
    model = attached(energy=1 - 1e-12, max_share=1.0, **targets, **form)
    optimizer = optimizer_for(model)
    train(model, optimizer, 0, range(60))
    gorp.end_task(model, optimizer, "0")
    before = weights(model)["query"]
    train(model, optimizer, 0, range(60, 80))
    assert weights(model)["query"].equal(before), "round-off is no signal"
    train(model, optimizer, 1)
    assert not weights(model)["query"].equal(before)


@pytest.mark.filterwarnings("ignore::gorp.errors.FullSpaceWarning")
def test_a_full_space_freezes_its_layer_and_keeps_it_exactly() -> None:
    model = attached(max_share=0.5)
    layer = gorp.learned_layers(model)["query"]
    layer.space.input.basis, layer.space.input.energy = torch.eye(IN)[:, :19], torch.ones(19)
    optimizer = optimizer_for(model)
    train(model, optimizer, 0)
    gorp.end_task(model, optimizer, "0")
    assert layer.space.frozen
    assert layer.space.basis.shape[1] == 19, "refused, not cut"
    before = weights(model)["query"]
    train(model, optimizer, 1)
    gorp.end_task(model, optimizer, "1")
    assert weights(model)["query"].equal(before)


def test_a_full_space_warns() -> None:
    model = attached(max_share=0.05)
    optimizer = optimizer_for(model)
    train(model, optimizer, 0)
    told = r"more directions than 3 of 3 layers have room for: \w+ \(holds 0 of \d+ directions of its inputs.*frozen"
    with pytest.warns(UserWarning, match=told) as caught:
        gorp.end_task(model, optimizer, "0")
    assert len(caught) == 1, "one warning for all layers"
    gorp.end_task(model, optimizer, "1")  # and none for layers that were frozen before


@three_forms
def test_a_model_attaches_to_a_space_with_full_layers(form: dict[str, object]) -> None:
    model = attached(max_share=0.05, **form)
    optimizer = optimizer_for(model)
    train(model, optimizer, 0)
    with pytest.warns(UserWarning, match="have room for"):
        gorp.end_task(model, optimizer, "0")
    again = gorp.attach(Network(), gorp.learned_layers(model)["up"].config, model.gradient_space)
    assert all(layer.space.frozen for layer in gorp.learned_layers(again).values())
    assert not any(parameter.requires_grad for parameter in again.parameters())


@two_forms
def test_the_rank_shrinks_with_what_is_free(form: dict[str, object]) -> None:
    model = attached(max_share=1.0, full_rank_targets=["up"], lora_targets=[], **form)
    layer = gorp.learned_layers(model)["up"]
    layer.space.input.basis = torch.eye(HIDDEN)[:, : HIDDEN - 2]
    layer.space.input.energy = torch.ones(HIDDEN - 2)
    layer.restart(1)
    assert layer.factors()["input"].shape == ((HIDDEN, 2) if form == FORMS["random"] else (2, 2))
    optimizer = optimizer_for(model)
    before, held = weights(model), bases(model)
    train(model, optimizer, 0)
    assert worst_leak(before, weights(model), held) <= 1
    layer.space.input.basis = torch.eye(HIDDEN)
    layer.restart(2)
    assert layer.space.frozen


@two_forms
@pytest.mark.parametrize("targets", [{"full_rank_targets": []}, {"lora_targets": []}], ids=["LoRA", "full rank"])
def test_either_half_works_alone(targets: dict[str, object], form: dict[str, object]) -> None:
    model = attached(**targets, **form)
    optimizer = optimizer_for(model)
    losses = train(model, optimizer, 0, range(60))
    assert losses[-1] < 0.9 * losses[0]
    assert len(optimizer.param_groups) == 1
    gorp.end_task(model, optimizer, "0")


@pytest.mark.parametrize("memory", ["sketch", "weighted_features"])
def test_inputs_along_axes_are_protected_from_batches_of_few_rows(memory: str) -> None:
    """One-hot inputs: the space is of axes, and gradients of a few rows do not determine all directions."""
    model = nn.ModuleDict({"layer": nn.Linear(32, 16, bias=False)})
    config = gorp.GORPConfig(full_rank_targets=["layer"], rank=8, energy=0.99, max_share=1.0, memory=memory)
    gorp.attach(model, config)
    optimizer = gorp.GORPAdamW(gorp.param_groups(model), full_rank_lr=1e-2)
    layer, target = gorp.learned_layers(model)["layer"], seeded_normal(32, 16, 0)

    def learn(first: int, last: int, rows: int) -> None:
        for step in range(60):
            generator = torch.Generator().manual_seed(step)
            places = torch.randint(first, last, (rows,), generator=generator)
            x = torch.eye(32)[places] + torch.eye(32)[places % 12]
            optimizer.zero_grad()
            (layer(x) - torch.tanh(x @ target)).square().mean().backward()
            optimizer.step()

    learn(0, 12, 16)
    gorp.end_task(model, optimizer, "first")
    before = layer.effective_weight()
    learn(12, 32, 4)
    change = layer.effective_weight() - before
    assert layer.space.input.rank > 8
    assert change.norm() > 0.1
    assert (change @ layer.space.basis).norm() < 1e-5 * change.norm()


def learnt(model: Network, optimizer: gorp.GORPAdamW, steps: int) -> list[float]:
    """Losses of a few steps of one task."""
    losses = []
    for step in range(steps):
        x = seeded_normal(12, IN, step)
        optimizer.zero_grad()
        loss = (model(x) - seeded_normal(12, OUT, 100)).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@every_form
def test_a_checkpoint_from_before_the_first_step_learns_as_it_did_then(form: dict[str, str]) -> None:
    model = attached(**form)
    optimizer = gorp.GORPAdamW(gorp.param_groups(model), lr=1e-2)
    saved = [{name: value.clone() for name, value in model.state_dict().items()}, optimizer.state_dict()]
    losses = learnt(model, optimizer, 3)
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
    assert learnt(model, optimizer, 3) == losses


@two_forms
def test_a_first_gradient_of_zeros_costs_no_more_than_its_step(form: dict[str, str]) -> None:
    model = attached(**form, refresh_every=1000, lora_targets=[])
    optimizer = gorp.GORPAdamW(gorp.param_groups(model), full_rank_lr=1e-2)
    (0.0 * model(seeded_normal(12, IN, 0))).sum().backward()
    optimizer.step()
    learnt(model, optimizer, 2)
    for layer in model.learned_layers.values():
        left, right = layer.change()
        assert (left @ right).any()


@three_forms
def test_a_pass_whose_gradients_were_made_finite_does_not_spoil_the_memory(form: dict[str, str]) -> None:
    model = attached(**form, damping=0.5)
    optimizer = gorp.GORPAdamW(gorp.param_groups(model), lr=1e-2)
    for step in range(4):
        optimizer.zero_grad()
        scale = torch.inf if step == 1 else 1.0
        (scale * model(seeded_normal(12, IN, step))).sum().backward()
        for factor in (factor for layer in model.learned_layers.values() for factor in layer.factors().values()):
            factor.grad.nan_to_num_(posinf=1.0, neginf=-1.0)
        optimizer.step()
    assert all(factor.isfinite().all() for factor in model.parameters())
    assert min(gorp.end_task(model, optimizer, "first").values()) > 0


def test_an_optimizer_of_some_layers_alone_ends_no_task() -> None:
    model = attached()
    lora, full_rank = (gorp.GORPAdamW([group]) for group in gorp.param_groups(model))
    for optimizer in (lora, full_rank):
        with pytest.raises(ValueError, match=r"layer (query|up) is not trained by this optimizer"):
            gorp.end_task(model, optimizer, "first")


def test_what_is_no_group_of_parameters_and_no_state_of_its_own_is_refused() -> None:
    model = attached()
    with pytest.raises(ValueError, match=r"should be what gorp\.param_groups\(model\) returns"):
        gorp.GORPAdamW(model.parameters())
    optimizer = gorp.GORPAdamW(gorp.param_groups(model))
    other = torch.optim.AdamW(gorp.param_groups(model))
    model(seeded_normal(12, IN, 0)).sum().backward()
    other.step()
    with pytest.raises(gorp.InputError, match="is of another optimizer"):
        optimizer.load_state_dict(other.state_dict())


def test_a_space_follows_its_layer() -> None:
    side = attached().learned_layers["query"].space
    side.follow("input", torch.device("meta"))
    assert (side.input.basis.device.type, side.output.basis.device.type) == ("meta", "cpu")
