from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel, MambaConfig, MambaForCausalLM

from gorp import rouge
from gorp.backbones import Backbone, load_backbone
from gorp.encoding import Encoder, Row, answer_loss
from gorp.errors import GorpError, InputError
from gorp.evaluation import Evaluator, Prompts, exact_match, is_match, normalise
from gorp.likelihood import check_likelihoods, log_likelihoods
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
    ("answer", "right", "options", "matches"),
    [
        ("c", "C", ("C", "Java"), True),
        ("C", "C++", ("C", "C++", "C#"), False),  # the same without punctuation, which then counts
        ("C++", "C++", ("C", "C++", "C#"), True),
        ("1", "-1", ("-1", "0", "1"), False),
        ("", "+", (), False),
        (" + ", "+", (), True),
        ("cafe\u0301", "caf\u00e9", (), True),  # what a tokenizer makes of it
        ("\ufb01ne", "fine", ("fine", "bad"), True),
    ],
)
def test_punctuation_counts_where_nothing_else_tells_answers_apart(answer, right, options, matches):
    assert is_match(answer, replace(example(right), options=options)) is matches


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


@pytest.mark.parametrize("answers", ["generated", "options"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_outputs_that_are_not_finite_are_no_answers(backbone, tiny_stream, answers, value):
    evaluator = Evaluator(backbone.model, Encoder(backbone.model, backbone.tokenizer), answers=answers)
    head = backbone.model.get_output_embeddings()
    head.register_forward_hook(lambda module, args, output: output + value)
    with pytest.raises(GorpError, match="outputs are not finite"):
        evaluator.predict(TaskStream.from_yaml(tiny_stream)[0].test[:3])


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


@pytest.fixture(params=["seq2seq", "causal", "learned positions"])
def sharp(request, tiny_models):
    """A model whose answers hang on which token stands where."""
    torch.manual_seed(0)
    backbone = load_backbone(str(tiny_models["seq2seq" if request.param == "seq2seq" else "causal"]))
    if request.param == "learned positions":
        config = GPT2Config(vocab_size=len(backbone.tokenizer), n_positions=256, n_embd=16, n_layer=1, n_head=2)
        backbone = Backbone("gpt2", GPT2LMHeadModel(config), backbone.tokenizer)
    for p in backbone.model.parameters():
        p.data.normal_(0, 0.3)
    return backbone


def likelihood_of(model, encoder, example, answer):
    """One prompt with one answer, as in training."""
    closed = encoder.closed_answer(answer, example)
    batch = encoder.training_batch([Row(encoder.row(example).prompt, closed)])
    with torch.no_grad():
        return -float(answer_loss(encoder.logits(model.eval(), batch), batch["labels"]))


@pytest.mark.parametrize("at_once", [1, 8, 64])
def test_likelihoods_are_those_that_training_takes(sharp, tiny_stream, at_once):
    examples = [row for task in TaskStream.from_yaml(tiny_stream) for row in task.test][::4]
    encoder = Encoder(sharp.model, sharp.tokenizer)
    every = ["red", "red green blue red", "yes", ""]
    answers = [every[: 1 + row % 4] for row in range(len(examples))]
    inputs = encoder.prompt_batch([encoder.row(example).prompt for example in examples])
    inputs.pop("position_ids", None)
    assert not inputs["attention_mask"].all()  # some prompts are padded
    ids = [[encoder.closed_answer(answer, examples[0]) for answer in own] for own in answers]
    with torch.inference_mode():
        found = log_likelihoods(sharp.model.eval(), encoder, inputs, ids, at_once)
    for example, own, likelihoods in zip(examples, answers, found, strict=True):
        wanted = [likelihood_of(sharp.model, encoder, example, answer) for answer in own]
        assert likelihoods == pytest.approx(wanted, rel=1e-5, abs=1e-4)


def test_the_likeliest_of_a_row_s_own_options_is_chosen(sharp, tiny_stream):
    rows = [row for task in TaskStream.from_yaml(tiny_stream) for row in task.test]
    lists = [("yes", "no"), ("no", "maybe so", "yes"), ("red", "red green"), ("other",)]
    examples = [replace(row, options=lists[index % 4]) for index, row in enumerate(rows)]
    encoder = Encoder(sharp.model, sharp.tokenizer)
    found = [Evaluator(sharp.model, encoder, size, answers="options").predict(examples) for size in (2, 64)]
    assert found[0] == found[1]
    for example, answer in zip(examples, found[0], strict=True):
        likelihoods = {option: likelihood_of(sharp.model, encoder, example, option) for option in example.options}
        assert likelihoods[answer] == max(likelihoods.values())
    assert {"red", "red green"} & set(found[0])


def test_a_row_without_options_is_answered_as_before(backbone, tiny_stream):
    examples = TaskStream.from_yaml(tiny_stream)[0].test[:6]
    mixed = [replace(row, options=()) if index % 2 else row for index, row in enumerate(examples)]
    encoder = Encoder(backbone.model, backbone.tokenizer)
    generated = Evaluator(backbone.model, encoder).predict(examples)
    chosen = Evaluator(backbone.model, encoder, answers="options").predict(examples)
    seen = []
    found = Evaluator(backbone.model, encoder, 2, answers="options").predict(mixed, lambda *at: seen.append(at))
    assert found == [(generated if index % 2 else chosen)[index] for index in range(6)]
    assert seen == [(2, 6), (3, 6), (5, 6), (6, 6)]


def test_options_that_cannot_be_told_apart_are_refused(backbone):
    encoder = Encoder(backbone.model, backbone.tokenizer, max_target_length=3)
    row = replace(example("red"), options=("red", "red green blue", "red green cat"))
    with pytest.raises(InputError, match="'red green blue' and 'red green cat' are the same in token ids, 3 at most"):
        encoder.option_ids(row)


def test_a_cache_that_cannot_serve_many_answers_is_refused():
    torch.manual_seed(0)
    config = MambaConfig(vocab_size=20, hidden_size=8, num_hidden_layers=1, state_size=4)
    model = MambaForCausalLM(config)
    encoder = SimpleNamespace(kind="causal", end=1, pad=0, keeps_last_logits=True, prompt_batch=lambda _: prompt())
    with pytest.raises(InputError, match=r"evaluation.answers 'options' .* MambaForCausalLM does not let it"):
        check_likelihoods(model, encoder)


def prompt():
    return {"input_ids": torch.ones(1, 3, dtype=torch.long), "attention_mask": torch.ones(1, 3, dtype=torch.long)}
