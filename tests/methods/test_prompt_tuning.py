"""Ids beyond the vocabulary stand for virtual tokens, and a model reads them as it would read their embeddings."""

import pytest
import torch
from torch import nn
from transformers import GenerationConfig

from gorp.backbones import load_backbone
from gorp.errors import InputError
from gorp.evaluation import Evaluator


@pytest.fixture
def method(attach, tasks, kind):
    prompted = attach("prog-prompt", kind, length=3)
    for index, task in enumerate(tasks[:2]):
        prompted.begin_task(task, index)
    return prompted


def as_embeddings(method, batch, words):
    """The inputs of ``batch`` with what ids stand for instead of ids, made without the module under test."""
    prompts = [value for name, value in sorted(method.weights().items(), reverse=True)]
    rows = [torch.cat([*prompts, words(ids)]) for ids in batch["input_ids"]]
    mask = torch.cat([torch.ones(len(rows), 6, dtype=torch.long), batch["attention_mask"]], dim=1)
    return {"inputs_embeds": torch.stack(rows), "attention_mask": mask}


def test_logits_are_those_of_embeddings_put_in_front(method, tiny_models, tasks, kind):
    base = load_backbone(str(tiny_models[kind])).model.eval()
    batch = method.encoder.training_batch(method.encoder.rows([*tasks[0].train[:3], *tasks[1].train[:3]]))
    inputs = as_embeddings(method, batch, base.get_input_embeddings())
    if kind == "causal":
        inputs["position_ids"] = (inputs["attention_mask"].cumsum(1) - 1).clamp(min=0)
    else:
        inputs["decoder_input_ids"] = batch["decoder_input_ids"]
    expected = base(**inputs, use_cache=False).logits[:, -batch["labels"].shape[1] :]
    torch.testing.assert_close(method.encoder.logits(method.model, method.prepare(batch)), expected)
    plain = base(**{key: value for key, value in batch.items() if key != "labels"}).logits
    assert not torch.allclose(plain[:, -expected.shape[1] :], expected, atol=1e-4)


def test_answers_are_those_of_embeddings_put_in_front(method, tiny_models, tasks, kind):
    base = load_backbone(str(tiny_models[kind])).model.eval()
    examples = [*tasks[0].test, *tasks[1].test]
    settings = GenerationConfig(max_new_tokens=2, pad_token_id=0, eos_token_id=1, decoder_start_token_id=0)
    expected = []
    for row in method.encoder.rows(examples):
        inputs = as_embeddings(method, method.encoder.prompt_batch([row.prompt]), base.get_input_embeddings())
        output = base.generate(**inputs, generation_config=settings)
        expected.append(method.encoder.tokenizer.decode(output[0], skip_special_tokens=True).strip())
    evaluator = Evaluator(method.model, method.encoder, batch_size=5, prepare=method.prepare)
    assert evaluator.predict(examples) == expected
    assert len(set(expected)) > 1


def test_only_prompts_learn_and_bring_a_fresh_model_to_the_same_place(method, attach, tasks, kind):
    before = {name: value.clone() for name, value in method.model.state_dict().items()}
    batch = method.encoder.training_batch(method.encoder.rows(tasks[0].train[:4]))
    method.encoder.logits(method.model, method.prepare(batch)).square().sum().backward()
    method.optimizer().step()
    changed = {name for name, value in method.model.state_dict().items() if not value.equal(before[name])}
    assert changed
    assert changed < set(method.weights())
    again = attach("prog-prompt", kind, length=3)
    again.load_weights(method.weights())
    logits = [each.encoder.logits(each.model, each.prepare(batch)) for each in (method, again)]
    assert logits[0].equal(logits[1])


def test_prompts_start_as_words(method):
    words = method.embedding.words.weight
    for prompt in method.weights().values():
        assert prompt.dtype == torch.float32
        assert all(any(row.equal(word) for word in words) for row in prompt)


def test_other_input_embeddings_are_refused(attach, tiny_models):
    method = attach("prog-prompt")
    model = load_backbone(str(tiny_models["causal"])).model
    model.set_input_embeddings(nn.Linear(1, 1))
    with pytest.raises(InputError, match=r"'prog-prompt' cannot put prompts before .*Llama.* is a Linear"):
        method.attach(model)
