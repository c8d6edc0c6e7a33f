"""Pretrain the two built-in models from nothing but the docstrings of installed libraries.

    python scripts/pretrain_tiny.py data                        # texts and tokenizer, 2 minutes
    python scripts/pretrain_tiny.py train t5-tiny --minutes 52  # one thread; goes on where it stopped
    python scripts/pretrain_tiny.py deepen t5-tiny              # one more decoder layer, to train on with
    python scripts/pretrain_tiny.py export t5-tiny              # bf16 weights, config and log into src/gorp/models

Texts and tokenizer are in `pretrain_data.py`, the exercises in `pretrain_exercises.py`; `check_builtin.py` measures
what came of it.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import time
from pathlib import Path
from typing import Any

import numpy as np
import pretrain_data as data
import torch
from pretrain_exercises import Exercises
from torch.nn.functional import cross_entropy
from transformers import (
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    LlamaForCausalLM,
    T5Config,
    T5ForConditionalGeneration,
)

MODELS = Path(__file__).parent.parent / "src" / "gorp" / "models"
WORK = Path(os.environ.get("PRETRAIN_DIR", "runs/pretrain"))
SEED = 20261122
LENGTH = 128
ANSWER = 24


def new_model(name: str) -> Any:
    """An untrained model of the built-in shape `name`."""
    if name == "llama-tiny":
        return LlamaForCausalLM(
            LlamaConfig(
                vocab_size=data.VOCABULARY,
                hidden_size=192,
                intermediate_size=384,
                num_hidden_layers=6,
                num_attention_heads=6,
                num_key_value_heads=2,
                head_dim=32,
                max_position_embeddings=1024,
                tie_word_embeddings=True,
                rms_norm_eps=1e-6,
                rope_parameters={"rope_type": "default", "rope_theta": 10000.0},
                pad_token_id=data.PAD,
                bos_token_id=data.BOS,
                eos_token_id=data.EOS,
            )
        )
    return T5ForConditionalGeneration(
        T5Config(
            vocab_size=data.VOCABULARY,
            d_model=160,
            d_kv=32,
            d_ff=320,
            num_layers=3,
            num_decoder_layers=3,
            num_heads=5,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
            pad_token_id=data.PAD,
            eos_token_id=data.EOS,
            decoder_start_token_id=data.PAD,
            tie_word_embeddings=True,
        )
    )


def autocast() -> torch.autocast:
    """bf16 where the processor multiplies it, fp32 elsewhere."""
    return torch.autocast("cpu", torch.bfloat16, enabled=torch.cpu._is_avx512_bf16_supported())


class Batches:
    """Batch number `step` of either model, the same for the same step, so that a stopped run goes on as it was."""

    def __init__(self, name: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(MODELS / name)
        texts = data.gather(WORK / "texts.json")
        self.texts = data.Texts(WORK / "tokens.npz", texts, self.tokenizer)
        self.exercises = Exercises(texts, data.underlined_parts())

    def answered(self, rng: random.Random, longest: int) -> tuple[list[int], list[int]]:
        """Tokens of one exercise: its prompt, and its answer with the end mark."""
        while True:
            _, prompt, answer = self.exercises.make(rng)
            source = self.tokenizer(prompt)["input_ids"]
            target = [*self.tokenizer(answer, add_special_tokens=False)["input_ids"], data.EOS]
            if len(target) <= ANSWER and len(source) <= longest:
                return source, target

    def causal(self, step: int, texts: int, exercises: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Tokens (texts + exercises, LENGTH) and what each is: 0 padding, 1 text, 2 prompt, 3 answer."""
        rng = random.Random(f"{SEED} {step}")
        ids = np.zeros((texts + exercises, LENGTH), np.int64)
        kind = np.zeros_like(ids)
        for row in range(texts):
            ids[row] = self.texts.chunk(step * texts + row, LENGTH, SEED)
            kind[row] = 1
            if row < texts // 3:
                self.repeat_parts(ids[row], rng)
        for row in range(texts, texts + exercises):
            source, target = self.answered(rng, LENGTH - ANSWER)
            at = 0
            while at + len(source) + len(target) <= LENGTH:
                middle, end = at + len(source), at + len(source) + len(target)
                ids[row, at:end] = source + target
                kind[row, at:middle], kind[row, middle:end] = 2, 3
                at = end
                source, target = self.answered(rng, LENGTH - ANSWER)
        return torch.from_numpy(ids), torch.from_numpy(kind)

    @staticmethod
    def repeat_parts(ids: np.ndarray, rng: random.Random) -> None:
        """Write two earlier stretches of the row over later ones, half of them shuffled first: it teaches copying."""
        for half in (0, LENGTH // 2):
            length = rng.randint(8, 30)
            source = half + rng.randrange(LENGTH // 2 - 2 * length + 1)
            target = rng.randrange(source + length, half + LENGTH // 2 - length + 1)
            if rng.random() < 0.5:
                part = ids[source : source + length].tolist()
                rng.shuffle(part)
                ids[source : source + length] = part
            ids[target : target + length] = ids[source : source + length]

    def spans(self, step: int, rows: int, rate: float, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Corrupted chunks of `size` tokens and what is missing in them."""
        rng = np.random.default_rng([SEED, step])
        pairs = [data.corrupt(self.texts.chunk(step * rows + row, size, SEED), rng, rate) for row in range(rows)]
        return torch.tensor([x for x, _ in pairs]), torch.tensor([y for _, y in pairs])

    def asked(self, step: int, rows: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Exercises, a ninth of them a masked piece of text to be written out whole; padded, labels -100."""
        rng = random.Random(f"{SEED} {step}")
        noise = np.random.default_rng([SEED, step, 1])
        x = np.zeros((rows, LENGTH), np.int64)
        y = np.full((rows, ANSWER), -100, np.int64)
        for row in range(rows):
            if row < rows // 9:
                target = [*self.texts.chunk(step * rows + row, ANSWER - 1, SEED), data.EOS]
                source, _ = data.corrupt(np.array(target[:-1]), noise, 0.26)
            else:
                source, target = self.answered(rng, LENGTH)
            x[row, : len(source)] = source
            y[row, : len(target)] = target
        return torch.from_numpy(x), torch.from_numpy(y)


class LlamaTrainer:
    """Language modelling on texts and exercises, the answers weighing as much as all the text."""

    def __init__(self, model: Any, batches: Batches) -> None:
        self.batches = batches
        self.loss = torch.compile(self.token_losses, dynamic=False)
        self.model = model
        flat = [p for p in model.parameters() if p.ndim < 2]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in model.parameters() if p.ndim == 2], "weight_decay": 0.1},
                {"params": flat, "weight_decay": 0.0},
            ],
            lr=1.0,
            betas=(0.9, 0.98),
            fused=True,
        )
        self.peak = 2e-3

    def backward(self, step: int) -> dict[str, float]:
        """Run one step's batches forward and backward; returns the losses and the number of tokens."""
        ids, kind = self.batches.causal(step, 10, 10)
        with autocast():
            loss = self.loss(ids)
        wanted = kind[:, 1:].flatten()
        text, prompt, answer = ((loss * (wanted == k)).sum() / (wanted == k).sum() for k in (1, 2, 3))
        (text + 0.25 * prompt + 0.75 * answer).backward()
        return {"text": text.item(), "answer": answer.item(), "tokens": float((kind > 0).sum())}

    def token_losses(self, ids: torch.Tensor) -> torch.Tensor:
        """Loss of every token but the first of each row, flat."""
        logits = self.model(input_ids=ids, use_cache=False).logits
        return cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten(), reduction="none")


