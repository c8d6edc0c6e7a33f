"""What `gorp protect` saves on a tiny LLaMA that is pretrained here, in seconds, on a language made up for it.

    python benchmarks/protection_tiny.py --out benchmarks/performance/protection_tiny.json

Each of 24 words is followed by one of two: that is the language, and general text is of it. Three tasks ask which
colour, animal or act a row of random words names. Learnt without protection, with it, and with it and damped steps.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from pathlib import Path

import torch
from protection import figures
from timing import tell
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from gorp.encoding import Encoder, answer_loss
from gorp.general_text import pretraining_rows
from gorp.methods.gorp import GORP
from gorp.over_stages import over_stages, text_loss_of
from gorp.protect import protecting_space, remember_base
from gorp.run import run_stream
from gorp.run_config import RunConfig
from gorp.tasks import Example, Task

NAMED = {"colour": ("red", "green", "blue"), "animal": ("cat", "dog", "bird"), "act": ("runs", "sleeps", "eats")}
OTHERS = ("the", "a", "this", "that", "one", "some", "fish", "sings", "near", "far", "old", "new", "big", "small", "is")
WORDS = [*OTHERS, *(word for words in NAMED.values() for word in words)]
CUES = ["What", "is", "named", "?", "Answer", ":", *NAMED]
SHARE = 0.98
RUNS = {
    "plain": (False, 0.0, 1),
    "protected": (True, 0.0, 1),
    "protected, damped": (True, 0.5, 1),
    "protected, damped, learning rates x 3": (True, 1.0, 3),
}
"""Whether the base is protected, damping, and by what learning rates are multiplied, by the name of the run."""


def language(rows: int, seed: int) -> list[str]:
    """Texts of 24 words, each one of the two that may follow the one before."""
    rules = random.Random(0)
    follows = {word: rules.sample(WORDS, 2) for word in WORDS}
    generator = random.Random(seed)
    texts = []
    for _ in range(rows):
        words = [generator.choice(WORDS)]
        while len(words) < 24:
            words.append(generator.choice(follows[words[-1]]))
        texts.append(" ".join(words))
    return texts


def tasks(train_rows: int, test_rows: int) -> list[Task]:
    """What is named? Told apart by the question."""
    generator = random.Random(2)

    def row(name: str) -> Example:
        words = [generator.choice(choice) for choice in NAMED.values()]
        text = " ".join([*generator.choices(OTHERS, k=4), *words])
        prompt = f"What {name} is named ? {text} Answer :"
        return Example(prompt, words[list(NAMED).index(name)], (0, 0), options=NAMED[name])

    return [
        Task(name, [row(name) for _ in range(train_rows)], [], [row(name) for _ in range(test_rows)], NAMED[name])
        for name in NAMED
    ]


def pretrained(steps: int) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """A LLaMA of 0.2M weights that has read the language, with its tokenizer, a token a word."""
    vocabulary = {word: index for index, word in enumerate(dict.fromkeys(["<pad>", "</s>", "<s>", *WORDS, *CUES]))}
    made = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 2)])
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", eos_token="</s>", bos_token="<s>")
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(vocabulary), hidden_size=96, intermediate_size=192, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, pad_token_id=0, eos_token_id=1, bos_token_id=2,
        )
    )  # fmt: skip
    encoder = Encoder(model, tokenizer)
    rows = pretraining_rows(encoder, language(400, seed=1), 32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for step in range(steps):
        batch = encoder.training_batch([rows[(16 * step + place) % len(rows)] for place in range(16)])
        (answer_loss(encoder.logits(model, batch), batch["labels"]) / batch["labels"].numel()).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model, tokenizer


def configuration(model: Path, space: Path | None, damping: float = 0.0, faster: float = 1) -> RunConfig:
    """Of one run."""
    return RunConfig.from_mapping(
        {
            "model": str(model),
            "stream": None,
            "protect": str(space) if space else None,
            "training": {"epochs": 4, "lr": 2e-3 * faster, "full_rank_lr": 5e-3 * faster, "schedule": "linear"},
            "gorp": {
                "lora_targets": ["self_attn", "up_proj", "down_proj"],
                "full_rank_targets": ["gate_proj"],
                "rank": 4,
                "memory": "weighted_features",
                "max_share": 0.97,
                "protect_outputs": False,
                "damping": damping,
            },
        }
    )


def measure(work: Path, steps: int = 200, train_rows: int = 150, test_rows: int = 100) -> list:
    """Figures of all runs, in a folder for them."""
    model, tokenizer = pretrained(steps)
    home, space = work / "model", work / "space.safetensors"
    model.save_pretrained(home)
    tokenizer.save_pretrained(home)
    encoder = Encoder(model, tokenizer)
    settings = GORP(configuration(home, None)).settings(model)
    memories = remember_base(model, encoder, pretraining_rows(encoder, language(100, seed=1), 32), settings)
    protecting_space(model, memories, SHARE, 0.97).save(space)
    held_out, records, losses = language(60, seed=3), [], []
    for name, (protected, damping, faster) in RUNS.items():
        config = configuration(home, space if protected else None, damping, faster)
        records.append(run_stream(config, work / name, tasks(train_rows, test_rows)))
        losses.append(list(over_stages(work / name, text_loss_of(held_out, 32), last_alone=True).values()))
        print(name, losses[-1], records[-1].matrix[-1], flush=True)
    return figures(list(RUNS)[1:], [after - before for before, after in losses], records, losses[0][0])


def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        tell("Protection of a tiny LLaMA", measure(Path(work)), options.out)


if __name__ == "__main__":
    main()
