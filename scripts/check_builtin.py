"""Can the built-in model learn the built-in stream, and does a plain learner forget it? No method of gorp is used.

    python scripts/check_builtin.py t5-tiny --mode joint                     # all tasks at once, every weight
    python scripts/check_builtin.py t5-tiny --mode joint --start random      # the same without pretraining
    python scripts/check_builtin.py t5-tiny --mode sequence --adapter qv     # task after task with one LoRA

`--start checkpoint` takes the last checkpoint of a running `pretrain_tiny.py` instead of the package's weights.
"""

from __future__ import annotations

import argparse
import random
import re
import time
from collections import Counter
from typing import Any

import torch
from peft import LoraConfig, inject_adapter_in_model
from pretrain_tiny import MODELS, SEED, generate, load_checkpoint, new_model
from torch.nn.functional import cross_entropy
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer

from gorp.tasks.builtin import builtin_stream
from gorp.tasks.task import Example, Task

TARGETS = {
    "llama": {
        "qv": ["q_proj", "v_proj"],
        "qvg": ["q_proj", "v_proj", "gate_proj"],
        "all": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
    },
    "t5": {
        "qv": ["SelfAttention.q", "SelfAttention.v"],
        "qvg": ["q", "v", "wi_0"],
        "all": ["q", "k", "v", "o", "wi_0", "wi_1", "wo"],
    },
}


def start(name: str, where: str) -> Any:
    """The model to begin with, fp32."""
    torch.manual_seed(SEED)
    if where == "random":
        return new_model(name)
    if where == "checkpoint":
        return load_checkpoint(name)[0]
    kind = AutoModelForCausalLM if name == "llama-tiny" else AutoModelForSeq2SeqLM
    return kind.from_pretrained(MODELS / name, dtype=torch.float32)


def add_adapter(model: Any, targets: list[str]) -> None:
    """Freeze everything but a LoRA of rank 8."""
    inject_adapter_in_model(LoraConfig(r=8, lora_alpha=32, target_modules=targets), model)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)


def fit(model: Any, tokenizer: Any, rows: list[Example], epochs: int, lr: float, size: int, bf16: bool) -> float:
    """AdamW with warm-up and linear decay over `rows`; returns the mean loss of the last twenty steps."""
    tokens = [
        (
            tokenizer(e.prompt)["input_ids"],
            [*tokenizer(e.answer, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id],
        )
        for e in rows
    ]
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
    steps = epochs * -(-len(tokens) // size)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda i: min(1.0, (i + 1) / 10) * (1 - 0.9 * i / steps))
    rng, losses = random.Random(0), []
    model.train()
    for _ in range(epochs):
        rng.shuffle(tokens)
        groups = [sorted(tokens[i : i + 8 * size], key=lambda t: len(t[0])) for i in range(0, len(tokens), 8 * size)]
        batches = [group[i : i + size] for group in groups for i in range(0, len(group), size)]
        rng.shuffle(batches)
        for batch in batches:
            with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
                loss = answer_loss(model, batch)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            optimizer.zero_grad()
            losses.append(loss.item())
    return sum(losses[-20:]) / len(losses[-20:])


def answer_loss(model: Any, batch: list[tuple[list[int], list[int]]]) -> torch.Tensor:
    """Mean cross-entropy of the answers' tokens, each answer weighing the same per token."""
    if model.config.is_encoder_decoder:
        x = pad([source for source, _ in batch], 0)
        return model(
            input_ids=x, attention_mask=(x != 0).long(), labels=pad([target for _, target in batch], -100)
        ).loss
    x = pad([source + target for source, target in batch], 0)
    y = pad([[-100] * len(source) + target for source, target in batch], -100)
    hidden = model.model(input_ids=x, use_cache=False).last_hidden_state[:, :-1]
    wanted = y[:, 1:] >= 0
    return cross_entropy(model.lm_head(hidden[wanted]).float(), y[:, 1:][wanted])


def pad(rows: list[list[int]], value: int) -> torch.Tensor:
    """Rows of tokens (rows, longest), filled up with `value`."""
    longest = max(map(len, rows))
    return torch.tensor([row + [value] * (longest - len(row)) for row in rows])


def score(model: Any, tokenizer: Any, task: Task, rows: list[Example]) -> float:
    """Exact match in percent."""
    model.eval()
    answers = generate(model, tokenizer, [e.prompt for e in rows], longest=16)
    wrong = Counter((e.answer, a) for a, e in zip(answers, rows, strict=True) if norm(a) != norm(e.answer))
    print(f"  {task.name}, most frequent (wanted, given):", wrong.most_common(6))
    return 100 * sum(norm(a) == norm(e.answer) for a, e in zip(answers, rows, strict=True)) / len(rows)


def norm(text: str) -> str:
    """The text without case, punctuation and blanks that do not matter."""
    return " ".join(re.sub(r"[^\w\s]", "", text.lower()).split())


def main() -> None:
    """Read the command line and print exact match in percent per task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", choices=["llama-tiny", "t5-tiny"])
    parser.add_argument("--mode", choices=["joint", "sequence", "each"], default="joint")
    parser.add_argument("--start", choices=["package", "checkpoint", "random"], default="package")
    parser.add_argument("--adapter", choices=["none", "qv", "qvg", "all"], default="none")
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--rows", type=int, default=16, help="batch size")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--tasks", help="only these, comma-separated")
    parser.add_argument("--bf16", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    stream = [t for t in builtin_stream(seed=chosen.seed) if chosen.tasks is None or t.name in chosen.tasks.split(",")]
    tokenizer = AutoTokenizer.from_pretrained(MODELS / chosen.model)
    print(vars(chosen))

    def fresh() -> Any:
        model = start(chosen.model, chosen.start)
        if chosen.adapter != "none":
            add_adapter(model, TARGETS[chosen.model.partition("-")[0]][chosen.adapter])
        return model

    def learn(model: Any, rows: list[Example]) -> str:
        began = time.time()
        loss = fit(model, tokenizer, rows, chosen.epochs, chosen.lr, chosen.rows, chosen.bf16)
        return f"loss {loss:.3f}, {time.time() - began:.0f} s"

    def scores(model: Any) -> list[float]:
        return [score(model, tokenizer, task, task.test) for task in stream]

    print([task.name for task in stream], flush=True)
    if chosen.mode == "joint":
        model = fresh()
        note = learn(model, [e for task in stream for e in task.train])
        print(scores(model), note, flush=True)
    elif chosen.mode == "each":
        for task in stream:
            model = fresh()
            note = learn(model, task.train)
            print(task.name, score(model, tokenizer, task, task.test), note, flush=True)
    else:
        model = fresh()
        matrix = [scores(model)]
        print(matrix[0], "before")
        for task in stream:
            note = learn(model, task.train)
            matrix.append(scores(model))
            print(matrix[-1], note, flush=True)
        n = len(stream)
        print("AP", sum(matrix[-1]) / n, "BWT", sum(matrix[-1][i] - matrix[i + 1][i] for i in range(n - 1)) / (n - 1))


if __name__ == "__main__":
    main()
