"""``gorp plan``: what a run will cost, before any weights are fetched."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from gorp.cli.shared import as_overrides, progress_only


def command(
    config: Annotated[Path, typer.Argument(metavar="CONFIG.yaml", help="The run's settings.", show_default=False)],
    method: Annotated[str | None, typer.Option(help="Plan for this method instead.")] = None,
    model: Annotated[str | None, typer.Option(help="Plan for this model instead.")] = None,
    data: Annotated[Path | None, typer.Option(help="Folder of the benchmark data.", show_default="$GORP_DATA")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any setting, such as training.batch_size=16."),
    ] = None,
    tasks: Annotated[int | None, typer.Option(min=1, help="Tell spaces after so many tasks; the stream's.")] = None,
    like: Annotated[Path | None, typer.Option(metavar="RUN", help="Let spaces grow as they did in this run.")] = None,
    share: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, help="Share of a layer's width that a task takes.")
    ] = None,
    ranks: Annotated[int, typer.Option(min=1, help="Processes that the run is spread over.")] = 1,
    probe: Annotated[
        bool, typer.Option("--probe/--no-probe", help="Estimate time by 20 steps on this machine.")
    ] = True,
    seconds: Annotated[float, typer.Option(min=1.0, help="Most seconds of the probe's steps.")] = 120.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for scripts.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write the JSON to this file, too.")] = None,
) -> None:
    """Tell what a run will cost: parameters, memory, growth of spaces, operations, and time on this machine.

    Of the model, only config.json is needed, and the tokenizer if it is there; no weights are read.

    \b
    Examples:
      gorp plan examples/standard_cl_order1.yaml
      gorp plan run.yaml --no-probe --json
      gorp plan run.yaml --tasks 30 --like runs/desk
    """
    from gorp.files import write_text_atomically
    from gorp.forecast import forecast
    from gorp.run_config import RunConfig

    given = {"method": method, "model": model, "data.dir": str(data) if data else None}
    resolved = RunConfig.from_yaml(config, [*as_overrides(given), *(settings or [])])
    with progress_only(quiet=True):
        found = forecast(resolved, tasks, like, share, ranks, seconds if probe else None)
    text = found.model_dump_json(indent=1)
    if out is not None:
        write_text_atomically(out, text + "\n")
    if as_json:
        typer.echo(text)
        return
    from gorp.report.forecast import print_forecast

    print_forecast(found)
