"""General text as rows of a model's own pretraining objective."""

import json

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from gorp.backbones import load_backbone
from gorp.encoding import IGNORED, Row
from gorp.errors import GorpError, InputError
from gorp.general_text import corrupt_spans, pretraining_rows, read_texts, sentinel_ids, text_loss
from gorp.matching import make_encoder

SENTINELS = tuple(range(900, 932))
TEXT = (
    "the a this that one some red green blue cat dog bird fish sings runs sleeps eats near far old new big the cat eats"
)


@pytest.fixture
def loaded(tiny_pretrained):
    """A kind's model and encoder."""

    def load(kind):
        backbone = load_backbone(str(tiny_pretrained[kind]))
        return backbone.model.eval(), make_encoder(backbone.model, backbone.tokenizer, 64, 8)

    return load


def put_back(row):
    """The text that a corrupted row was made of."""
    spans, place = {}, None
    for token in row.answer[:-1]:
        if token in SENTINELS:
            place = spans.setdefault(token, [])
        else:
            place.append(token)
    return [token for part in row.prompt[:-1] for token in spans.get(part, [part])]


@pytest.mark.parametrize("length", [2, 3, 8, 20, 100, 512])
def test_what_is_cut_out_fits_back_in(length):
    tokens = list(range(1, length + 1))
    row = corrupt_spans(tokens, SENTINELS, 0, np.random.default_rng(length))
    assert put_back(row) == tokens
    assert row.prompt[-1] == row.answer[-1] == 0
    used = [token for token in row.prompt if token in SENTINELS]
    assert used == list(SENTINELS[: len(used)]) == [token for token in row.answer if token in SENTINELS]
    cut = len(row.answer) - 1 - len(used)
    assert cut == max(1, round(0.15 * length))
    assert len(used) == min(max(1, round(cut / 3)), len(SENTINELS))
    assert row.prompt[0] == 1, "the text begins with what is kept"
    assert row.prompt[-2] in SENTINELS, "and ends with what is not"


def test_spans_are_a_matter_of_the_seed(loaded):
    _, encoder = loaded("seq2seq")
    once, again, other = (pretraining_rows(encoder, [f"{TEXT} {TEXT}"] * 3, 64, seed) for seed in (0, 0, 1))
    assert once == again != other
    assert len({row.prompt for row in once}) > 1, "each text has its own"


def test_no_more_spans_than_sentinels():
    row = corrupt_spans(list(range(1, 201)), (900, 901), 0, np.random.default_rng(0))
    assert [token for token in row.answer if token >= 900] == [900, 901]


def test_a_causal_model_tells_every_token_after_the_opening(loaded):
    _, encoder = loaded("causal")
    ids = tuple(encoder.tokenizer(TEXT, add_special_tokens=False)["input_ids"])
    long, rest = pretraining_rows(encoder, [TEXT], 16)
    assert long == Row((2,), ids[:16])
    assert rest == Row((2,), ids[16:])


def test_a_causal_tokenizer_without_an_opening(loaded):
    _, encoder = loaded("causal")
    encoder.tokenizer.bos_token = None
    encoder.tokenizer.backend_tokenizer.post_processor = None
    (row,) = pretraining_rows(encoder, [TEXT], 64)
    assert (*row.prompt, *row.answer) == tuple(encoder.tokenizer(TEXT)["input_ids"])
    assert len(row.prompt) == 1


def test_an_encoder_sees_the_beginning_of_a_text(loaded):
    _, encoder = loaded("encoder")
    (row,) = pretraining_rows(encoder, [TEXT], 12)
    assert (row.prompt[0], row.prompt[-1], len(row.prompt), row.answer) == (2, 1, 12, ())


def test_short_texts_are_left_out_and_nothing_else_is_refused(loaded):
    _, encoder = loaded("causal")
    assert len(pretraining_rows(encoder, ["red cat", TEXT], 64)) == 1
    with pytest.raises(InputError, match=r"g\.jsonl: no text has 8 tokens or more"):
        pretraining_rows(encoder, ["red cat"], 64, source="g.jsonl")


def test_a_model_that_was_not_pretrained_by_spans_is_refused(tiny_models):
    with pytest.raises(InputError, match="no sentinels"):
        sentinel_ids(load_backbone(str(tiny_models["seq2seq"])).tokenizer)


@pytest.mark.parametrize("kind", ["seq2seq", "causal"])
def test_the_loss_is_the_mean_over_answer_tokens(kind, loaded):
    model, encoder = loaded(kind)
    rows = pretraining_rows(encoder, [TEXT, TEXT[30:70]], 64)
    total, tokens = 0.0, 0
    for row in rows:
        answer = torch.tensor([row.answer])
        if kind == "seq2seq":
            logits = model(input_ids=torch.tensor([row.prompt]), labels=answer).logits
        else:
            logits = model(input_ids=torch.tensor([(*row.prompt, *row.answer)])).logits[:, :-1]
        total += float(F.cross_entropy(logits[0].detach(), answer[0], reduction="sum"))
        tokens += len(row.answer)
    assert text_loss(model, encoder, rows, batch_size=2) == pytest.approx(total / tokens, rel=1e-5)
    assert text_loss(model, encoder, rows, batch_size=1) == pytest.approx(total / tokens, rel=1e-5)
    assert IGNORED not in rows[0].answer


def test_a_loss_that_is_not_finite_is_told(loaded):
    model, encoder = loaded("causal")
    model.lm_head.weight.data[0, 0] = torch.nan
    with pytest.raises(GorpError, match="not finite"):
        text_loss(model, encoder, pretraining_rows(encoder, [TEXT], 64))


def test_an_encoder_has_no_loss(loaded):
    model, encoder = loaded("encoder")
    with pytest.raises(InputError, match="encoder without a head"):
        text_loss(model, encoder, pretraining_rows(encoder, [TEXT], 64))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("g.jsonl", "".join(json.dumps({"text": text}) + "\n" for text in ("one", "two"))),
        ("g.csv", "text,other\none,1\ntwo,2\n"),
        ("g.txt", "one\n\n\n two\n"),
    ],
)
def test_texts_are_read(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    assert read_texts(tmp_path / name) == ["one", "two"]


def test_another_column(tmp_path):
    (tmp_path / "g.jsonl").write_text('{"body": "one"}\n')
    assert read_texts(tmp_path / "g.jsonl", "body") == ["one"]


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("g.jsonl", "", "g.jsonl: holds no rows"),
        ("g.txt", " \n\n", "g.txt: holds no text"),
        ("g.txt", None, "cannot be read"),
        ("g.jsonl", None, "no such file"),
        ("g.doc", "x", "accepted: .txt, .jsonl"),
        ("g.jsonl", '{"txt": "a"}\n', r"g.jsonl:1: has no column 'text' \(did you mean 'txt'\?\); columns: txt"),
        ("g.jsonl", '{"text": "a"}\n{"text": " "}\n', "g.jsonl:2: column 'text' must be a text"),
        ("g.jsonl", '{"text": 3}\n', "g.jsonl:1: column 'text' must be a text"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, name, content, problem):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=problem):
        read_texts(tmp_path / name)
