"""``gorp demo``: the built-in model learns the built-in stream with several methods."""

from __future__ import annotations

import signal
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gorp.cli.shared import as_overrides
from gorp.preemption import stopped_by

if TYPE_CHECKING:
    from gorp.run_config import RunConfig

METHODS = "gorp,seq-lora,joint"

#: Settings of the demo, and what differs by method; gorp's rates and memory were chosen on validation rows.
SETTINGS: dict[str, Any] = {
    "model": "t5-tiny",
    "stream": "builtin",
    "training": {
        "epochs": 3,
        "batch_size": 8,
        "schedule": "linear",
        "warmup": 0.05,
        "group_by_length": True,
        "max_source_length": 192,
    },
    "evaluation": {"batch_size": 100},
    "lora": {"targets": ["SelfAttention", "DenseReluDense", "EncDecAttention"]},
    "gorp": {
        "lora_targets": ["SelfAttention", "DenseReluDense"],
        "full_rank_targets": ["EncDecAttention"],
        "memory": "weighted_features",
        "energy": 0.98,
        "damping": 0.33,  # or the encoder forgets: docs/method.md
        "max_share": 0.97,
    },
}
BY_METHOD: dict[str, dict[str, Any]] = {
    "gorp": {"training.lr": 3e-3, "training.full_rank_lr": 1e-2},
    "seq-lora": {"training.lr": 2e-3},
    "inc-lora": {"training.lr": 2e-3},
    "joint": {"training.lr": 3e-3},
}


def demo_config(method: str, seed: int, settings: Sequence[str] = ()) -> RunConfig:
    """The demo's configuration of one method; ``settings`` are ``key=value`` overrides."""
    from gorp.run_config import RunConfig
    from gorp.run_setup import settle_options

    overrides = [*as_overrides(BY_METHOD.get(method, {})), *settings]
    return settle_options(
        RunConfig.from_mapping({**SETTINGS, "method": method, "seed": seed}, overrides, source="demo")
    )


@stopped_by(signal.SIGTERM)
def command(
    out: Annotated[Path, typer.Option(help="Where the runs and report.html go.")] = Path("runs/demo"),
    seed: Annotated[int, typer.Option(help="Seed of everything random.")] = 0,
    methods: Annotated[str, typer.Option(help="Methods, between commas.")] = METHODS,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting, such as training.epochs=1.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Teach the built-in model five tasks, one after the other, with three methods; compare what they forget.

    The methods learn side by side, each in a process of its own; started again, they go on where they were.

    Example:  gorp demo --out runs/demo
    """
    from gorp.compare import COMPARES, LOCK
    from gorp.compare.display import open_display
    from gorp.compare.fleet import Job, raise_for_failures, run_jobs
    from gorp.compare.launchers import LocalLauncher
    from gorp.files import locked
    from gorp.methods import check_method
    from gorp.report.html import write_report
    from gorp.report.record import RunRecord

    names = [check_method(name.strip()) for name in methods.split(",")]
    jobs = [Job(name, demo_config(name, seed, settings or []), out / name) for name in names]
    with locked(out / LOCK, COMPARES), open_display(jobs, quiet) as on_change:
        for job in jobs:
            job.look()
        run_jobs(jobs, LocalLauncher(len(jobs)), on_change=on_change)
    records = [RunRecord.load(job.folder) for job in jobs if job.state == "done"]
    page = write_report(records, out) if records else None
    if records and not quiet:
        from gorp.report.terminal import print_records

        print_records(records)
        print(f"report: {page}")
    raise_for_failures(jobs)
