import pytest
import torch

from gorp.encoding import IGNORED, answer_loss
from gorp.methods.lwf import softened
from gorp.training import enable_checkpointing


def flat_gradient(value, method):
    factors = [factor for factor in method.model.parameters() if factor.requires_grad]
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(value, factors, retain_graph=True)])


def prepared(attach, tasks, disturb, kind, **options):
    """A method whose teacher is not the base model, a batch with answers of several lengths, and the old weights."""
    method = attach("lwf", kind, **options)
    disturb(method, 0.3)
    method.begin_task(tasks[1], 1)
    rows = [*tasks[0].train[:3], *tasks[1].train[:2]]
    encoded = method.encoder.rows(rows)
    encoded[0] = type(encoded[0])(encoded[0].prompt, (5, 6, *encoded[0].answer))
    before = {name: value.clone() for name, value in method.weights().items()}
    return method, method.encoder.training_batch(encoded), before


def literal_penalty(teacher, student, labels, strength, temperature):
    """Token by token, as the formula says."""
    divergences = []
    for row, column in (labels != IGNORED).nonzero().tolist():
        p, q = ((values[row, column] / temperature).softmax(0) for values in (teacher, student))
        divergences.append((p * (p / q).log()).sum())
    return strength * temperature**2 * sum(divergences) / len(divergences)


def test_nothing_holds_the_first_task(attach, tasks):
    method = attach("lwf")
    method.begin_task(tasks[0], 0)
    assert method.penalty({}, torch.empty(0)) is None


def test_the_model_itself_is_not_penalised(attach, tasks, disturb, kind):
    method, batch, _ = prepared(attach, tasks, disturb, kind)
    logits = method.encoder.logits(method.model, batch)
    penalty = method.penalty(batch, logits)
    assert penalty.item() == pytest.approx(0, abs=1e-6)
    gradient = flat_gradient(penalty, method)
    loss = answer_loss(logits, batch["labels"])
    assert gradient.norm() < 1e-5 * flat_gradient(loss, method).norm()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_value_and_gradient_are_those_of_the_formula(attach, tasks, disturb, kind, checkpointing):
    method, batch, before = prepared(attach, tasks, disturb, kind, strength=0.7, temperature=3.0)
    model = method.model
    for module in model.modules():  # dropout of the student off, in training mode as well
        for name in ("p", "dropout", "attention_dropout"):
            if isinstance(getattr(module, name, None), float):
                setattr(module, name, 0.0)
    with torch.no_grad():
        teacher = method.encoder.logits(model, batch)
    disturb(method, 0.3)
    after = {name: value.clone() for name, value in method.weights().items()}
    assert not all(value.equal(before[name]) for name, value in after.items())
    literal = literal_penalty(teacher, method.encoder.logits(model, batch), batch["labels"], 0.7, 3.0)
    expected = flat_gradient(literal, method)
    if checkpointing:
        enable_checkpointing(model)
    model.train()
    penalty = method.penalty(batch, method.encoder.logits(model, batch))
    gradient = flat_gradient(penalty, method)
    assert literal > 1e-4
    torch.testing.assert_close(penalty, literal, rtol=1e-4, atol=1e-7)
    assert (gradient - expected).norm() < 1e-3 * expected.norm()
    assert model.training
    assert all(value.equal(after[name]) for name, value in method.weights().items())


def test_the_teacher_does_not_drop_out(attach, tasks, disturb):
    method, batch, _ = prepared(attach, tasks, disturb, "seq2seq")
    method.model.train()
    random_before = torch.get_rng_state()
    assert method.teacher_logits(batch).equal(method.teacher_logits(batch))
    assert torch.get_rng_state().equal(random_before)


def test_what_is_no_option_stays_finite_at_any_temperature():
    lowest = torch.finfo(torch.float32).min
    assert softened(torch.tensor([1.0, lowest]), 0.5).tolist() == [2.0, lowest]


def test_rows_without_an_answer_weigh_nothing(attach, tasks, disturb, kind):
    method = attach("lwf", kind)
    disturb(method, 0.3)
    method.begin_task(tasks[1], 1)
    batch = method.encoder.training_batch([row.unanswered() for row in method.encoder.rows(tasks[1].train[:2])])
    penalty = method.penalty(batch, method.encoder.logits(method.model, batch))
    assert penalty.item() == 0
    assert flat_gradient(penalty, method).abs().max() == 0
