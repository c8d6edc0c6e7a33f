"""Tiny models, tokenizers and streams, made on the spot: nothing is downloaded and nothing takes long."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("ACCELERATE_USE_CPU", "true")  # with a GPU at hand, too: what it does test_devices.py tells

import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    T5Config,
    T5ForConditionalGeneration,
)

from gorp.run_config import RunConfig

_TEXT = """
    the a this that one some red green blue cat dog bird fish sings runs sleeps eats near far old new big small
    What is named ? Choose from option . Option : , Answer colour animal act yes no
"""
WORDS = _TEXT.split()
TASKS = {
    "colour": ("red", "green", "blue"),
    "animal": ("cat", "dog", "bird"),
    "act": ("runs", "sleeps", "eats"),
}


def make_tokenizer(kind: str) -> PreTrainedTokenizerBase:
    """One token a word; seq2seq prompts close with </s>, causal ones open with <s>, an encoder's texts do both."""
    vocabulary = {word: index for index, word in enumerate(["<pad>", "</s>", "<s>", "<unk>", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    single = {"seq2seq": "$A </s>", "causal": "<s> $A", "encoder": "<s> $A </s>"}[kind]
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("</s>", 1), ("<s>", 2)])
    first, last = ("cls_token", "sep_token") if kind == "encoder" else ("bos_token", "eos_token")
    special = {"pad_token": "<pad>", "unk_token": "<unk>", first: "<s>", last: "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def make_model(kind: str) -> PreTrainedModel:
    """A random T5, LLaMA (with grouped-query attention) or BERT of a few thousand weights."""
    torch.manual_seed(1)
    size = len(WORDS) + 4
    if kind == "seq2seq":
        model = T5ForConditionalGeneration(
            T5Config(
                vocab_size=size,
                d_model=32,
                d_kv=8,
                d_ff=64,
                num_layers=2,
                num_heads=4,
                dropout_rate=0.1,
                tie_word_embeddings=False,
                decoder_start_token_id=0,
                pad_token_id=0,
                eos_token_id=1,
            )
        )
        with torch.no_grad():
            for block in model.decoder.block:  # answers of a random model depend on the prompt
                block.layer[1].EncDecAttention.o.weight.mul_(30)
        return model
    if kind == "encoder":
        return BertModel(
            BertConfig(
                vocab_size=size,
                hidden_size=32,
                intermediate_size=64,
                num_hidden_layers=2,
                num_attention_heads=4,
                max_position_embeddings=64,
                initializer_range=0.3,
                pad_token_id=0,
            )
        )
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=size,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            pad_token_id=0,
            eos_token_id=1,
            bos_token_id=2,
            attention_dropout=0.1,
        )
    )


def write_stream(folder: Path, train_rows: int = 24, test_rows: int = 9) -> Path:
    """Three tasks, told apart by their instruction, over the same texts; returns the stream's YAML file."""
    generator = random.Random(0)
    entries = []
    for name, labels in TASKS.items():
        for part, count in (("train", train_rows), ("test", test_rows)):
            rows = []
            for number in range(count):
                words = [generator.choice(choice) for choice in TASKS.values()]
                noise = generator.choices(WORDS[:6], k=2 + number % 5)
                rows.append({"text": " ".join([*noise, *words]), "label": words[list(TASKS).index(name)]})
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (folder / f"{name}-{part}.jsonl").write_text(lines)
        entries.append(
            f"  - {{name: {name}, path: {name}-train.jsonl, test: {name}-test.jsonl, labels: [{', '.join(labels)}], "
            f'instruction: "What {name} is named ? Choose one from the option ."}}\n'
        )
    path = folder / "stream.yaml"
    path.write_text("name: tiny\nvalidation_rows: 4\ntasks:\n" + "".join(entries))
    return path


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Folders of a tiny model of each kind, as ``from_pretrained`` reads them."""
    folders = {}
    for kind in ("seq2seq", "causal", "encoder"):
        folders[kind] = tmp_path_factory.mktemp(kind)
        make_model(kind).save_pretrained(folders[kind])
        make_tokenizer(kind).save_pretrained(folders[kind])
    return folders


@pytest.fixture(scope="session")
def tiny_pretrained(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The same models, with what their pretraining would have needed: T5's sentinels, eight of them."""
    folder = tmp_path_factory.mktemp("sentinels")
    model, tokenizer = make_model("seq2seq"), make_tokenizer("seq2seq")
    tokenizer.add_tokens([f"<extra_id_{number}>" for number in range(8)], special_tokens=True)
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return {**tiny_models, "seq2seq": folder}


@pytest.fixture(scope="session")
def general_text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of texts that no task is made of."""
    generator = random.Random(5)
    lines = [json.dumps({"text": " ".join(generator.choices(WORDS, k=20))}) + "\n" for _ in range(12)]
    path = tmp_path_factory.mktemp("general") / "general.jsonl"
    path.write_text("".join(lines))
    return path


@pytest.fixture(scope="session")
def tiny_stream(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The YAML file of a stream of three small tasks."""
    return write_stream(tmp_path_factory.mktemp("stream"))


@pytest.fixture(scope="session")
def forgetful(tmp_path_factory: pytest.TempPathFactory, tiny_models: dict[str, Path]) -> dict[str, object]:
    """Settings of a run that forgets each task wholly as it learns the next."""
    stream = write_stream(tmp_path_factory.mktemp("forgetful"), train_rows=64, test_rows=40)
    return {
        "method": "seq-lora",
        "model": str(tiny_models["seq2seq"]),
        "stream": str(stream),
        "training": {"epochs": 6, "lr": 0.03, "batch_size": 8},
        "lora": {"rank": 4},
        "data": {"test_rows": 40, "validation_rows": 4},
    }


@pytest.fixture(scope="session")
def assert_same_run() -> Callable[[Path, Path], None]:
    """Asserts that two run folders have the same files, tensors and record, but for times and where they are."""
    from gorp.report.record import RunRecord

    def compare(found: Path, expected: Path) -> None:
        one, other = (RunRecord.load(folder).comparable() for folder in (found, expected))
        assert one == other
        left_out = {"run.lock", "report.html"}
        names = [
            sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.name not in left_out)
            for folder in (found, expected)
        ]
        assert names[0] == names[1]
        for name in names[1]:
            if name.endswith(".safetensors"):
                tensors, theirs = load_file(found / name), load_file(expected / name)
                assert tensors.keys() == theirs.keys()
                assert all(torch.equal(value.nan_to_num(), theirs[key].nan_to_num()) for key, value in tensors.items())

    return compare


@pytest.fixture(scope="session")
def short_run(tiny_models: dict[str, Path], tiny_stream: Path) -> RunConfig:
    """A run of seconds: gorp on a tiny T5, two steps a task."""
    return RunConfig.from_mapping(
        {
            "model": str(tiny_models["seq2seq"]),
            "stream": str(tiny_stream),
            "training": {"epochs": 1, "lr": 0.01, "batch_size": 6},
            "gorp": {"rank": 2, "refresh_every": 2},
            "data": {"train_rows": 12, "test_rows": 6, "validation_rows": 4},
        }
    )