class T5Trainer:
    """Span corruption at 15 and 45 percent, and exercises; steps in proportion to each matrix, as in Adafactor."""

    def __init__(self, model: Any, batches: Batches) -> None:
        self.batches = batches
        self.forward = torch.compile(
            lambda x, mask, y: model(input_ids=x, attention_mask=mask, labels=y, use_cache=False).loss, dynamic=False
        )
        self.optimizer = ScaledAdam(model, {"shared.weight": 0.3}, betas=(0.9, 0.98))
        self.peak = 0.015

    def backward(self, step: int) -> dict[str, float]:
        """Run one step's batches forward and backward; returns the losses and the number of tokens."""
        sparse = step % 4 == 0
        x, y = self.batches.spans(step, 4, *((0.15, 133) if sparse else (0.45, 110)))
        asked, answers = self.batches.asked(step, 18)
        with autocast():
            text = self.forward(x, None, y)
        (0.3 * text).backward()
        with autocast():
            answer = self.forward(asked, (asked != data.PAD).long(), answers)
        (0.7 * answer).backward()
        tokens = x.numel() + y.numel() + int((asked != 0).sum()) + int((answers >= 0).sum())
        return {"sparse" if sparse else "dense": text.item(), "answer": answer.item(), "tokens": float(tokens)}


