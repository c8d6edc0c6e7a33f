"""What `gorp protect` saves of a base model's abilities, and what it costs the tasks.

    python benchmarks/protection.py --model MODEL --data DIR --work FOLDER \
      --out benchmarks/performance/protection.json

Standard-cl order 1 with the settings of experiments/methods_t5.yaml, with every seed, without protection and with each
energy share, at each multiple of the learning rates: less room wants larger steps. General text is of data sets that
are none of the tasks (TEXTS): training rows are protected, test rows tell the loss. Goals: protection leaves at most a
quarter of the rise of that loss, at one point of AP at most, beside the unprotected multiple whose AP is best. Runs in
FOLDER go on where they were stopped. `--rows` and `--test-rows` make a smaller, quicker try; a LLaMA type, such as
`pretrain_llama.py` makes, needs `--causal`.
"""

from __future__ import annotations

import argparse
import gzip
import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean

from timing import Figure, tell

from gorp.backbones import load_backbone
from gorp.compare.experiment import Cell, Experiment
from gorp.general_text import pretraining_rows
from gorp.matching import make_encoder
from gorp.methods.gorp import GORP
from gorp.over_stages import over_stages, text_loss_of
from gorp.progress import LineProgress
from gorp.protect import protecting_space, remember_base
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
    "gorp.damping": 0.33,
    "training.epochs": 4,
}
"""Damped: without it the first block forgets tasks in the sliver that general text and tasks leave of its inputs."""


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


@dataclass(frozen=True)
class Setting:
    """How a run differs from the others: the share of the base that is protected, if any, and how fast it learns."""

    share: float | None
    rate: float

    @property
    def name(self) -> str:
        """Of folders and lines of the table."""
        return f"{f'{self.share:g} protected' if self.share else 'plain'}, rates x {self.rate:g}"


@dataclass(frozen=True)
class Outcome:
    """Loss on held-out text before any task, what it rose by until after the last, and AP."""

    before: float
    rise: float
    performance: float


def configuration(options: argparse.Namespace, seed: int, rate: float = 1, protect: Path | None = None) -> RunConfig:
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
    cell = Cell("gorp-inputs-alone", "standard-cl/1", seed)
    for key, value in experiment.config(cell).training:
        if key in ("lr", "full_rank_lr"):
            settings[f"training.{key}"] = rate * value
    return experiment.config(cell, [f"{key}={json.dumps(value)}" for key, value in settings.items()])


def protect(options: argparse.Namespace, shares: Sequence[float]) -> dict[float, Path]:
    """A space for each share, of one pass over the text; those that are there are kept."""
    files = {share: options.work / f"space-{share:g}.safetensors" for share in shares}
    if all(file.exists() for file in files.values()):
        return files
    config = configuration(options, 0)
    backbone = load_backbone(options.model)
    encoder = make_encoder(backbone.model, backbone.tokenizer, TOKENS, 50)
    rows = pretraining_rows(encoder, texts(options.data, "train", options.texts), TOKENS)
    settings = GORP(config).settings(backbone.model)
    memories = remember_base(backbone.model, encoder, rows, settings, batch_size=16)
    for share, file in files.items():
        protecting_space(backbone.model, memories, share, float(settings.max_share or 1)).save(file)
    return files


def outcome(config: RunConfig, run: Path, held_out: Sequence[str]) -> Outcome:
    """Learn, and measure."""
    record = run_stream(config, run, progress=LineProgress())
    losses = list(over_stages(run, text_loss_of(held_out, TOKENS), last_alone=True).values())
    return Outcome(losses[0], losses[-1] - losses[0], float(record.summary()["AP"] or 0))


def figures(outcomes: Mapping[Setting, Sequence[Outcome]]) -> list[Figure]:
    """Rise and AP of every setting, over the seeds; what protection leaves of the rise and costs, by pairs of seeds."""
    performance = {setting: fmean(run.performance for run in runs) for setting, runs in outcomes.items()}
    plain = max((setting for setting in outcomes if not setting.share), key=performance.__getitem__)
    found = [Figure.of("loss on held-out text before any task", [outcomes[plain][0].before])]
    for setting, runs in outcomes.items():
        found += [
            Figure.of(f"{setting.name}: rise", [run.rise for run in runs]),
            Figure.of(f"{setting.name}: AP", [run.performance for run in runs]),
        ]
        if setting.share:
            pairs = list(zip(outcomes[plain], runs, strict=True))
            found += [
                Figure.of(
                    f"{setting.name}: share of the rise", [own.rise / bare.rise for bare, own in pairs], "<= 0.25"
                ),
                Figure.of(
                    f"{setting.name}: AP lost", [bare.performance - own.performance for bare, own in pairs], "<= 1"
                ),
            ]
    return found


def main() -> None:
    """Run, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder of the benchmark data")
    parser.add_argument("--work", type=Path, required=True, help="folder of the runs")
    parser.add_argument("--energy", type=float, nargs="+", default=[0.7, 0.9])
    parser.add_argument("--rates", type=float, nargs="+", default=[1, 2], help="by which learning rates are multiplied")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--rows", type=int, default=1000, help="training rows of a task")
    parser.add_argument("--test-rows", type=int, default=300)
    parser.add_argument("--texts", type=int, default=100, help="texts to protect, of each data set")
    parser.add_argument("--causal", action="store_true", help="the model is a LLaMA type")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    held_out, spaces = texts(options.data, "test", 20), protect(options, options.energy)
    settings = [Setting(share, rate) for share in (None, *options.energy) for rate in options.rates]
    outcomes: dict[Setting, list[Outcome]] = {setting: [] for setting in settings}
    for seed, setting in product(options.seeds, settings):
        config = configuration(options, seed, setting.rate, spaces[setting.share] if setting.share else None)
        outcomes[setting].append(outcome(config, options.work / f"{setting.name}, seed {seed}", held_out))
        print(f"{setting.name}, seed {seed}: {outcomes[setting][-1]}", flush=True)
    title = f"Protection of the base, {options.rows} rows a task, {len(options.seeds)} seeds"
    tell(title, figures(outcomes), options.out)


if __name__ == "__main__":
    main()
