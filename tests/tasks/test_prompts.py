"""Prompts are the benchmark's byte for byte; a long one loses its passage, never its question or its cue."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from gorp.errors import InputError
from gorp.tasks.prompts import (
    KEPT_PROMPT_END,
    Template,
    encode,
    messages_example,
    prompt_example,
    without_options,
)
from gorp.tasks.task import Example


@pytest.fixture(scope="module")
def byte_tokenizer():
    """A token a byte and no special tokens, so that lengths can be counted by hand."""
    alphabet = {character: index for index, character in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    tokenizer = Tokenizer(models.BPE(vocab={**alphabet, "</s>": 256, "<s>": 257}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


@pytest.fixture
def seq2seq(byte_tokenizer):
    byte_tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 256)])
    return PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer, eos_token="</s>")


@pytest.fixture
def causal(byte_tokenizer):
    byte_tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 257)])
    return PreTrainedTokenizerFast(tokenizer_object=byte_tokenizer, bos_token="<s>", eos_token="</s>")


QUESTION = Template(
    "Is it true?\n", ("False", "True"), passage=r"(?s)paragraph: (.*)\nquestion: .*\ncandidate answer: .*"
)
TEXT = "paragraph: a stream slows down here \nquestion: When is\n it?\ncandidate answer: never"


def test_the_prompt_is_the_benchmarks():
    example = QUESTION.example(TEXT, "False")
    assert example.prompt == f"Is it true?\nOption: False, True \n{TEXT}\nAnswer:"
    start, end = example.truncatable
    assert example.prompt[start:end] == "a stream slows down here "


def test_without_options_and_instruction_the_text_stands_alone():
    assert Template().example("t", "A").prompt == "t\nAnswer:"
    assert Template("Say.").example("t", "A").prompt == "Say.\nt\nAnswer:"


def test_a_header_comes_first():
    example = Template("I\n", ("A",), header="Task:TC\nDataset:agnews\n").example("t", "A")
    assert example.prompt == "Task:TC\nDataset:agnews\nI\nOption: A \nt\nAnswer:"
    assert example.prompt[slice(*example.truncatable)] == "t"


def test_by_default_the_whole_text_may_be_cut_but_not_its_last_line_break():
    example = Template("I\n", ("A",)).example("Title: x\nText: y\n", "A")
    assert example.prompt[slice(*example.truncatable)] == "Title: x\nText: y"
    assert example.prompt.endswith("y\n\nAnswer:")


def test_of_two_sentences_the_longer_may_be_cut():
    pair = Template("", ("A",), passage=r"first: (.*)\nsecond: (.*)")
    for text, longer in (("first: long one\nsecond: b", "long one"), ("first: a\nsecond: longer", "longer")):
        example = pair.example(text, "A")
        assert example.prompt[slice(*example.truncatable)] == longer


def test_where_the_passage_is_not_found_nothing_may_be_cut():
    start, end = QUESTION.example("another text", "False").truncatable
    assert start == end


def test_options_given_apart_are_taken_out_and_the_text_stays():
    text = "Option: False, True \nparagraph: a stream \nquestion: Is\nit?\ncandidate answer: Answer:"
    example = replace(QUESTION.example(text, "False"), options=QUESTION.labels)
    bare = without_options(example)
    assert bare.prompt == f"Is it true?\n{text}"
    template = Template("Is it true?\n", ("False", "True"), header="Dataset:x\n")
    example = replace(template.example(text, "False"), options=template.labels)
    bare = without_options(example)
    assert bare.prompt == f"Dataset:x\nIs it true?\n{text}"
    assert bare.prompt[slice(*bare.truncatable)] == example.prompt[slice(*example.truncatable)] == text


def test_a_prompt_that_lists_no_options_loses_its_cue_alone():
    unlisted = replace(Template("Q\n").example("Option: A \ntext", "A"), options=("A",))
    assert without_options(unlisted).prompt == "Q\nOption: A \ntext"
    ready = replace(prompt_example("short", "A"), options=("A",))
    assert without_options(ready) == ready


@pytest.mark.parametrize("tokenizer", ["seq2seq", "causal"])
@pytest.mark.parametrize("longest", [87, 88, 95, 100, 101, 1000, None])
def test_only_the_passage_is_cut(request, tokenizer, longest):
    tokenizer = request.getfixturevalue(tokenizer)
    example = QUESTION.example("paragraph: " + "word " * 200 + "\nquestion: q\ncandidate answer: c", "False")
    start, end = example.truncatable
    ids = encode(example, tokenizer, longest)
    text = tokenizer.decode(ids, skip_special_tokens=True)
    assert longest is None or len(ids) <= longest
    assert text.startswith(example.prompt[:start])
    assert text.endswith(example.prompt[end:])
    kept = text[start : len(text) - len(example.prompt[end:])]
    assert example.prompt[start:end].startswith(kept)
    if longest in (95, 100, 101):
        assert kept.split() == ["word"] * len(kept.split())  # no part of a word
        assert len(ids) > longest - len("word ")  # and no more is lost than that


def test_special_tokens_stand_where_the_model_expects_them(seq2seq, causal):
    example = QUESTION.example(TEXT, "False")
    for longest in (110, 1000):
        assert encode(example, seq2seq, longest)[-1] == seq2seq.eos_token_id
        assert encode(example, causal, longest)[0] == causal.bos_token_id
        assert causal.eos_token_id not in encode(example, causal, longest)


def test_a_prompt_that_fits_is_left_alone(seq2seq):
    example = QUESTION.example(TEXT, "False")
    length = len(example.prompt) + 1
    assert encode(example, seq2seq, length) == encode(example, seq2seq, None)
    assert len(encode(example, seq2seq, length - 1)) < length


def test_a_passage_without_blanks_is_cut_anyway(seq2seq):
    example = Template("", ("A",)).example("x" * 300, "A")
    assert len(encode(example, seq2seq, 100)) == 100


def test_a_question_that_does_not_fit_is_an_error(seq2seq):
    example = QUESTION.example(TEXT, "False")
    with pytest.raises(
        InputError, match=r"takes 100 tokens without .* max_source_length is 40: raise it to 100"
    ) as error:
        encode(example, seq2seq, 40)
    assert "never" in str(error.value)


def test_the_end_of_a_ready_prompt_is_kept(seq2seq):
    prompt = "context " * 200 + "q" * KEPT_PROMPT_END
    text = seq2seq.decode(encode(prompt_example(prompt, "c"), seq2seq, 600), skip_special_tokens=True)
    assert text.startswith("context context")
    assert text.endswith(prompt[-KEPT_PROMPT_END:])


TURNS = (("system", "Be brief."), ("user", "story " * 100), ("user", "What is it about?"))


def test_messages_without_a_chat_template(seq2seq):
    example = messages_example(TURNS, "a story")
    text = seq2seq.decode(encode(example, seq2seq, 200), skip_special_tokens=True)
    assert text.startswith("system: Be brief.\nuser: story story")
    assert text.endswith("story\nuser: What is it about?\nassistant:") and len(text) < 200


def test_messages_with_a_chat_template(causal):
    causal.chat_template = (
        "<s>{% for m in messages %}[{{ m.role }}]{{ m.content | trim }}\n{% endfor %}"
        "{% if add_generation_prompt %}[assistant]{% endif %}"
    )
    whole = encode(messages_example(TURNS[::2], "a story"), causal, None)
    assert causal.decode(whole) == "<s>[system]Be brief.\n[user]What is it about?\n[assistant]"
    turns = (("system", "Be brief."), ("user", ("story " * 100).strip()), ("user", "What is it about?"))
    ids = encode(messages_example(turns, "a story"), causal, 150)
    text = causal.decode(ids)
    assert len(ids) <= 150 and ids.count(causal.bos_token_id) == 1
    assert text.startswith("<s>[system]Be brief.\n[user]story story")
    assert text.endswith("story\n[user]What is it about?\n[assistant]")


def test_a_single_long_turn_keeps_its_end(seq2seq):
    content = "story " * 200 + "e" * KEPT_PROMPT_END
    ids = encode(messages_example((("user", content),), "a"), seq2seq, 700)
    assert seq2seq.decode(ids, skip_special_tokens=True).endswith("e" * KEPT_PROMPT_END + "\nassistant:")


@pytest.mark.skipif("GORP_T5_MINI" not in os.environ, reason="needs $GORP_T5_MINI, a small pretrained T5")
def test_a_sentencepiece_like_tokenizer_keeps_question_and_cue():
    tokenizer = AutoTokenizer.from_pretrained(Path(os.environ["GORP_T5_MINI"]))
    example = QUESTION.example("paragraph: " + "It rained. " * 300 + "\nquestion: Why?\ncandidate answer: rain", "True")
    for longest in range(60, 80):
        ids = encode(example, tokenizer, longest)
        assert longest - 6 <= len(ids) <= longest
        text = tokenizer.decode(ids, skip_special_tokens=True)
        assert "".join(text.split()).endswith("question:Why?candidateanswer:rainAnswer:")


def test_examples_are_immutable():
    with pytest.raises(AttributeError):
        Example("p", "a", (0, 0)).prompt = "other"  # type: ignore[misc]