class ScaledAdam(torch.optim.Optimizer):
    """Adam whose step is multiplied by the root mean square of the parameter (at least 1e-3, relative biases 0.3)."""

    def __init__(self, model: torch.nn.Module, factors: dict[str, float], betas: tuple[float, float]) -> None:
        named = list(model.named_parameters())
        super().__init__(
            [
                {"params": [p], "factor": factors.get(n, 1.0), "floor": 0.3 if "relative_attention" in n else 1e-3}
                for n, p in named
            ],
            {"lr": 1.0, "betas": betas},
        )

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """Update every parameter."""
        for group in self.param_groups:
            (p,), (b1, b2) = group["params"], group["betas"]
            state = self.state[p]
            if not state:
                state.update(step=0, m=torch.zeros_like(p), v=torch.zeros_like(p))
            state["step"] += 1
            state["m"].lerp_(p.grad, 1 - b1)
            state["v"].lerp_(p.grad.square(), 1 - b2)
            size = max(group["floor"], p.square().mean().sqrt().item()) * group["factor"]
            c1, c2 = 1 - b1 ** state["step"], 1 - b2 ** state["step"]
            p.addcdiv_(state["m"], state["v"].sqrt().add_(1e-8), value=-group["lr"] * size * math.sqrt(c2) / c1)


def make_local(model: Any) -> None:
    """Set four of five encoder heads and two decoder heads local through the relative bias.

    It learns too slowly to get there by itself, and without local heads nothing is copied.
    """
    with torch.no_grad():
        before, behind = {1: 5.0}, {17: 5.0}
        encoder = model.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
        for head, places in enumerate((before, behind, {2: 3.0, 3: 2.5}, {18: 3.0, 19: 2.5})):
            for bucket, value in places.items():
                encoder[bucket, head] += value
        decoder = model.decoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight
        for head, places in enumerate(({1: 4.0}, {2: 3.0, 3: 2.5})):
            for bucket, value in places.items():
                decoder[bucket, head] += value


def look_back(model: Any) -> None:
    """Set three heads of the first layer of the causal model to look one, two and three tokens back.

    One direction of the embeddings becomes a constant (through the tied head it moves all logits alike, so it says
    nothing), and from it come queries and keys whose rotary product has its peak at that distance. Copying needs such a
    head, and a small model finds it late.
    """
    decoder, size = model.model, model.config.head_dim
    half, frequencies = size // 2, 1.0 / 10000.0 ** (torch.arange(size // 2) / (size // 2))
    used = torch.arange(half) < half // 2
    with torch.no_grad():
        table = decoder.embed_tokens.weight
        table[:, 0] = 2 * table.square().mean().sqrt()
        for layer in decoder.layers:
            for matrix in (
                layer.self_attn.q_proj,
                layer.self_attn.k_proj,
                layer.self_attn.v_proj,
                layer.mlp.gate_proj,
                layer.mlp.up_proj,
            ):
                matrix.weight[:, 0] = 0.0
            for matrix in (layer.self_attn.o_proj, layer.mlp.down_proj):
                matrix.weight[0] = 0.0
        first = decoder.layers[0]
        first.input_layernorm.weight[0] = 1.0
        query, key = first.self_attn.q_proj.weight, first.self_attn.k_proj.weight
        key[:size] = 0.0
        key[:half, 0] = 4.5 * used
        for head in range(3):
            query[head * size : (head + 1) * size] = 0.0
            turn = (head + 1) * frequencies
            query[head * size : head * size + half, 0] = 4.5 * turn.cos() * used
            query[head * size + half : (head + 1) * size, 0] = -4.5 * turn.sin() * used


