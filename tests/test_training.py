import copy
import math

import pytest
import torch

from gorp.backbones import load_backbone
from gorp.checkpoint import random_state, seed_everything
from gorp.encoding import IGNORED, Encoder, Row, answer_loss
from gorp.errors import GorpError
from gorp.methods.seq_lora import SeqLoRA
from gorp.plan import Plan, group_by_length, row_order
from gorp.progress import SilentProgress
from gorp.run_config import RunConfig
from gorp.tasks import TaskStream
from gorp.training import Flight, train_task

ROWS = 20


class Setup:
    """A tiny model under seq-lora, ready to train on one task."""

    def __init__(self, folder, stream, tmp_path, **training):
        config = RunConfig.from_mapping({"training": {"lr": 0.01, "save_every": 3, "epochs": 2, **training}})
        backbone = load_backbone(str(folder))
        self.model = backbone.model
        self.encoder = Encoder(backbone.model, backbone.tokenizer)
        self.method = SeqLoRA(config)
        seed_everything(0, 0)
        self.method.attach(backbone.model)
        self.optimizer = self.method.optimizer()
        rows = self.encoder.rows(TaskStream.from_yaml(stream)[0].train[:ROWS])
        self.plan = Plan(rows, config.training, seed=0, folder=tmp_path)
        self.saved = []

    def train(self, flight=None, random_then=None):
        def save(flight):
            state = copy.deepcopy(self.optimizer.state_dict())
            self.saved.append((flight.step, self.weights(), state, random_state()))

        return train_task(
            self.model,
            self.method,
            self.optimizer,
            self.encoder,
            self.plan,
            SilentProgress(),
            save,
            flight,
            random_then,
        )

    def weights(self):
        return {name: value.clone() for name, value in self.method.weights().items()}


@pytest.fixture(params=["seq2seq", "causal"])
def setup(request, tiny_models, tiny_stream, tmp_path):
    return lambda **training: Setup(tiny_models[request.param], tiny_stream, tmp_path, **training)


def test_the_order_is_every_epoch_shuffled():
    order = row_order(10, 3, seed=1)
    assert [sorted(order[first : first + 10]) for first in (0, 10, 20)] == [list(range(10))] * 3
    assert order == row_order(10, 3, seed=1)
    assert order[:10] != order[10:20]
    assert order != row_order(10, 3, seed=2)


def test_grouping_keeps_every_row_and_the_last_short_step():
    lengths = [index % 7 for index in range(50)]
    order = row_order(50, 1, seed=0)
    grouped = group_by_length(order, lengths, 4, seed=0)
    assert sorted(grouped) == sorted(order)
    spread = sum(
        max(lengths[i] for i in grouped[at : at + 4]) - min(lengths[i] for i in grouped[at : at + 4])
        for at in range(0, 48, 4)
    )
    assert spread <= 12
    assert grouped == group_by_length(order, lengths, 4, seed=0)


def test_learning_rates():
    def rates(**training):
        config = RunConfig.from_mapping({"training": {"epochs": 1, "batch_size": 1, **training}}).training
        plan = Plan([None] * 8, config, 0, None)
        return [plan.rate(step) for step in range(8)]

    assert rates() == [1.0] * 8
    assert rates(schedule="linear") == [1 - step / 8 for step in range(8)]
    assert rates(schedule="linear", warmup=0.5) == [0.25, 0.5, 0.75, 1.0, 1.0, 0.75, 0.5, 0.25]
    assert rates(schedule="cosine") == [0.5 + 0.5 * math.cos(math.pi * step / 8) for step in range(8)]


