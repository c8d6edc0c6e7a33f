from dataclasses import replace

import pytest
import torch

from gorp import rouge
from gorp.backbones import load_backbone
from gorp.encoding import Encoder, Row, answer_loss
from gorp.errors import GorpError
from gorp.evaluation import Evaluator, Prompts, exact_match, is_match, normalise
from gorp.likelihood import log_likelihoods
from gorp.tasks import Example, TaskStream


def example(answer, *references):
    return Example("Answer:", answer, (0, 0), references)


def test_normalise():
    assert normalise("  Science, or\tTechnology! ") == "science or technology"


def test_any_reference_counts():
    assert is_match("the CAT.", example("dog", "The cat"))
    assert not is_match("cat", example("dog"))
    assert exact_match(["a", "b", "c"], [example("A"), example("x"), example("C!")]) == pytest.approx(200 / 3)


@pytest.mark.parametrize(
    ("answer", "references", "score"),
    [  # F = 2PR / (P + R), P and R the words in common, in order, over those of the answer and of the reference
        ("the cat sat", ["the cat sat"], 100),
        ("the cat sat on mats", ["the dog sat down"], 2 * (2 / 5) * (2 / 4) / (2 / 5 + 2 / 4) * 100),
        ("b a", ["a b"], 50),  # one word is in order
        ("", ["a"], 0),
        ("Cats, running!", ["cat RUNS"], 100),  # case, punctuation and endings of words do not count
        ("a b c", ["x", "a b", "a"], 2 * (2 / 3) * 1 / (2 / 3 + 1) * 100),  # the best of the references
    ],
)
def test_rouge_l_is_the_f_measure_of_the_longest_common_subsequence(answer, references, score):
    assert rouge.rouge_l([answer], [example(*references)]) == pytest.approx(score, abs=1e-4)


def test_rouge_l_is_the_mean_over_examples():
    assert rouge.rouge_l(["a", "b", "x"], [example("a"), example("b"), example("c")]) == pytest.approx(
        200 / 3, abs=1e-4
    )


def test_a_missing_library_is_named_before_anything_is_answered(backbone, monkeypatch):
    monkeypatch.setattr(rouge, "find_spec", lambda name: None if name == "nltk" else name)
    evaluator = Evaluator(backbone.model, Encoder(backbone.model, backbone.tokenizer))
    evaluator.predict = None  # would fail
    with pytest.raises(GorpError, match=r"ROUGE-L needs nltk, .* pip install 'gorp-cl\[rouge\]'"):
        evaluator.score([example("a")], metric="rouge_l")


@pytest.fixture(params=["seq2seq", "causal"])
def backbone(request, tiny_models):
    return load_backbone(str(tiny_models[request.param]))


def test_answers_keep_their_order_at_any_batch_size(backbone, tiny_stream):
    examples = [row for task in TaskStream.from_yaml(tiny_stream) for row in task.test]
    encoder = Encoder(backbone.model, backbone.tokenizer)
    answers = [Evaluator(backbone.model, encoder, size).predict(examples) for size in (1, 4, 64)]
    assert answers[0] == answers[1] == answers[2]
    assert len(set(answers[0])) > 1  # a random model, but not one that says the same to everything


def test_answers_are_those_of_plain_generate(backbone, tiny_stream):
    examples = TaskStream.from_yaml(tiny_stream)[0].test[:3]
    encoder = Encoder(backbone.model, backbone.tokenizer)
    answers = Evaluator(backbone.model, encoder).predict(examples)
    for given, row in zip(answers, examples, strict=True):
        inputs = backbone.tokenizer(row.prompt, return_tensors="pt", return_token_type_ids=False)
        output = backbone.model.eval().generate(**inputs, max_new_tokens=2, do_sample=False)
        skip = inputs["input_ids"].shape[1] if backbone.kind == "causal" else 0
        assert given == backbone.tokenizer.decode(output[0, skip:], skip_special_tokens=True).strip()


