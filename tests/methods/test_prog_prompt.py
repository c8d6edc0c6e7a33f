import pytest


def test_the_latest_prompt_learns_and_stands_first(attach, tasks, kind):
    """Nothing else changes, so that an old task's answers stay exactly what they were."""
    method = attach("prog-prompt", kind, length=2)
    batch = method.encoder.training_batch(method.encoder.rows(tasks[0].train[:3]))

    def answers(index):
        method.select(index)
        logits = method.encoder.logits(method.model, method.prepare(batch)).detach()
        method.select(None)
        return logits

    kept, answered = {}, []
    for index, task in enumerate(tasks):
        method.begin_task(task, index)
        optimizer = method.optimizer()
        before = method.embedding.prompts[index].detach().clone()
        method.encoder.logits(method.model, method.prepare(batch)).square().sum().backward()
        optimizer.step()
        assert not before.equal(method.embedding.prompts[index])
        assert all(method.weights()[name].equal(value) for name, value in kept.items())
        kept = {name: value.clone() for name, value in method.weights().items()}
        answered.append(answers(index))
        assert all(answers(old).equal(then) for old, then in enumerate(answered))
    assert not answered[0].equal(answered[1])
    assert len(kept) == 3


@pytest.mark.parametrize("index", [0, 1, 2, 3, None])
def test_a_task_is_read_behind_the_prompts_up_to_its_own_the_latest_first(attach, tasks, index, kind):
    method = attach("prog-prompt", kind, length=2)
    batch = method.encoder.training_batch(method.encoder.rows(tasks[0].train[:3]))
    method.select(index)
    assert method.prepare(batch)["input_ids"].equal(batch["input_ids"])
    for position, task in enumerate(tasks):
        method.begin_task(task, position)
    first = method.embedding.first_id
    expected = {0: [0, 1], 1: [2, 3, 0, 1]}.get(index, [4, 5, 2, 3, 0, 1])
    ids = method.prepare(batch)["input_ids"]
    assert ids.tolist() == [[*(first + token for token in expected), *row] for row in batch["input_ids"].tolist()]