def test_training_learns_and_touches_only_factors(setup):
    ours = setup(epochs=6)
    before = {name: value.clone() for name, value in ours.model.state_dict().items()}
    flight = ours.train()
    assert flight.step == ours.plan.steps == len(flight.losses) == 15
    losses = [loss for _, loss in flight.losses]
    assert sum(losses[-3:]) < 0.96 * sum(losses[:3])
    changed = {name for name, value in ours.model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed
    assert all(".lora_" in name for name in changed)


@pytest.mark.parametrize("training", [{}, {"schedule": "linear", "warmup": 0.3}, {"accumulation_steps": 2}])
@pytest.mark.parametrize("at", [0, -1])
def test_going_on_is_bit_for_bit_the_same(setup, training, at):
    whole = setup(batch_size=4, **training)
    finished = whole.train()
    step, weights, state, random_then = whole.saved[at]
    losses = [pair for pair in finished.losses if pair[0] <= step]
    resumed = setup(batch_size=4, **training)
    resumed.method.load_weights(weights)
    resumed.optimizer.load_state_dict(state)
    again = resumed.train(Flight(step=step, losses=losses), random_then)
    assert again.losses == finished.losses
    for name, value in whole.weights().items():
        assert torch.equal(value, resumed.weights()[name]), name
    assert torch.equal(random_state()["torch"], whole.saved[-1][3]["torch"])


def test_saves_are_every_few_steps_and_at_the_end(setup):
    ours = setup(batch_size=8)
    ours.train()
    assert [saved[0] for saved in ours.saved] == [3, 5]
    assert not list(ours.plan.folder.iterdir())


def mean_loss(batch, logits):
    return answer_loss(logits, batch["labels"]) / (batch["labels"] != IGNORED).sum()


@pytest.mark.parametrize("penalty", [lambda batch, logits: None, mean_loss])
def test_accumulation_equals_a_large_batch(setup, penalty):
    weights = []
    for training in ({"batch_size": 10}, {"batch_size": 5, "accumulation_steps": 2}):
        ours = setup(**training)
        ours.method.penalty = penalty
        for number, row in enumerate(ours.plan.rows[::3]):  # answers of several lengths, so that batches weigh unlike
            ours.plan.rows[3 * number] = Row(row.prompt, (*row.answer[:-1], 5, 6, 7, row.answer[-1]))
        for module in ours.model.modules():
            for name, value in (("p", 0.0), ("dropout", 0.0), ("attention_dropout", 0.0)):
                if isinstance(getattr(module, name, None), float):
                    setattr(module, name, value)
        ours.train()
        weights.append(ours.weights())
    for name, value in weights[0].items():
        torch.testing.assert_close(value, weights[1][name], rtol=1e-4, atol=1e-5)


def poison(ours, steps):
    """Make the loss NaN at these steps, counted from 1."""
    count = iter(range(1, 1000))
    ours.method.penalty = lambda batch, logits: torch.tensor(math.nan) if next(count) in steps else None


def poison_gradient(ours, steps):
    """Make a gradient infinite at these steps, the loss staying finite."""
    count = iter(range(1, 1000))
    parameter = next(parameter for parameter in ours.model.parameters() if parameter.requires_grad)
    parameter.register_hook(lambda gradient: gradient + math.inf if next(count) in steps else gradient)


@pytest.mark.parametrize("spoil", [poison, poison_gradient])
def test_bad_steps_are_skipped_and_counted(setup, spoil):
    ours = setup()
    spoil(ours, {2, 4})
    flight = ours.train()
    assert (flight.step, flight.skipped, flight.skipped_in_a_row) == (5, 2, 0)
    assert [step for step, _ in flight.losses] == [1, 3, 5]
    assert all(bool(torch.isfinite(value).all()) for value in ours.weights().values())


@pytest.mark.parametrize("spoil", [poison, poison_gradient])
def test_five_bad_steps_in_a_row_stop_with_the_last_good_state(setup, spoil):
    ours = setup(batch_size=4, save_every=2)
    spoil(ours, {3, 4, 5, 6, 7})
    with pytest.raises(GorpError, match=r"not finite in 5 steps in a row \(up to step 7 of 10\)"):
        ours.train()
    assert [saved[0] for saved in ours.saved] == [2, 4, 6, 7]
    for name, value in ours.saved[0][1].items():
        assert torch.equal(value, ours.saved[-1][1][name])


def test_bf16_autocast_and_checkpointing_train(setup):
    ours = setup(precision="bf16", gradient_checkpointing=True)
    flight = ours.train()
    assert flight.skipped == 0
    assert all(value.dtype == torch.float32 for value in ours.weights().values())


def test_checkpointing_changes_nothing(setup):
    plain, checkpointed = setup(), setup(gradient_checkpointing=True)
    first, second = plain.train(), checkpointed.train()
    assert [loss for _, loss in first.losses] == pytest.approx([loss for _, loss in second.losses], rel=1e-5)


def test_loss_curve_is_short():
    flight = Flight(losses=[[step, float(step)] for step in range(1, 251)])
    curve = flight.loss_curve()
    assert len(curve) <= 100
    assert curve[0] == (3, 2.0)
    assert curve[-1][0] == 250
