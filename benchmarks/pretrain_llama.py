"""Pretrain a tiny LLaMA on the benchmark's texts and on questions, to be protected by `protection.py --causal`.

    python benchmarks/pretrain_llama.py --data DIR --tokenizer MODEL --out FOLDER

Half of a batch is running text: the training texts of all data sets of the folder, joined by the end-of-text token and
cut into pieces, every fourth of which says one thing twice, so that copying is learnt. The other half are questions
with options, as the benchmark asks them, without which so small a model cannot be taught a task through LoRA: those of
the long orders' tasks but for reviews and topics, of which order 1 is made (UNASKED), and made ones, which word stands
in a text and which is missing from it. No label of order 1 is seen. The tokenizer is a T5's, so that the same pieces of
words are told.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import random
import re
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path

import torch
from tokenizers import processors
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from gorp.encoding import Encoder, Row
from gorp.errors import InputError
from gorp.tasks.benchmarks import benchmark_tasks
from gorp.tasks.prompts import Template
from gorp.tasks.task import Example

LENGTH, ROWS = 128, 32
RATE = 3e-3
ANSWER = 8.0  # how much a token of an answer counts beside one of a text
UNASKED = ("amazon", "yelp", "IMDB", "dbpedia", "yahoo", "agnews")
WORD = re.compile(r"[A-Za-z]{4,}")


def texts(data: Path) -> list[str]:
    """Every training text of the folder, once."""
    found: dict[str, None] = {}
    for path in sorted(data.glob("*/*/train.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as file:
            found |= dict.fromkeys(json.loads(line)["text"] for line in file)
    chosen = list(found)
    random.Random(0).shuffle(chosen)
    return chosen


def causal_tokenizer(source: str) -> PreTrainedTokenizerFast:
    """A T5's tokenizer, that ends no text; the end-of-text token opens one, too."""
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=AutoTokenizer.from_pretrained(source).backend_tokenizer,
        pad_token="<pad>", eos_token="</s>", unk_token="<unk>", bos_token="</s>",
    )  # fmt: skip
    end = ("</s>", tokenizer.eos_token_id)
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(single="</s> $A", special_tokens=[end])
    return tokenizer


def asked(data: Path) -> Iterator[Example]:
    """Questions of the benchmark's tasks, for ever."""
    tasks = [task for task in benchmark_tasks("long/6", data) if task.name not in UNASKED]
    chance = random.Random(1)
    while True:
        yield chance.choice(chance.choice(tasks).train)


def made(lines: list[str]) -> Iterator[Example]:
    """Which word stands in the text, which is missing from it, among two to fourteen, for ever."""
    chance = random.Random(2)
    while True:
        text, *others = (" ".join(line.split()[: chance.randint(10, 40)]) for line in chance.sample(lines, 15))
        words = sorted(set(WORD.findall(text)))
        wrong = [chance.choice(found) for found in map(WORD.findall, others) if found]
        if len(words) < 5 or not (wrong := [word for word in dict.fromkeys(wrong) if word not in words]):
            continue
        word = chance.choice(words)
        options = [word, *wrong[: chance.randint(1, 13)]]
        chance.shuffle(options)
        missing = chance.random() < 0.5
        instruction = f"Which word {'is missing from' if missing else 'stands in'} the following paragraph? "
        template = Template(f"{instruction}Choose one from the option.\n", tuple(options))
        yield template.example(re.sub(rf"\b{word}\b", "_", text) if missing else text, word)


def fitting(encoder: Encoder, questions: Iterator[Example]) -> Iterator[Row]:
    """The questions in token ids, but for those that are too long."""
    for question in questions:
        with suppress(InputError):
            yield encoder.row(question)


def pieces(tokenizer: PreTrainedTokenizerFast, lines: list[str]) -> Iterator[list[int]]:
    """Running text, LENGTH tokens at a time, for ever."""
    waiting: list[int] = []
    while True:
        for first in range(0, len(lines), 256):
            for ids in tokenizer(lines[first : first + 256], verbose=False)["input_ids"]:
                waiting += ids
            while len(waiting) >= LENGTH:
                yield waiting[:LENGTH]
                waiting = waiting[LENGTH:]


def batches(encoder: Encoder, data: Path) -> Iterator[tuple[Tensor, Tensor]]:
    """Token ids and how much each counts, both (ROWS, LENGTH), for ever."""
    lines = texts(data)
    running = pieces(encoder.tokenizer, lines)
    questions = (fitting(encoder, asked(data)), fitting(encoder, made(lines)))
    while True:
        ids = torch.full((ROWS, LENGTH), encoder.pad)
        weights = torch.zeros(ROWS, LENGTH)
        for row in range(ROWS):
            if row % 2:
                example = next(questions[row // 2 % 2])
                whole = torch.tensor(example.prompt + example.answer)
                ids[row, : len(whole)], weights[row, : len(whole)] = whole, ANSWER
                weights[row, : len(example.prompt)] = 1
            else:
                piece = next(running)
                ids[row], weights[row] = torch.tensor(piece[: LENGTH // 2] * 2 if row % 8 == 0 else piece), 1
        yield ids, weights


def told(model: LlamaForCausalLM, ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Losses of the tokens after the first, (ROWS, LENGTH - 1), and whether each row's answer is told, (ROWS,)."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1].transpose(1, 2)
    losses = torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:], reduction="none")
    return losses, ((logits.argmax(1) == ids[:, 1:]) | (weights[:, 1:] != ANSWER)).all(1)


def train(model: LlamaForCausalLM, rows: Iterator[tuple[Tensor, Tensor]], steps: int, out: Path) -> None:
    """AdamW under bf16, the rate warmed up and let down; saved every thousand steps and at the end."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    forward = torch.compile(told)
    seen: list[Tensor] = []
    for step, (ids, weights) in enumerate(islice(rows, steps), start=1):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, step / 100) * (0.05 + 0.95 * (1 + math.cos(math.pi * step / steps)) / 2)
        with torch.autocast("cpu", torch.bfloat16):
            losses, right = forward(model, ids, weights)
        ((losses * weights[:, 1:]).sum() / weights[:, 1:].sum()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        seen.append(torch.stack([losses[2::8].detach().mean(), right[1::4].float().mean(), right[3::4].float().mean()]))
        if step % 50 == 0:
            text, own, made_up = torch.stack(seen).mean(0).tolist()
            seen.clear()
            print(
                f"step {step}, {step * ROWS * LENGTH / 1e6:.1f}M tokens: loss on text {text:.3f}, answered "
                f"{own:.0%} of the benchmark's questions, {made_up:.0%} of the made ones",
                flush=True,
            )
        if step % 1000 == 0 or step == steps:
            model.save_pretrained(out)


def main() -> None:
    """Pretrain and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", required=True, help="folder of a T5")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6000)
    options = parser.parse_args()
    tokenizer = causal_tokenizer(options.tokenizer)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=256, intermediate_size=512, num_hidden_layers=4,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=512, tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip
    tokenizer.save_pretrained(options.out)
    train(model, batches(Encoder(model, tokenizer, LENGTH - 16, 16), options.data), options.steps, options.out)


if __name__ == "__main__":
    main()
