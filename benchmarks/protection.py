"""What `gorp protect` saves of a base model's abilities, and what it costs the tasks.

    python benchmarks/protection.py --model MODEL --data DIR --work FOLDER \
      --out benchmarks/performance/protection.json

Standard-cl order 1 with the settings of experiments/methods_t5.yaml, once without protection and once with each energy
share. General text is of data sets that are none of the tasks (TEXTS): training rows are protected, test rows tell the
loss. Goals: protection leaves at most a quarter of the rise of that loss, at one point of AP at most. Runs in FOLDER go
on where they were stopped. `--rows` and `--test-rows` make a smaller, quicker try; a LLaMA type needs `--causal`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from collections.abc import Sequence
from pathlib import Path

from timing import Figure, tell

from gorp.backbones import load_backbone
from gorp.compare.experiment import Cell, Experiment
from gorp.general_text import pretraining_rows
from gorp.matching import make_encoder
from gorp.methods.gorp import GORP
from gorp.over_stages import over_stages, text_loss_of
from gorp.progress import LineProgress
from gorp.protect import protecting_space, remember_base
from gorp.report.record import RunRecord
from gorp.run import run_stream
from gorp.run_config import RunConfig

#: None of them is a task of order 1; reviews, questions and topics are left out, for they are too like those.
TEXTS = (
    "olora/BoolQA",
    "olora/MultiRC",
    "superni/task002_quoref_answer_generation",
    "superni/task1290_xsum_summarization",
    "superni/task511_reddit_tifu_long_text_summarization",
    "superni/task591_sciq_answer_generation",
)
TOKENS = 128
LLAMA = {
    "lora.targets": ["self_attn", "mlp"],
    "gorp.lora_targets": ["self_attn", "mlp.up_proj", "mlp.down_proj"],
    "gorp.full_rank_targets": ["mlp.gate_proj"],
}


def texts(data: Path, split: str, rows: int) -> list[str]:
    """So many texts of each data set, the first 700 characters of each, in an order that is always the same."""
    chosen: list[str] = []
    for name in TEXTS:
        with gzip.open(data / name / f"{split}.jsonl.gz", "rt") as file:
            distinct = list(dict.fromkeys(json.loads(line)["text"] for line in file))
        random.Random(0).shuffle(distinct)
        chosen += [text[:700] for text in distinct[:rows]]
    random.Random(1).shuffle(chosen)
    return chosen


def configuration(options: argparse.Namespace, protect: Path | None) -> RunConfig:
    """Of one run."""
    settings = {
        "model": options.model,
        "data.dir": str(options.data),
        "data.train_rows": options.rows,
        "data.test_rows": options.test_rows,
        "evaluation.each_stage": "new",
        "protect": str(protect) if protect else None,
        **(LLAMA if options.causal else {}),
    }
    experiment = Experiment.read(Path(__file__).parent / "experiments" / "methods_t5.yaml")
    overrides = [f"{key}={json.dumps(value)}" for key, value in settings.items()]
    return experiment.config(Cell("gorp", "standard-cl/1", options.seed), overrides)


def protect(options: argparse.Namespace, shares: Sequence[float]) -> list[Path]:
    """A space for each share, of one pass over the text; those that are there are kept."""
    files = [options.work / f"space-{share:g}.safetensors" for share in shares]
    if all(file.exists() for file in files):
        return files
    config = configuration(options, None)
    backbone = load_backbone(options.model)
    encoder = make_encoder(backbone.model, backbone.tokenizer, TOKENS, 50)
    rows = pretraining_rows(encoder, texts(options.data, "train", options.texts), TOKENS)
    settings = GORP(config).settings(backbone.model)
    memories = remember_base(backbone.model, encoder, rows, settings, batch_size=16)
    for share, file in zip(shares, files, strict=True):
        protecting_space(backbone.model, memories, share, float(settings.max_share or 1)).save(file)
    return files


def rise(run: Path, held_out: Sequence[str], model: str) -> tuple[float, float]:
    """Loss on held-out text before any task, and what it has risen by after the last."""
    losses = list(over_stages(run, text_loss_of(held_out, TOKENS), model, last_alone=True).values())
    return losses[0], losses[-1] - losses[0]


def figures(names: Sequence[str], rises: Sequence[float], records: Sequence[RunRecord], before: float) -> list[Figure]:
    """Rise and AP of each run, the first of them without protection, the others by name; and the goals."""

    def single(what: str, value: float, goal: str = "") -> Figure:
        return Figure(what, value, value, value, goal)

    performance = [float(record.summary()["AP"] or 0) for record in records]
    found = [
        single("loss on held-out text before any task", before),
        single("rise of it without protection", rises[0]),
        single("AP without protection", performance[0]),
    ]
    for name, own, ap in zip(names, rises[1:], performance[1:], strict=True):
        found += [
            single(f"{name}: rise", own),
            single(f"{name}: rise, as a share of that without", own / rises[0], "<= 0.25"),
            single(f"{name}: AP lost", performance[0] - ap, "<= 1"),
        ]
    return found


def main() -> None:
    """Run, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of the benchmark data")
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--energy", type=float, nargs="+", default=[0.9, 0.98])
    parser.add_argument("--rows", type=int, default=1000, help="training rows of a task")
    parser.add_argument("--test-rows", type=int, default=300)
    parser.add_argument("--texts", type=int, default=100, help="texts to protect, of each data set")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--causal", action="store_true", help="the model is a LLaMA type")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    held_out = texts(options.data, "test", 20)
    records, rises = [], []
    for space in (None, *protect(options, options.energy)):
        run = options.work / (space.stem if space else "plain")
        records.append(run_stream(configuration(options, space), run, progress=LineProgress()))
        before, own = rise(run, held_out, options.model)
        rises.append(own)
        print(f"{run.name}: {before:.3f} {own:+.3f}", flush=True)
    title = f"Protection of the base, {options.rows} rows a task, seed {options.seed}"
    tell(title, figures([f"{share:g} protected" for share in options.energy], rises, records, before), options.out)


if __name__ == "__main__":
    main()
