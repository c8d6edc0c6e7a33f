"""Run an experiment, methods x seeds, cell by cell, and keep what each cell scored.

    python benchmarks/experiments.py benchmarks/experiments/builtin.yaml --out runs/builtin

An experiment file has ``base`` (a run configuration), ``seeds``, and ``cells`` (name -> what differs from the base).
Every cell is a run folder, so an interrupted experiment goes on where it was. Results go to
``benchmarks/results/EXPERIMENT.json``, one entry a cell, as soon as it is finished; ``--split validation`` chooses
settings without looking at test rows, and then nothing is kept.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from gorp.learner import run_stream
from gorp.report.record import RunRecord
from gorp.run_config import RunConfig
from gorp.run_setup import load_stream

RESULTS = Path(__file__).parent / "results"


def merged(base: Mapping[str, Any], change: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the keys of `change`, section by section."""
    both = dict(base)
    for key, value in change.items():
        both[key] = merged(both[key], value) if isinstance(value, dict) and isinstance(both.get(key), dict) else value
    return both


def result_of(record: RunRecord, wall: float) -> dict[str, Any]:
    """What is kept of a cell: scores, metrics, the worst leak against its bound, and how full the spaces are."""
    layers = [layer for stage in record.stages for layer in stage.layers.values()]
    last = record.stages[-1].layers.values()
    seconds = {part: sum(stage.seconds[part] for stage in record.stages) for part in ("train", "evaluate")}
    leaks = [layer.leak / layer.leak_bound for layer in layers if layer.leak is not None and layer.leak_bound]
    return {
        "summary": record.summary(),
        "tasks": record.tasks,
        "zero_shot": record.zero_shot,
        "matrix": record.matrix,
        "worst_leak_over_bound": max(leaks, default=None),
        "mean_fullness": statistics.fmean(layer.fullness for layer in last) if last else None,
        "frozen_layers": sum(layer.frozen for layer in last),
        "seconds": {"wall": wall, **seconds},
        "config": record.config,
        "environment": record.environment,
    }


def main() -> None:
    """Parse the command line and run the cells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="where the run folders go")
    parser.add_argument("--only", default="", help="cells to run, between commas; all if not given")
    parser.add_argument("--seeds", default="", help="seeds to run, between commas; all if not given")
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    options = parser.parse_args()
    experiment = yaml.safe_load(options.experiment.read_text())
    seeds = [int(seed) for seed in options.seeds.split(",") if seed] or experiment["seeds"]
    names = [name for name in options.only.split(",") if name] or list(experiment["cells"])
    for seed in seeds:
        for name in names:
            values = merged(experiment["base"], experiment["cells"][name])
            values = merged(values, {"seed": seed, "evaluation": {"split": options.split}})
            config = RunConfig.from_mapping(values, options.settings, source=f"{options.experiment}: cell {name}")
            started = time.monotonic()
            record = run_stream(config, options.out / f"{name}-seed{seed}", load_stream(config))
            cell = result_of(record, time.monotonic() - started)
            print(name, f"seed {seed}", json.dumps(cell["summary"]), [s and round(s, 1) for s in record.matrix[-1]], flush=True)  # fmt: skip  # noqa: E501
            if options.split == "test":
                keep(options.experiment.stem, f"{name}/{seed}", cell)


def keep(experiment: str, cell: str, result: dict[str, Any]) -> None:
    """Add one cell to the experiment's committed results."""
    file = RESULTS / f"{experiment}.json"
    results = json.loads(file.read_text()) if file.exists() else {}
    file.write_text(json.dumps({**results, cell: result}, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
