"""How near `gorp plan` comes: its peak memory and its times beside those of the same run, on three configurations.

    GORP_DATA=DIR python benchmarks/forecasts.py --t5 MODEL --out benchmarks/performance/forecasts.json

Of each configuration, in turns: a forecast in a process of its own, then the run in another, ROUNDS times. Time is the
seconds of training and of evaluation that the run's record tells, summed over its tasks, without the evaluation before
the first one. Other work on the machine changes the pace between the two, so told are medians of the rounds' ratios.

Memory: of a run on fewer rows, with a forecast of its own, the most bytes of tensors alive at an instant, on a CPU as
torch's profiler sees the allocator, on a GPU as the allocator tells. Beside it, without a goal, the same forecast over
what the process had at most in main memory (VmHWM, on a CPU, from a run that is not profiled), less what it had once
libraries were imported: that has in it what allocators hold back, files that are mapped, and Python's own.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch
from timing import Figure, tell
from torch.profiler import ProfilerActivity, profile

ROUNDS = 3
SHORT = 40
"""Rows to train on where the profiler looks."""
BOTH, RESIDENT = "training and evaluation", "main memory of the process"
GOALS = {BOTH: "0.5 - 1.5"}


def configurations(t5: str | None) -> dict[str, dict[str, Any]]:
    """Name to settings; those of the mini T5 only where it is given."""
    gorp = {"memory": "weighted_features", "energy": 0.98, "max_share": 0.97, "protect_outputs": False}
    standard = {
        "stream": "standard-cl/1",
        "data": {"train_rows": 120, "validation_rows": 20, "test_rows": 60},
        "training": {"epochs": 1, "max_source_length": 128, "group_by_length": True},
        "evaluation": {"batch_size": 50},
    }
    found: dict[str, dict[str, Any]] = {
        "t5-tiny, builtin, gorp": {
            "model": "t5-tiny",
            "stream": "builtin",
            "data": {"train_rows": 120, "test_rows": 60},
            "training": {"epochs": 1},
        },
        "minilm, standard-cl/1, gorp": {"model": "minilm", **standard},
    }
    if t5 is not None:
        found["mini T5, standard-cl/1, gorp"] = {
            "model": str(Path(t5).resolve()),
            **standard,
            "gorp": {
                **gorp,
                "lora_targets": ["SelfAttention", "DenseReluDense"],
                "full_rank_targets": ["EncDecAttention"],
            },
        }
    return found


def resident(key: str) -> int:
    """Bytes of main memory that this process has (VmRSS) or ever had (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


def measured_run(config: Path, folder: Path, profiled: bool) -> dict[str, Any]:
    """The run, in this process: memory and seconds."""
    from gorp.launch import join_ranks
    from gorp.learner import ContinualLearner
    from gorp.report.record import RunRecord
    from gorp.run_config import RunConfig
    from gorp.run_setup import load_base, load_stream

    settings = RunConfig.from_yaml(config)
    stream = load_stream(settings)
    _warm_libraries()
    join_ranks()
    before = resident("VmRSS")
    backbone = load_base(settings)

    def learn() -> RunRecord:
        learner = ContinualLearner(backbone.model, backbone.tokenizer, run_dir=folder, config=settings)
        learner.learn_stream(stream)
        return learner.record

    if profiled:
        weights = sum(parameter.nbytes for parameter in backbone.model.parameters())  # which were there before
        return {"memory": most_alive(learn, weights)}
    record = learn()
    columns = [layer.rank / layer.width for layer in record.stages[0].layers.values() if layer.rank]
    return {
        "resident": resident("VmHWM") - before,
        "training": [stage.seconds["train"] for stage in record.stages],
        "evaluation": [stage.seconds["evaluate"] for stage in record.stages],
        "share": sum(columns) / len(columns),
    }


def most_alive(run: Callable[[], object], already: int) -> int:
    """The most bytes of tensors alive at an instant while it ran; on a CPU, ``already`` of them were before."""
    if torch.cuda.is_available():
        run()
        return torch.cuda.max_memory_allocated()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as trace:
        run()
    events = trace.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    return already + max(accumulate(change for _, change in changes))


def _warm_libraries() -> None:
    """Import what is imported on first use, by a model of next to no size."""
    from transformers import T5Config, T5ForConditionalGeneration
    from transformers.trainer import Trainer

    import gorp

    sizes = {"vocab_size": 8, "d_model": 8, "d_ff": 8, "d_kv": 4, "num_heads": 2, "num_layers": 1}
    model = T5ForConditionalGeneration(T5Config(**sizes, decoder_start_token_id=0))
    gorp.attach(
        model, gorp.GORPConfig(lora_targets=("SelfAttention.q",), full_rank_targets=("EncDecAttention",), rank=2)
    )
    tokens = torch.ones(1, 2, dtype=torch.int64)
    optimizer = gorp.GORPAdamW(gorp.param_groups(model))
    model(input_ids=tokens, labels=tokens).loss.backward()
    optimizer.step()
    assert Trainer


def in_process(*arguments: str) -> Any:
    """What a command prints as JSON."""
    run = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    if run.returncode:
        raise SystemExit(run.stderr)
    return json.loads(run.stdout[run.stdout.index("{") :])


def compare(name: str, settings: dict[str, Any], rounds: int) -> list[Figure]:
    """Forecast over measured, of memory and of times."""
    seen: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for turn in range(rounds):
            config = Path(folder, f"run{turn}.yaml")
            config.write_text(json.dumps(settings))  # YAML, too
            told = in_process("-m", "gorp", "plan", str(config), "--json")
            ran = in_process(__file__, "--run", str(config), "--folder", f"{folder}/run{turn}")
            times = [
                (sum(told["time"]["training"]), sum(ran["training"])),
                (sum(told["time"]["evaluation"][1:]), sum(ran["evaluation"])),
            ]
            seen.setdefault("training", []).append(times[0])
            seen.setdefault("evaluation", []).append(times[1])
            seen.setdefault(BOTH, []).append((times[0][0] + times[1][0], times[0][1] + times[1][1]))
            seen.setdefault(RESIDENT, []).append((told["memory"]["peak"], ran["resident"]))
            print(f"{name}, round {turn + 1}: the first task took {ran['share']:.1%} of a width", flush=True)
        short = Path(folder, "short.yaml")
        short.write_text(json.dumps({**settings, "data": {**settings["data"], "train_rows": SHORT}}))
        told = in_process("-m", "gorp", "plan", str(short), "--json", "--no-probe")
        ran = in_process(__file__, "--run", str(short), "--folder", f"{folder}/short", "--profile")
        print(f"{name}: {told['memory']}, measured {ran['memory']}", flush=True)
    share = told["memory"]["peak"] / ran["memory"]
    figures = [Figure(f"{name}: peak of tensors, forecast / measured", share, share, share, "0.9 - 1.1")]
    for what, pairs in seen.items():
        figure = Figure.ratio(f"{name}: {what}, forecast / measured", *zip(*pairs, strict=True), GOALS.get(what, ""))
        figures.append(replace(figure, seconds=None) if what == RESIDENT else figure)
    return figures


def main() -> None:
    """Parse the command line, measure, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--t5", help="folder of a small T5; without it, two configurations are measured")
    parser.add_argument("--only", help="part of the name of what is measured")
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--run", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--profile", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run is not None:
        print(json.dumps(measured_run(options.run, options.folder, options.profile)))
        return
    figures = []
    for name, settings in configurations(options.t5).items():
        if options.only is None or options.only in name:
            figures += compare(name, settings, options.rounds)
    tell("forecasts of gorp plan, beside the run itself", figures, options.out)


if __name__ == "__main__":
    main()
