import pytest
import torch


def factors(method):
    return {name: value for name, value in method.model.named_parameters() if value.requires_grad}


def test_the_penalty_is_the_sum_over_tasks(attach, tasks, disturb):
    """Its gradient exactly, its value but for a constant: zero curvature included."""
    method = attach("ewc", strength=3.0)
    kept = []
    assert method.penalty({}, torch.empty(0)) is None
    for index, task in enumerate(tasks):
        disturb(method)
        fisher = {name: torch.rand_like(value) for name, value in factors(method).items()}
        for value in fisher.values():
            value[torch.rand_like(value) > 0.5] = 0
        method.fisher = lambda rows, fisher=fisher: fisher
        method.end_task(task, index)
        kept.append((fisher, {name: value.detach().clone() for name, value in factors(method).items()}))
    constants = []
    for _ in range(3):
        disturb(method, 3.0)
        learning = factors(method)
        literal = sum(
            3.0 / 2 * (fisher[name] * (learning[name] - at[name]) ** 2).sum() for fisher, at in kept for name in fisher
        )
        penalty = method.penalty({}, torch.empty(0))
        constants.append((literal - penalty).item())
        expected, gradients = (torch.autograd.grad(value, [*learning.values()]) for value in (literal, penalty))
        torch.testing.assert_close(gradients, expected, rtol=1e-4, atol=1e-4)
    assert constants[0] > 1
    assert constants == pytest.approx([constants[0]] * 3, rel=1e-3)


def test_fisher_is_the_mean_of_squared_gradients_of_rows(attach, tasks, disturb, kind):
    method = attach("ewc", kind)
    disturb(method, 0.3)
    rows = tasks[0].train[:4]
    expected = {name: torch.zeros_like(value) for name, value in factors(method).items()}
    for row in method.encoder.rows(rows):
        batch = method.encoder.training_batch([row])
        likelihoods = method.encoder.logits(method.model, batch).log_softmax(-1)
        method.model.zero_grad()
        likelihoods[0, torch.arange(len(row.answer)), torch.tensor(row.answer)].sum().backward()
        for name, value in factors(method).items():
            expected[name] += value.grad**2 / len(rows)
    method.model.train()
    fisher = method.fisher(rows)
    assert method.model.training
    assert sum(value.sum() for value in expected.values()) > 0
    for name, value in fisher.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-9)


def test_what_is_kept_does_not_grow_and_comes_back(attach, tasks, disturb):
    method, again = attach("ewc", rows=2), attach("ewc", rows=2)
    sizes = []
    for index, task in enumerate(tasks):
        disturb(method, 0.3)
        method.end_task(task, index)
        sizes.append(sum(value.numel() for value in method.state().values()))
    assert sizes == [2 * sum(value.numel() for value in factors(method).values())] * 3
    again.load_weights(method.weights())
    again.load_state(method.state())
    for each in (method, again):
        torch.manual_seed(1)
        disturb(each)
    assert again.penalty({}, torch.empty(0)).equal(method.penalty({}, torch.empty(0)))


def test_a_layer_that_no_row_passes_through_has_no_fisher_information(attach, tasks):
    method = attach("ewc")
    unused = torch.nn.Linear(4, 4)
    method.model.register_module("unused", unused)
    fisher = method.fisher(tasks[0].train[:2])
    assert not fisher.pop("unused.weight").any()
    assert any(values.any() for values in fisher.values())
