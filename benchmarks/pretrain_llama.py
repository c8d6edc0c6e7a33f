"""Pretrain a tiny LLaMA on the benchmark's texts, without labels, to be protected by `protection.py --causal`.

    python benchmarks/pretrain_llama.py --data DIR --tokenizer MODEL --out FOLDER

Texts are the training parts of all data sets of the folder, each once, in an order that is always the same, joined by
the end-of-text token and cut into pieces. The tokenizer is a T5's, so that the same pieces of words are told.
"""

from __future__ import annotations

import argparse
import gzip
import json
import math
import random
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import torch
from tokenizers import processors
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

LENGTH, ROWS = 128, 16
RATE = 2e-3


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


def batches(tokenizer: PreTrainedTokenizerFast, lines: list[str]) -> Iterator[torch.Tensor]:
    """Pieces of running text, (ROWS, LENGTH), for ever."""
    waiting: list[int] = []
    while True:
        for first in range(0, len(lines), 256):
            for ids in tokenizer(lines[first : first + 256], verbose=False)["input_ids"]:
                waiting += ids
            while len(waiting) >= ROWS * LENGTH:
                yield torch.tensor(waiting[: ROWS * LENGTH]).view(ROWS, LENGTH)
                waiting = waiting[ROWS * LENGTH :]


def train(model: LlamaForCausalLM, pieces: Iterator[torch.Tensor], steps: int) -> None:
    """AdamW under bf16, the rate warmed up and let down."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=RATE, betas=(0.9, 0.95), weight_decay=0.1)
    for step, piece in enumerate(islice(pieces, steps), start=1):
        for group in optimizer.param_groups:
            group["lr"] = RATE * min(1.0, step / 50) * (0.05 + 0.95 * (1 + math.cos(math.pi * step / steps)) / 2)
        with torch.autocast("cpu", torch.bfloat16):
            loss = model(input_ids=piece, labels=piece).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if step % 50 == 0:
            print(f"step {step}, {step * ROWS * LENGTH / 1e6:.1f}M tokens, loss {loss.item():.3f}", flush=True)


def main() -> None:
    """Pretrain and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--tokenizer", required=True, help="folder of a T5")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=1000)
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
    train(model, batches(tokenizer, texts(options.data)), options.steps)
    model.save_pretrained(options.out)
    tokenizer.save_pretrained(options.out)


if __name__ == "__main__":
    main()
