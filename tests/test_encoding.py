import pytest
import torch

from gorp.backbones import load_backbone
from gorp.encoding import IGNORED, Encoder, Row, answer_loss
from gorp.errors import InputError
from gorp.tasks import Example

LONG = Example("What is named ? the the the the the the Answer:", "red green", (16, 39))
SHORT = Example("a cat Answer:", "blue", (0, 5))


@pytest.fixture(params=["seq2seq", "causal"])
def backbone(request, tiny_models):
    return load_backbone(str(tiny_models[request.param]))


@pytest.fixture
def encoder(backbone):
    return Encoder(backbone.model, backbone.tokenizer, max_source_length=32, max_target_length=4)


def test_answers_end_and_are_cut(backbone, encoder):
    assert encoder.row(LONG).answer == (*backbone.tokenizer.convert_tokens_to_ids(["red", "green"]), 1)
    long_answer = Example("a", "red red red red red", (0, 0))
    assert len(encoder.row(long_answer).answer) == 4
    assert encoder.row(long_answer).answer[-1] == 1


def test_long_prompts_keep_question_and_cue(backbone):
    encoder = Encoder(backbone.model, backbone.tokenizer, max_source_length=9)
    text = backbone.tokenizer.decode(encoder.row(LONG).prompt, skip_special_tokens=True)
    assert text.startswith("What is named ?")
    assert text.endswith("Answer :")
    assert len(encoder.row(LONG).prompt) <= 9


def loss_of(encoder, model, rows):
    batch = encoder.training_batch(rows)
    return answer_loss(encoder.logits(model, batch), batch["labels"])


@torch.no_grad()
def test_the_loss_does_not_depend_on_the_batch(backbone, encoder):
    backbone.model.eval()
    rows = encoder.rows([LONG, SHORT])
    together = loss_of(encoder, backbone.model, rows)
    alone = sum(loss_of(encoder, backbone.model, [row]) for row in rows)
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_loss_is_that_of_transformers(backbone, encoder):
    backbone.model.eval()
    row = encoder.row(LONG)
    if encoder.kind == "seq2seq":
        inputs = {"input_ids": torch.tensor([row.prompt]), "labels": torch.tensor([row.answer])}
    else:
        ids = torch.tensor([[*row.prompt, *row.answer]])
        labels = ids.clone()
        labels[:, : len(row.prompt)] = IGNORED
        inputs = {"input_ids": ids, "labels": labels}
    expected = backbone.model(**inputs).loss * len(row.answer)
    ours = loss_of(encoder, backbone.model, [row])
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-5)


def test_logits_without_logits_to_keep_are_the_same(backbone, encoder):
    batch = encoder.training_batch(encoder.rows([LONG, SHORT]))
    backbone.model.eval()
    logits = []
    for encoder.keeps_last_logits in (True, False):
        logits.append(encoder.logits(backbone.model, batch))
    torch.testing.assert_close(*logits)


def test_causal_answers_end_together(tiny_models):
    backbone = load_backbone(str(tiny_models["causal"]))
    encoder = Encoder(backbone.model, backbone.tokenizer)
    batch = encoder.training_batch([Row((2, 5, 6), (7, 1)), Row((2,), (8, 9, 1))])
    assert batch["input_ids"].tolist() == [[2, 5, 6, 7], [0, 2, 8, 9]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1, 1], [0, 1, 1, 1]]
    assert batch["position_ids"].tolist() == [[0, 1, 2, 3], [0, 0, 1, 2]]
    assert batch["labels"].tolist() == [[IGNORED, 7, 1], [8, 9, 1]]


def test_a_tokenizer_that_cannot_end_is_refused(backbone):
    backbone.tokenizer.eos_token = None
    with pytest.raises(InputError, match="no end-of-sequence token"):
        Encoder(backbone.model, backbone.tokenizer)
