"""``gorp run``: a whole stream, from a configuration."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from gorp.cli.completion import methods
from gorp.cli.shared import as_overrides, is_first_process, progress_only, reporting_breach
from gorp.preemption import stopped_by


@stopped_by(signal.SIGTERM)
def command(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The run's settings.", show_default=False)],
    out: Annotated[Path | None, typer.Option(help="The run folder.", show_default="runs/CONFIG-METHOD-seedN")] = None,
    method: Annotated[str | None, typer.Option(help="Learn with this method instead.", autocompletion=methods)] = None,
    model: Annotated[str | None, typer.Option(help="Start from this model instead.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the benchmark data.", show_default="$GORP_DATA")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random.")] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting, such as training.lr=1e-3.")
    ] = None,
    accept_breach: Annotated[
        bool, typer.Option("--accept-breach", help="Go on although the last task broke the forgetting budget.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Learn a stream of tasks; evaluate every task after every stage; write report.html.

    On the folder of an interrupted run it goes on, on a finished one it says so. Where a task costs the earlier ones
    more than budget.max_forgetting allows, it ends with exit code 3.

    Example:  gorp run examples/standard_cl_order1.yaml --out runs/order1 --seed 1 --set training.epochs=1
    """
    from gorp.launch import leave_ranks
    from gorp.report.html import write_report
    from gorp.run import run_stream
    from gorp.run_config import RunConfig

    given = {"method": method, "model": model, "data.dir": str(data) if data else None, "seed": seed}
    resolved = RunConfig.from_yaml(config, [*as_overrides(given), *(settings or [])])
    folder = out or Path("runs") / f"{config.stem}-{resolved.method}-seed{resolved.seed}"
    with reporting_breach(folder), progress_only(quiet) as progress:
        record = run_stream(resolved, folder, progress=progress, accept_breach=accept_breach)
    leave_ranks()
    if not is_first_process():
        return
    page = write_report([record], folder)
    if not quiet:
        from gorp.report.terminal import print_records

        print_records([record])
        print(f"report: {page}")
