"""GORP in a training loop of your own: two tasks one after the other, and what the first one loses."""

import random
from pathlib import Path

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

import gorp
from gorp.tasks.builtin import builtin_stream

folder = Path(gorp.__file__).parent / "models" / "t5-tiny"
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForSeq2SeqLM.from_pretrained(folder)
tasks = builtin_stream(train_rows=160, test_rows=50)[:2]

gorp.attach(
    model,
    gorp.GORPConfig(lora_targets=["SelfAttention"], full_rank_targets=["EncDecAttention"], memory="weighted_features"),
)
optimizer = gorp.GORPAdamW(gorp.param_groups(model), lr=3e-3, full_rank_lr=1e-2)
layers, meters = gorp.learned_layers(model), gorp.Meters(model)


def score(task):
    """Percent of the test rows that are answered rightly."""
    prompts = tokenizer([row.prompt for row in task.test], padding=True, return_tensors="pt")
    answers = tokenizer.batch_decode(model.eval().generate(**prompts, max_new_tokens=8), skip_special_tokens=True)
    return 100 * sum(answer == row.answer for answer, row in zip(answers, task.test, strict=True)) / len(task.test)


for task in tasks:
    before = {name: layer.effective_weight().double() for name, layer in layers.items()}
    kept = {name: layer.space.basis.double() for name, layer in layers.items()}
    model.train()
    for epoch in range(2):
        rows = random.Random(epoch).sample(task.train, len(task.train))
        for batch in (rows[first : first + 8] for first in range(0, len(rows), 8)):
            prompts = tokenizer([row.prompt for row in batch], padding=True, return_tensors="pt")
            answers = tokenizer([row.answer for row in batch], padding=True, return_tensors="pt")
            labels = answers.input_ids.masked_fill(answers.attention_mask == 0, -100)
            model(**prompts, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    seen = meters.read().overall
    gorp.end_task(model, optimizer, task.name)  # grow the gradient space, merge, start anew

    change = {name: layer.effective_weight().double() - before[name] for name, layer in layers.items()}
    leak = max(float((change[name] @ kept[name]).norm() / change[name].norm()) for name in layers)
    print(f"after {task.name}: " + ", ".join(f"{each.name} {score(each):.0f}" for each in tasks))
    print(f"  of the change, on directions of earlier tasks: {leak:.0e} at most, from the weights")
    print(f"  of the gradient, removed by protection: {seen.blocked_energy:.0%}; room left: {seen.capacity_left:.0%}")