def train(name: str, minutes: float, warmup: int = 200) -> None:
    """Train for `minutes` of wall time in all, over restarts too; a checkpoint every three minutes."""
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    model = new_model(name)
    model.set_attn_implementation(
        "eager"
    )  # the fused kernel's backward pass takes twice the time of all the rest on a CPU
    batches = Batches(name)
    make_local(model) if name == "t5-tiny" else look_back(model)
    trainer = LlamaTrainer(model, batches) if name == "llama-tiny" else T5Trainer(model, batches)
    path = WORK / f"{name}.pt"
    state = {"step": 0, "seconds": 0.0, "tokens": 0.0}
    if path.exists():
        saved = torch.load(path, weights_only=True)
        model.load_state_dict(saved["model"])
        if saved["optimizer"] is not None:
            trainer.optimizer.load_state_dict(saved["optimizer"])
        state = saved["state"]
    print(name, sum(p.numel() for p in model.parameters()), "parameters", state, flush=True)
    started, before = time.time(), state["seconds"]
    saved_at, sums, counts = time.time(), {}, 0
    while state["seconds"] < 60 * minutes:
        share = min(1.0, state["seconds"] / (60 * minutes))
        rate = (
            trainer.peak
            * min(1.0, (state["step"] + 1) / warmup)
            * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * share)))
        )
        for group in trainer.optimizer.param_groups:
            group["lr"] = rate
        losses = trainer.backward(int(state["step"]))
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        if torch.isfinite(norm):
            trainer.optimizer.step()
        model.zero_grad(set_to_none=True)
        state["step"] += 1
        state["tokens"] += losses.pop("tokens")
        state["seconds"] = before + time.time() - started
        counts += 1
        for key, value in {**losses, "norm": norm.item()}.items():
            total, n = sums.get(key, (0.0, 0))
            sums[key] = (total + value, n + 1)
        if counts == 100:
            line: dict[str, Any] = {k: round(v, 4) for k, v in state.items()} | {"lr": rate}
            line |= {key: round(total / n, 4) for key, (total, n) in sums.items()}
            if int(state["step"]) // 100 % 5 == 0:
                line["exact"] = exercise_scores(model, batches, 12)
            with (WORK / f"{name}.jsonl").open("a") as log:
                log.write(json.dumps(line) + "\n")
            print(json.dumps(line), flush=True)
            sums, counts = {}, 0
        if time.time() - saved_at > 180:
            save(path, model, trainer, state)
            saved_at = time.time()
    save(path, model, trainer, state)


def save(path: Path, model: Any, trainer: LlamaTrainer | T5Trainer, state: dict[str, float]) -> None:
    """Write the checkpoint under another name, then put it in place."""
    torch.save(
        {"model": model.state_dict(), "optimizer": trainer.optimizer.state_dict(), "state": state},
        path.with_suffix(".new"),
    )
    os.replace(path.with_suffix(".new"), path)


def exercise_scores(model: Any, batches: Batches, rows: int) -> dict[str, float]:
    """Share of fresh exercises answered exactly by greedy generation, per kind."""
    rng = random.Random("held out")
    asked = [(kind, *batches.exercises.make(rng, kind)[1:]) for kind in batches.exercises.KINDS for _ in range(rows)]
    model.eval()
    answers = generate(model, batches.tokenizer, [prompt for _, prompt, _ in asked])
    model.train()
    right: dict[str, float] = {}
    for (kind, _, wanted), answer in zip(asked, answers, strict=True):
        right[kind] = right.get(kind, 0) + (answer.strip() == wanted) / rows
    return {kind: round(score, 2) for kind, score in right.items()}


