"""How fast prompts are answered and scored, beside transformers' Seq2SeqTrainer.predict on the same rows.

    python benchmarks/evaluation.py --model MODEL --data DIR --out benchmarks/performance/evaluation.json

The test rows of standard-cl's four tasks, mixed, answered greedily by a T5 at batches of 64, either side up to the
length of the longest answer. Both must give the same answers; rows a second, as a ratio. "Options" chooses the
likeliest label of each row's own list instead.
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from timing import Figure, alternate, tell
from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Seq2SeqTrainingArguments

from gorp.backbones import load_backbone
from gorp.encoding import Encoder
from gorp.evaluation import Evaluator, Prompts
from gorp.run_config import RunConfig
from gorp.run_setup import load_stream
from gorp.tasks import Example

BATCH = 64


def measure(model: str, examples: Sequence[Example], length: int, rounds: int, batch: int = BATCH) -> list[Figure]:
    """The ratio, and the share of answers that are the same.

    Args:
        model: of the T5 kind.
        examples: with their answers.
        length: longest prompt, in tokens.
        rounds, batch: how often, and rows at a time.
    """
    backbone = load_backbone(model)
    encoder = Encoder(backbone.model, backbone.tokenizer, length, 50)
    backbone.model.generation_config.max_new_tokens = Prompts.of(examples, encoder).max_new_tokens
    evaluator = Evaluator(backbone.model, encoder, batch)
    chooser = Evaluator(backbone.model, encoder, batch, answers="options")
    answers: dict[str, list[str]] = {}

    def ours() -> None:
        evaluator._prompts.clear()  # encode each time, as the trainer's side does
        answers["gorp"] = evaluator.predict(examples)

    def options() -> None:
        chooser._prompts.clear()
        answers["options"] = chooser.predict(examples)

    with tempfile.TemporaryDirectory() as folder:
        settings = Seq2SeqTrainingArguments(
            folder,
            per_device_eval_batch_size=batch,
            predict_with_generate=True,
            dataloader_pin_memory=torch.cuda.is_available(),
            report_to=[],
            disable_tqdm=True,
        )
        trainer = Seq2SeqTrainer(
            backbone.model,
            settings,
            data_collator=DataCollatorForSeq2Seq(backbone.tokenizer, backbone.model),
            processing_class=backbone.tokenizer,
        )

        def theirs() -> None:
            rows = [encoder.row(example) for example in examples]
            dataset = [{"input_ids": list(row.prompt), "labels": list(row.answer)} for row in rows]
            tokens = torch.from_numpy(trainer.predict(dataset).predictions)  # type: ignore[arg-type]
            texts = backbone.tokenizer.batch_decode(tokens.clamp(min=0), skip_special_tokens=True)
            answers["trainer"] = [text.strip() for text in texts]

        seconds = alternate({"gorp": ours, "options": options, "trainer": theirs}, rounds)
    same = sum(a == b for a, b in zip(answers["gorp"], answers["trainer"], strict=True)) / len(examples)
    return [
        Figure.ratio("throughput: gorp / Seq2SeqTrainer.predict", seconds["trainer"], seconds["gorp"], ">= 2"),
        Figure.ratio("throughput: options / Seq2SeqTrainer.predict", seconds["trainer"], seconds["options"]),
        Figure("share of answers that are the same", same, same, same, "1"),
    ]


def main() -> None:
    """Parse the command line, measure, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="folder of the benchmark data")
    parser.add_argument("--rows", type=int, default=128, help="test rows a task")
    parser.add_argument("--length", type=int, default=256, help="longest prompt, in tokens")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    config = RunConfig.from_mapping(
        {"stream": "standard-cl/1", "data": {"dir": options.data, "train_rows": 1, "test_rows": options.rows}}
    )
    examples = [example for task in load_stream(config) for example in task.test]
    random.Random(0).shuffle(examples)
    figures = measure(options.model, examples, options.length, options.rounds)
    tell(f"evaluation, {len(examples)} mixed prompts", figures, options.out)


if __name__ == "__main__":
    main()
