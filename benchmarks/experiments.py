"""Run an experiment, methods x seeds, cell by cell, and keep what each cell scored.

    python benchmarks/experiments.py benchmarks/experiments/builtin.yaml --out runs/builtin
    python benchmarks/experiments.py benchmarks/experiments/builtin.yaml --table      # what is kept of it

An experiment file has ``base`` (a run configuration), ``seeds``, and ``cells`` (name -> what differs from the base);
with ``extends`` it says only what differs from another file beside it.
Every cell is a run folder, so an interrupted experiment goes on where it was. Results go to
``benchmarks/results/EXPERIMENT.json``, one entry a cell, as soon as it is finished; ``--split validation`` chooses
settings without looking at test rows, and then nothing is kept. Several processes may work on one experiment, each on
other cells (``--only``, ``--seeds``).
"""

from __future__ import annotations

import argparse
import fcntl
import json
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gorp.files import read_yaml, write_text_atomically
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


def read_experiment(path: Path) -> dict[str, Any]:
    """An experiment file, filled up from the one it extends."""
    values = {**(read_yaml(path, "experiment") or {}), "file": str(path)}
    return merged(read_experiment(path.parent / values.pop("extends")), values) if "extends" in values else values


def config_of(experiment: Mapping[str, Any], cell: str, settings: Sequence[str] = ()) -> RunConfig:
    """The run configuration of one cell; ``settings`` are ``key=value`` overrides."""
    values = merged(experiment["base"], experiment["cells"][cell])
    return RunConfig.from_mapping(values, settings, source=f"{experiment['file']}: cell {cell}")


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
        "config": without_paths(record.config),
        "environment": record.environment,
    }


def without_paths(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's configuration without what only one machine knows: where the model and the data lie."""
    data = {key: value for key, value in config["data"].items() if key != "dir"}
    return {**config, "model": Path(config["model"]).name, "data": data}


def main() -> None:
    """Parse the command line and run the cells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("experiment", type=Path)
    parser.add_argument("--out", type=Path, default=Path("runs/experiments"), help="where the run folders go")
    parser.add_argument("--table", action="store_true", help="print what is kept of the experiment, run nothing")
    parser.add_argument("--only", default="", help="cells to run, between commas; all if not given")
    parser.add_argument("--seeds", default="", help="seeds to run, between commas; all if not given")
    parser.add_argument("--split", choices=("test", "validation"), default="test")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="settings")
    options = parser.parse_args()
    if options.table:
        print_table(json.loads((RESULTS / f"{options.experiment.stem}.json").read_text()))
        return
    experiment = read_experiment(options.experiment)
    seeds = [int(seed) for seed in options.seeds.split(",") if seed] or experiment["seeds"]
    names = [name for name in options.only.split(",") if name] or list(experiment["cells"])
    for seed in seeds:
        for name in names:
            settings = [f"seed={seed}", f"evaluation.split={options.split}", *options.settings]
            config = config_of(experiment, name, settings)
            started = time.monotonic()
            record = run_stream(config, options.out / f"{name}-seed{seed}", load_stream(config))
            cell = result_of(record, time.monotonic() - started)
            print(name, f"seed {seed}", json.dumps(cell["summary"]), [s and round(s, 1) for s in record.matrix[-1]], flush=True)  # fmt: skip  # noqa: E501
            if options.split == "test":
                keep(options.experiment.stem, f"{name}/{seed}", cell)


def keep(experiment: str, cell: str, result: dict[str, Any]) -> None:
    """Add one cell to the experiment's committed results; one process at a time."""
    RESULTS.mkdir(exist_ok=True)
    file = RESULTS / f"{experiment}.json"
    with RESULTS.joinpath(f".{experiment}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        results = json.loads(file.read_text()) if file.exists() else {}
        write_text_atomically(file, json.dumps({**results, cell: result}, indent=1, sort_keys=True) + "\n")


#: 97.5 percent points of Student's t for 1, 2, ... degrees of freedom: a 95% interval of a mean of 2, 3, ... seeds.
_STUDENT = (12.71, 4.30, 3.18, 2.78, 2.57, 2.45, 2.36, 2.31, 2.26)


def mean_and_interval(values: Sequence[float]) -> str:
    """The mean, and half the width of its 95% interval where there are several values."""
    mean = statistics.fmean(values)
    if not 2 <= len(values) <= len(_STUDENT) + 1:
        return f"{mean:.1f}"
    return f"{mean:.1f} ± {_STUDENT[len(values) - 2] * statistics.stdev(values) / len(values) ** 0.5:.1f}"


def print_table(results: Mapping[str, dict[str, Any]]) -> None:
    """Per method, in Markdown: AP and BWT over seeds, AP against gorp's on the same seeds, and the mean last row."""
    by_name: dict[str, dict[str, dict[str, Any]]] = {}
    for cell, result in results.items():
        name, _, seed = cell.rpartition("/")
        by_name.setdefault(name, {})[seed] = result
    print("| method | seeds | AP | BWT | AP less gorp's, paired | after the last task | just learnt |")
    print("|---|---|---|---|---|---|---|")
    ours = by_name.get("gorp", {})
    for name, cells in sorted(by_name.items(), key=lambda item: -statistics.fmean(ap(c) for c in item[1].values())):
        transfers = [c["summary"]["BWT"] for c in cells.values() if c["summary"]["BWT"] is not None]
        pairs = [ap(c) - ap(ours[seed]) for seed, c in cells.items() if seed in ours and name != "gorp"]
        last = [statistics.fmean(scores) for scores in zip(*(c["matrix"][-1] for c in cells.values()), strict=True)]
        rows = [[matrix[i][i] for i in range(len(matrix))] for matrix in (c["matrix"] for c in cells.values())]
        new = [statistics.fmean(scores) for scores in zip(*rows, strict=True)] if transfers else []
        columns = (
            name,
            len(cells),
            mean_and_interval([ap(c) for c in cells.values()]),
            mean_and_interval(transfers) if transfers else "",
            mean_and_interval(pairs) if pairs else "",
            " ".join(f"{score:.0f}" for score in last),
            " ".join(f"{score:.0f}" for score in new),
        )
        print("|", " | ".join(map(str, columns)), "|")


def ap(cell: Mapping[str, Any]) -> float:
    """Average performance of a kept cell."""
    return float(cell["summary"]["AP"])


if __name__ == "__main__":
    main()