def test_prompts_are_encoded_once_longest_first(backbone, tiny_stream):
    examples = TaskStream.from_yaml(tiny_stream)[0].test
    encoder = Encoder(backbone.model, backbone.tokenizer)
    prompts = Prompts.of(examples, encoder)
    lengths = [len(ids) for ids in prompts.ids]
    assert lengths == sorted(lengths, reverse=True)
    assert prompts.max_new_tokens == 2  # one word and the end
    evaluator = Evaluator(backbone.model, encoder)
    first = evaluator.predict(examples)
    encoder.row = None  # a second encoding would fail
    assert evaluator.predict(examples) == first


def test_progress_and_mode(backbone, tiny_stream):
    examples = TaskStream.from_yaml(tiny_stream)[0].test
    seen = []
    backbone.model.train()
    Evaluator(backbone.model, Encoder(backbone.model, backbone.tokenizer), 4).score(
        examples, lambda *at: seen.append(at)
    )
    assert seen == [(4, 9), (8, 9), (9, 9)]
    assert backbone.model.training


def test_an_answer_has_no_more_lines_than_the_longest_accepted_one(backbone, monkeypatch):
    evaluator = Evaluator(backbone.model, Encoder(backbone.model, backbone.tokenizer))
    monkeypatch.setattr(evaluator.encoder.tokenizer, "batch_decode", lambda ids, **_: [" one\ntwo \nthree"] * len(ids))
    assert evaluator.predict([example("a")]) == ["one"]
    assert evaluator.predict([example("a"), example("b", "b\nc")]) == ["one\ntwo"] * 2


def test_the_metric_is_asked_for(backbone, monkeypatch):
    evaluator = Evaluator(backbone.model, Encoder(backbone.model, backbone.tokenizer))
    monkeypatch.setattr(evaluator, "predict", lambda examples, on_step: ["a b"])
    assert evaluator.score([example("a c")]) == 0
    assert evaluator.score([example("a c")], metric="rouge_l") == pytest.approx(50)


def likelihood_of(model, encoder, example, answer):
    """One prompt with one answer, as in training."""
    closed = encoder.closed_answer(answer, example)
    batch = encoder.training_batch([Row(encoder.row(example).prompt, closed)])
    with torch.no_grad():
        return -float(answer_loss(encoder.logits(model.eval(), batch), batch["labels"]))


@pytest.mark.parametrize("at_once", [1, 8, 64])
def test_likelihoods_are_those_that_training_takes(backbone, tiny_stream, at_once):
    examples = [row for task in TaskStream.from_yaml(tiny_stream) for row in task.test][::4]
    encoder = Encoder(backbone.model, backbone.tokenizer)
    answers = ["a", "a longer answer with many words", "yes", ""]
    inputs = encoder.prompt_batch([encoder.row(example).prompt for example in examples])
    inputs.pop("position_ids", None)
    assert not inputs["attention_mask"].all()  # some prompts are padded
    with torch.inference_mode():
        found = log_likelihoods(
            backbone.model.eval(), encoder, inputs, [encoder.closed_answer(a, examples[0]) for a in answers], at_once
        )
    wanted = [[likelihood_of(backbone.model, encoder, example, answer) for answer in answers] for example in examples]
    torch.testing.assert_close(found, torch.tensor(wanted), rtol=1e-4, atol=1e-4)


def test_the_likeliest_of_a_row_s_own_options_is_chosen(backbone, tiny_stream):
    rows = [row for task in TaskStream.from_yaml(tiny_stream) for row in task.test]
    lists = [("yes", "no"), ("no", "maybe so", "yes"), ("other",)]
    examples = [replace(row, options=lists[index % 3]) for index, row in enumerate(rows)]
    encoder = Encoder(backbone.model, backbone.tokenizer)
    found = [Evaluator(backbone.model, encoder, size, answers="options").predict(examples) for size in (2, 64)]
    assert found[0] == found[1]
    for example, answer in zip(examples, found[0], strict=True):
        likelihoods = {option: likelihood_of(backbone.model, encoder, example, option) for option in example.options}
        assert likelihoods[answer] == max(likelihoods.values())


def test_without_options_answers_are_generated(backbone, tiny_stream):
    examples = [replace(row, options=()) for row in TaskStream.from_yaml(tiny_stream)[0].test[:3]]
    encoder = Encoder(backbone.model, backbone.tokenizer)
    generated = Evaluator(backbone.model, encoder).predict(examples)
    assert Evaluator(backbone.model, encoder, answers="options").predict(examples) == generated