@torch.no_grad()
def generate(model: Any, tokenizer: Any, prompts: list[str], rows: int = 50, longest: int = ANSWER) -> list[str]:
    """Greedy answers to `prompts`, in their order."""
    answers = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    for start in range(0, len(order), rows):
        part = order[start : start + rows]
        batch = tokenizer([prompts[i] for i in part], return_tensors="pt", padding=True)
        with autocast():
            out = model.generate(
                input_ids=batch["input_ids"],
                attention_mask=batch["attention_mask"],
                max_new_tokens=longest,
                do_sample=False,
                pad_token_id=data.PAD,
                eos_token_id=data.EOS,
            )
        if not model.config.is_encoder_decoder:
            out = out[:, batch["input_ids"].shape[1] :]
        for i, text in zip(part, tokenizer.batch_decode(out, skip_special_tokens=True), strict=True):
            answers[i] = text.strip()
    return answers


def deepen(name: str) -> None:
    """Take up the exported model with fewer decoder layers: added ones copy its last and begin by adding nothing."""
    shallow = T5ForConditionalGeneration.from_pretrained(MODELS / name, dtype=torch.float32)
    model = new_model(name)
    there = shallow.config.num_decoder_layers
    weights = shallow.state_dict()
    for block in range(there, model.config.num_decoder_layers):
        last = f"decoder.block.{there - 1}."
        for key in [key for key in weights if key.startswith(last)]:
            silent = key.endswith((".o.weight", ".wo.weight"))
            added = key.replace(last, f"decoder.block.{block}.")
            weights[added] = torch.zeros_like(weights[key]) if silent else weights[key].clone()
    model.load_state_dict(weights)
    WORK.mkdir(parents=True, exist_ok=True)
    state = {"step": 0, "seconds": 0.0, "tokens": 0.0}
    torch.save({"model": model.state_dict(), "optimizer": None, "state": state}, WORK / f"{name}.pt")


def load_checkpoint(name: str) -> tuple[Any, dict[str, float]]:
    """The last checkpoint of `name` and how far it was."""
    saved = torch.load(WORK / f"{name}.pt", weights_only=True)
    model = new_model(name)
    model.load_state_dict(saved["model"])
    return model.eval(), saved["state"]


def export(name: str) -> None:
    """Write bf16 weights, config, generation config and the training log beside the tokenizer."""
    model, state = load_checkpoint(name)
    special = {"pad_token_id": data.PAD, "eos_token_id": data.EOS, "max_new_tokens": 32}
    special["decoder_start_token_id" if name == "t5-tiny" else "bos_token_id"] = (
        data.PAD if name == "t5-tiny" else data.BOS
    )
    model.generation_config = GenerationConfig(**special)
    model.to(torch.bfloat16).save_pretrained(MODELS / name)
    config = json.loads((MODELS / name / "config.json").read_text())
    (MODELS / name / "config.json").write_text(json.dumps(config | {"dtype": "float32"}, indent=2) + "\n")
    (MODELS / name / "train.jsonl").write_text((WORK / f"{name}.jsonl").read_text())
    print(name, state, (MODELS / name / "model.safetensors").stat().st_size)


def prepare() -> None:
    """Gather the texts and train the tokenizer of both models."""
    WORK.mkdir(parents=True, exist_ok=True)
    texts = data.gather(WORK / "texts.json")
    data.build_tokenizer(
        [f"{signature}\n{text}" for _, signature, text in texts],
        {"llama": MODELS / "llama-tiny", "t5": MODELS / "t5-tiny"},
    )
    batches = Batches("llama-tiny")
    print(len(texts), "texts", batches.texts.total, "tokens")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["data", "train", "deepen", "export"])
    parser.add_argument("model", nargs="?", choices=["llama-tiny", "t5-tiny"], default="llama-tiny")
    parser.add_argument("--minutes", type=float, default=50)
    chosen = parser.parse_args()
    if chosen.command == "data":
        prepare()
    elif chosen.command == "train":
        train(chosen.model, chosen.minutes)
    elif chosen.command == "deepen":
        deepen(chosen.model)
    else:
        export(chosen.model)
