import pytest
import torch
from torch.nn.functional import cosine_similarity

from gorp.errors import InputError
from gorp.methods.l2p import L2P


@pytest.fixture
def method(attach, kind):
    return attach("l2p", kind, pool=6, length=2, top=3, pull=0.25)


@pytest.fixture
def batch(method, tasks):
    rows = method.encoder.rows([*tasks[0].train[:3], *tasks[1].train[:3]])
    rows[0] = type(rows[0])(rows[0].prompt, (5, 6, 7, *rows[0].answer))  # an answer longer than the others
    return method.encoder.training_batch(rows)


def test_the_nearest_keys_choose_the_prompts_and_are_pulled(method, batch):
    with torch.no_grad():
        method._keys[:, 0] += 0.5
    queries, keys = method.query(batch), method._keys.detach()
    likeness = torch.stack([torch.stack([cosine_similarity(query, key, dim=0) for key in keys]) for query in queries])
    best = likeness.argsort(dim=1, descending=True)[:, :3]
    prepared = method.prepare(batch)
    first = method.embedding.words.num_embeddings
    expected = [[first + 2 * int(prompt) + token for prompt in row for token in (0, 1)] for row in best]
    assert prepared["input_ids"][:, :6].tolist() == expected
    assert prepared["input_ids"][:, 6:].equal(batch["input_ids"])
    assert prepared["attention_mask"][:, :6].all()
    distances = [(1 - row[chosen]).sum() for row, chosen in zip(likeness, best, strict=True)]
    penalty = method.penalty(prepared, torch.empty(0))
    torch.testing.assert_close(penalty, 0.25 * torch.stack(distances).mean())
    penalty.backward()
    pulled = {int(prompt) for row in best for prompt in row}
    assert {index for index, row in enumerate(method._keys.grad) if row.any()} == pulled
    with torch.no_grad():
        method._keys -= 0.1 * method._keys.grad
    assert method.query(batch).equal(queries)
    moved = torch.stack([cosine_similarity(queries, key, dim=1) for key in method._keys], dim=1)
    assert moved.gather(1, best).sum() > likeness.gather(1, best).sum()


def test_the_query_is_of_the_prompt_alone(method, batch, tasks):
    """Neither the answer, nor padding, nor dropout, nor what was learnt changes it."""
    prompts = method.encoder.rows([*tasks[0].train[:3], *tasks[1].train[:3]])
    alone = torch.cat([method.query(method.encoder.prompt_batch([row.prompt])) for row in prompts])
    method.model.train()
    torch.testing.assert_close(method.query(batch), alone, rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        for value in method.weights().values():
            value.add_(1)
    torch.testing.assert_close(method.query(batch), alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(alone[0], alone[1], atol=1e-3)


def test_chosen_prompts_learn_from_the_answers(method, batch):
    prepared = method.prepare(batch)
    method.encoder.logits(method.model, prepared).square().sum().backward()
    table = method.embedding.prompts[0]
    used = {int(token) - method.embedding.first_id for row in prepared["input_ids"][:, :6] for token in row}
    assert {index for index, row in enumerate(table.grad) if row.any()} == used
    learning = {name for name, value in method.model.named_parameters() if value.requires_grad}
    assert learning == set(method.weights())


def test_no_more_than_the_pool_can_be_chosen():
    with pytest.raises(InputError, match=r"key 'options.top': at most pool \(2\) prompts can be chosen, found 3"):
        L2P.read_options({"pool": 2, "top": 3})
