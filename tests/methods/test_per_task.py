import torch


def test_every_task_keeps_its_own_model_and_none_is_the_base(attach, tasks, disturb, kind):
    method = attach("per-task", kind)
    batch = method.encoder.training_batch(method.encoder.rows(tasks[0].train[:3]))

    def answers(method):
        return method.encoder.logits(method.model, batch).detach()

    base, own = answers(method), []
    for index, task in enumerate(tasks[:2]):
        method.begin_task(task, index)
        assert answers(method).equal(base)  # B = 0: every task starts from the base model
        disturb(method)
        method.end_task(task, index)
        own.append(answers(method))
    assert not own[0].equal(own[1])
    again = attach("per-task", kind)
    again.load_weights(method.weights())
    again.load_state(method.state())
    for each in (method, again):
        for index, expected in ((0, own[0]), (None, base), (1, own[1]), (2, base), (0, own[0])):
            each.select(index)
            assert torch.equal(answers(each), expected)
