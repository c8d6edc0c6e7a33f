"""Encoders score each text against the names of its own task's labels, whatever shares the batch with it."""

import pytest
import torch
from torch.nn import functional as F
from transformers import BertConfig, BertForMaskedLM, RobertaConfig, RobertaModel

from gorp import attach
from gorp.backbones import load_backbone
from gorp.config import GORPConfig
from gorp.encoding import IGNORED, Encoder, answer_loss
from gorp.errors import GorpError, InputError
from gorp.evaluation import Evaluator
from gorp.matching import NO_OPTION, TEMPERATURE, LabelMatcher, make_encoder, most_tokens
from gorp.run import run_stream
from gorp.run_config import RunConfig
from gorp.tasks import Example, Task, TaskStream
from gorp.training import enable_checkpointing


def example(text, answer, options):
    return Example(f"{text}\nAnswer:", answer, (0, len(text)), options=options)


COLOURS, ACTS = ("red", "green", "blue"), ("runs", "red", "big small")
LONG = example("What is named ? the the that cat", "green", COLOURS)
SHORT = example("a cat", "big small", ACTS)


@pytest.fixture
def backbone(tiny_models):
    return load_backbone(str(tiny_models["encoder"]))


@pytest.fixture
def matcher(backbone):
    backbone.model.eval()
    return LabelMatcher(backbone.model, backbone.tokenizer)


def embedding_alone(backbone, text):
    inputs = backbone.tokenizer(text, return_tensors="pt")
    return F.normalize(backbone.model(**inputs).last_hidden_state[0].mean(dim=0), dim=0)


@torch.no_grad()
def test_scores_are_cosines_with_the_rows_own_options_over_the_temperature(backbone, matcher):
    batch = matcher.training_batch(matcher.rows([LONG, SHORT]))
    logits = matcher.logits(backbone.model, batch)
    classes = ["red", "green", "blue", "runs", "big small"]  # red is an option of both, and one class
    assert logits.shape == (2, 1, len(classes))
    for row, scores in zip((LONG, SHORT), logits[:, 0], strict=True):
        text = embedding_alone(backbone, row.prompt.removesuffix("\nAnswer:"))
        for label, score in zip(classes, scores, strict=True):
            cosine = text @ embedding_alone(backbone, label)
            expected = cosine / TEMPERATURE if label in row.options else torch.tensor(NO_OPTION)
            torch.testing.assert_close(score, expected, rtol=1e-4, atol=1e-4)
    assert batch["labels"].tolist() == [[1], [4]]


@torch.no_grad()
def test_the_loss_does_not_depend_on_the_batch(backbone, matcher):
    def loss(rows):
        batch = matcher.training_batch(matcher.rows(rows))
        return answer_loss(matcher.logits(backbone.model, batch), batch["labels"])

    torch.testing.assert_close(loss([LONG, SHORT]), loss([LONG]) + loss([SHORT]), rtol=1e-5, atol=1e-5)


def test_an_answer_that_is_no_option_is_not_learnt(matcher):
    batch = matcher.training_batch(matcher.rows([example("a cat", "runs", COLOURS), SHORT]))
    assert batch["labels"].tolist() == [[IGNORED], [4]]


def test_a_divergence_between_scores_is_finite(backbone, matcher):
    """What a method that distils computes; with minus infinity for what is no option it would be NaN."""
    batch = matcher.training_batch(matcher.rows([LONG, SHORT]))
    student = F.log_softmax(matcher.logits(backbone.model, batch) / 2, dim=-1)
    teacher = F.log_softmax(matcher.logits(backbone.model, batch).detach() / 3, dim=-1)
    divergence = F.kl_div(student, teacher, reduction="sum", log_target=True)
    divergence.backward()
    assert divergence > 0
    weight = backbone.model.encoder.layer[0].attention.self.query.weight
    assert weight.grad.isfinite().all() and weight.grad.any()


@torch.no_grad()
def test_what_a_method_puts_before_a_text_is_not_put_before_the_names(backbone, matcher):
    batch = matcher.training_batch(matcher.rows([LONG, SHORT]))
    virtual = torch.full((2, 3), 7)
    prompted = {
        **batch,
        "input_ids": torch.cat([virtual, batch["input_ids"]], dim=1),
        "attention_mask": torch.cat([torch.ones_like(virtual), batch["attention_mask"]], dim=1),
    }
    lengths = []
    handle = backbone.model.register_forward_pre_hook(
        lambda _, __, inputs: lengths.append(inputs["input_ids"].shape), with_kwargs=True
    )
    logits = matcher.logits(backbone.model, prompted)
    handle.remove()
    assert lengths == [(2, batch["input_ids"].shape[1] + 3), batch["option_ids"].shape]
    assert not torch.allclose(logits, matcher.logits(backbone.model, batch))
    prompted["attention_mask"] = torch.ones(2, 70, dtype=torch.long)
    with pytest.raises(InputError, match=r"takes 70 tokens .* the model 64: lower training.max_source_length by 6"):
        matcher.logits(backbone.model, prompted)


def test_answers_keep_their_order_at_any_batch_size(backbone, matcher, tiny_stream):
    examples = [row for task in TaskStream.from_yaml(tiny_stream) for row in task.test]
    answers = [Evaluator(backbone.model, matcher, size).predict(examples) for size in (1, 4, 64)]
    assert answers[0] == answers[1] == answers[2]
    assert len(set(answers[0])) > 3  # a random model, but not one that says the same to every text of a task
    assert all(answer in row.options for answer, row in zip(answers[0], examples, strict=True))


