import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gorp.backbones import load_backbone
from gorp.encoding import IGNORED, Encoder, Row, answer_loss
from gorp.errors import InputError
from gorp.tasks import Example, Task

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


def test_a_causal_answer_follows_a_blank_that_the_prompt_ends_in(tmp_path):
    """With a tokenizer of bytes, where a blank is a token."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=alphabet[0])
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    encoder = Encoder(LlamaForCausalLM(LlamaConfig(vocab_size=len(alphabet), **size)), fast)
    for prompt, whole in [("Answer:", "Answer: yes"), ("def f():\n    ", "def f():\n    yes"), ("A: ", "A: yes")]:
        row = encoder.row(Example(prompt, "yes", (0, 0)))
        assert fast.decode([*row.prompt, *row.answer[:-1]]) == whole
        assert encoder.option_ids(Example(prompt, "yes", (0, 0), options=("yes",))) == (row.answer,)


def test_a_padding_token_that_the_model_lacks_is_not_used(backbone):
    backbone.tokenizer.add_special_tokens({"pad_token": "<added>"})
    assert Encoder(backbone.model, backbone.tokenizer).pad == backbone.tokenizer.eos_token_id


def test_free_answers_that_are_cut_are_told(encoder):
    answers = [Example("a", "red " * words, (0, 0)) for words in (3, 4, 6)]
    label = Example("a", "red red red red", (0, 0), options=("red red red red",))
    assert encoder.cut_answers(Task("t", [*answers, label], [], answers)) == [5, 7]


def test_labels_that_would_be_cut_are_refused(encoder):
    whole = Example("a", "red red red", (0, 0), options=("red red red", "red"))
    encoder.check(Task("t", [whole], [], []))
    cut = Example("a", "red", (0, 0), options=("red red red red", "red"))
    with pytest.raises(
        InputError, match=r"task 't': the answer 'red red red red' takes 5 tokens .* accepted: 5 or more"
    ):
        encoder.check(Task("t", [], [], [cut]))
    alike = Example("a", "red", (0, 0), options=("red", "red "))
    with pytest.raises(InputError, match=r"task 't': options 'red' and 'red ' are the same in token ids"):
        encoder.check(Task("t", [], [], [alike]))


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