@torch.no_grad()
def test_the_answer_is_the_option_of_the_highest_score(backbone, matcher, tiny_stream):
    examples = TaskStream.from_yaml(tiny_stream)[1].test
    batch = matcher.training_batch(matcher.rows(examples))
    best = matcher.logits(backbone.model, batch)[:, 0].argmax(dim=1)
    assert Evaluator(backbone.model, matcher).predict(examples) == [examples[0].options[index] for index in best]


def test_outputs_that_are_not_finite_are_no_answers(backbone, matcher, tiny_stream):
    backbone.model.get_input_embeddings().register_forward_hook(lambda module, args, output: output * torch.nan)
    with pytest.raises(GorpError, match="outputs are not finite"):
        Evaluator(backbone.model, matcher).predict(TaskStream.from_yaml(tiny_stream)[0].test[:3])


def test_the_gradient_at_padding_is_zero(backbone, matcher):
    """So that padding is none of the tokens that a layer's memory counts."""
    seen = []
    for part in ("attention.self.query", "attention.self.value", "intermediate.dense"):
        layer = backbone.model.get_submodule(f"encoder.layer.0.{part}")
        layer.register_forward_hook(lambda _, __, output: output.register_hook(seen.append) and None)
    batch = matcher.training_batch(matcher.rows([LONG, SHORT]))
    answer_loss(matcher.logits(backbone.model, batch), batch["labels"]).backward()
    sizes = [grad.norm(dim=-1) for grad in seen if grad.shape[:2] == batch["input_ids"].shape]
    assert len(sizes) == 3
    for size in sizes:
        assert torch.equal(size > 0, batch["attention_mask"].bool())


def test_checkpointing_gives_the_same_gradients(tiny_models):
    gradients = []
    for checkpointing in (False, True):
        model = load_backbone(str(tiny_models["encoder"])).model
        targets = {"lora_targets": ["attention.self.query"], "full_rank_targets": ["intermediate.dense"], "rank": 2}
        attach(model, GORPConfig.model_validate({**targets, "memory": "weighted_features"}))
        if checkpointing:
            enable_checkpointing(model)
        matcher = LabelMatcher(model, load_backbone(str(tiny_models["encoder"])).tokenizer)
        model.train()
        torch.manual_seed(0)
        batch = matcher.training_batch(matcher.rows([LONG, SHORT]))
        answer_loss(matcher.logits(model, batch), batch["labels"]).backward()
        gradients.append({name: value.grad for name, value in model.named_parameters() if value.requires_grad})
    assert any(grad.any() for grad in gradients[0].values())
    for name, grad in gradients[0].items():
        torch.testing.assert_close(grad, gradients[1][name], rtol=1e-4, atol=1e-6)


def test_a_task_of_free_answers_is_refused_before_anything_is_scored(tiny_models, tiny_stream, tmp_path, matcher):
    free = Task("story", [Example("a cat", "sings far", (0, 0))], [], [])
    message = r"task 'story' has no list of labels, and an encoder can only choose among labels; accepted: "
    config = RunConfig.from_mapping({"model": str(tiny_models["encoder"]), "gorp": {"rank": 2}})
    with pytest.raises(InputError, match=message):
        run_stream(config, tmp_path, [*TaskStream.from_yaml(tiny_stream), free])
    assert not list(tmp_path.glob("task-*"))
    with pytest.raises(InputError, match=r"a row has none; .* The prompt ends: 'a cat'"):
        matcher.row(free.train[0])


def test_labels_that_are_the_same_to_the_model_are_refused(matcher):
    with pytest.raises(InputError, match="task 't': options 'here' and 'there' are the same in token ids"):
        matcher.check(Task("t", [example("a cat", "here", ("here", "there"))], [], []))  # both unknown


def test_texts_are_cut_to_the_models_positions(backbone):
    long = example("the " * 100, "red", COLOURS)
    assert len(LabelMatcher(backbone.model, backbone.tokenizer, 512).row(long).prompt) == 64
    assert len(LabelMatcher(backbone.model, backbone.tokenizer, 20).row(long).prompt) == 20
    roberta = RobertaModel(
        RobertaConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    )
    most = most_tokens(roberta)
    roberta(input_ids=torch.full((1, most), 5))
    with pytest.raises((IndexError, RuntimeError)):
        roberta(input_ids=torch.full((1, most + 1), 5))


def test_the_encoder_fits_the_model(tiny_models, backbone):
    assert type(make_encoder(backbone.model, backbone.tokenizer, 32, 4)) is LabelMatcher
    causal = load_backbone(str(tiny_models["causal"]))
    assert type(make_encoder(causal.model, causal.tokenizer, 32, 4)) is Encoder
    masked = BertForMaskedLM(
        BertConfig(vocab_size=8, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    )
    with pytest.raises(InputError, match=r"BertForMaskedLM is an encoder with a head; accepted: .* BertModel "):
        LabelMatcher(masked, backbone.tokenizer)
    backbone.tokenizer.pad_token = None
    with pytest.raises(InputError, match="no padding token"):
        LabelMatcher(backbone.model, backbone.tokenizer)
