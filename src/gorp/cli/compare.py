"""``gorp compare``: methods x streams x seeds, and what they tell."""

from __future__ import annotations

import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gorp.cli.shared import parse_list
from gorp.errors import InputError, nearest
from gorp.preemption import stopped_by

if TYPE_CHECKING:
    from gorp.compare.launchers import Launcher
    from gorp.compare.results import Results


class Launchers(str, Enum):
    """Where cells run."""

    LOCAL = "local"
    RAY = "ray"


#: Of the options, those that tell how results are shown.
SHOWS = ("experiment", "out", "against", "png", "quiet")


@stopped_by(signal.SIGTERM)
def command(
    context: typer.Context,
    experiment: Annotated[
        Path,
        typer.Argument(
            metavar="EXPERIMENT.yaml|RESULTS.json", help="What to run, or results to tabulate.", show_default=False
        ),
    ],
    out: Annotated[
        Path | None, typer.Option(help="Where runs, tables and page go.", show_default="runs/EXPERIMENT")
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Most cells at a time, each a process; on one machine they share the cores.",
            show_default="1; with ray, as many as there is room for",
        ),
    ] = None,
    launcher: Annotated[
        Launchers, typer.Option(help="Where cells run: here, or on the nodes of a Ray cluster.")
    ] = Launchers.LOCAL,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="HOST:PORT", help="The Ray cluster.", show_default="$RAY_ADDRESS, or one of this machine alone"
        ),
    ] = None,
    cpus_per_cell: Annotated[int | None, typer.Option(min=1, help="Cores of a cell on Ray.", show_default="1")] = None,
    gpus_per_cell: Annotated[
        float | None,
        typer.Option(min=0, help="GPUs of a cell on Ray; 0.5: two share one.", show_default="1 if there are any"),
    ] = None,
    retries: Annotated[int, typer.Option(min=0, help="Further attempts of a cell that fails.")] = 1,
    only: Annotated[str, typer.Option(metavar="A,B,...", help="Cells to run.", show_default="all")] = "",
    streams: Annotated[str, typer.Option(metavar="A,B,...", help="Streams to run.", show_default="all")] = "",
    seeds: Annotated[str, typer.Option(metavar="0,1,...", help="Seeds to run.", show_default="all")] = "",
    against: Annotated[
        str | None,
        typer.Option(
            metavar="CELL", help="Compare the others with this cell.", show_default="the experiment's, or gorp"
        ),
    ] = None,
    keep_in: Annotated[
        Path | None,
        typer.Option(
            "--keep",
            metavar="FILE.json",
            help="Also add finished cells to this results file; what it holds with the same settings is not run again.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Any setting, of every cell.")
    ] = None,
    png: Annotated[
        Path | None, typer.Option(metavar="FOLDER", help="Also write every plot of the page to a PNG file there.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Print nothing but errors.")] = False,
) -> None:
    """Run an experiment, every cell a process of its own; print what was found and write tables and a page.

    Started again it goes on where it was. Grids of settings are tried on validation rows first.

    \b
    Examples:
      gorp compare benchmarks/experiments/builtin.yaml --workers 2
      gorp compare benchmarks/results/builtin.json
      gorp compare benchmarks/experiments/builtin.yaml --launcher ray --address 10.0.0.1:6379 --out /shared/builtin
    """
    if experiment.suffix == ".json":
        _refuse_what_runs_cells(context)
        _tabulate(experiment, against, out, png, quiet)
        return
    from gorp.compare import COMPARES, LOCK
    from gorp.compare.comparison import Comparison
    from gorp.compare.display import open_display
    from gorp.compare.experiment import Experiment, unlike
    from gorp.compare.fleet import raise_for_failures
    from gorp.compare.results import keep, read_results
    from gorp.files import locked

    declared = Experiment.read(experiment)
    other = _other_cell(against, declared.against, declared.cells)
    folder = out or Path("runs") / declared.name
    kept = read_results(keep_in) if keep_in else None
    with locked(folder / LOCK, COMPARES):
        comparison = Comparison(
            declared, folder, settings or [], parse_list(only), parse_list(streams), _numbers(seeds), kept
        )
        if keep_in and any(config.evaluation.split != "test" for config in comparison.configs.values()):
            raise InputError("--keep is for results on test rows; evaluation.split is validation")
        if not quiet:
            for sentence in unlike(comparison.configs):
                typer.echo(f"note: {sentence}", err=True)
        with (
            _launcher(launcher, workers, address, cpus_per_cell, gpus_per_cell) as where,
            open_display(comparison.jobs, quiet) as on_change,
        ):
            comparison.run(where, retries, on_change, lambda found: keep(keep_in, found) if keep_in else None)
        results, stale = comparison.results()
        if stale and not quiet:
            typer.echo(f"note: left out, for they were run with other settings: {', '.join(stale)}", err=True)
        if results:
            _show(results, declared.name, declared.about, other, folder, png, quiet)
        raise_for_failures(comparison.jobs)


@contextmanager
def _launcher(
    kind: Launchers, workers: int | None, address: str | None, cpus: int | None, gpus: float | None
) -> Iterator[Launcher]:
    if kind is Launchers.RAY:
        try:
            from gorp.compare.ray_launcher import open_ray
        except ImportError as error:
            raise InputError(f"--launcher ray needs ray ({error}): pip install gorp-cl[ray]") from None
        with open_ray(address, workers, cpus or 1, gpus) as launcher:
            yield launcher
    else:
        from gorp.compare.launchers import LocalLauncher

        for option, value in {"--address": address, "--cpus-per-cell": cpus, "--gpus-per-cell": gpus}.items():
            if value is not None:
                raise InputError(f"{option} {value}: is for cells on Ray; add --launcher ray, or leave it out")
        yield LocalLauncher(workers or 1)


def _refuse_what_runs_cells(context: typer.Context) -> None:
    for parameter in context.command.params:
        source = context.get_parameter_source(str(parameter.name))
        if parameter.name not in SHOWS and source is not None and source.name == "COMMANDLINE":
            raise InputError(f"{parameter.opts[0]}: is for an experiment's cells; results are shown as they are")


def _other_cell(given: str | None, otherwise: str, cells: Iterable[str]) -> str:
    if given is not None and given not in (names := list(dict.fromkeys(cells))):
        raise InputError(f"--against {given}: no such cell{nearest(given, names)}; accepted: {', '.join(names)}")
    return given or otherwise


def _tabulate(file: Path, against: str | None, out: Path | None, png: Path | None, quiet: bool) -> None:
    from gorp.compare.results import read_results

    if not file.exists():
        raise InputError(f"{file}: no such file; give a results file, or an experiment to run")
    results = read_results(file)
    if not results:
        raise InputError(f"{file}: holds no finished cell")
    other = _other_cell(against, "gorp", (result.cell for result in results.values()))
    _show(results, file.stem, "", other, out, png, quiet)


def _show(
    results: Results, title: str, about: str, against: str, folder: Path | None, png: Path | None, quiet: bool
) -> None:
    from gorp.compare.page import comparison_plots, write_files
    from gorp.compare.tables import all_grids
    from gorp.report.run_plots import write_pngs
    from gorp.report.tables import to_rich
    from gorp.report.terminal import open_console

    page = write_files(results, title, about, against, folder) if folder is not None else None
    pictures = write_pngs(comparison_plots(results, against), png) if png is not None else []
    if not quiet:
        console = open_console()
        for grid in all_grids(results, against, title):
            console.print(to_rich(grid), markup=False, highlight=False)
        if page:
            print(f"page: {page}")
        if pictures:
            print(f"plots: {len(pictures)} in {png}")


def _numbers(text: str) -> list[int]:
    try:
        return [int(part) for part in parse_list(text)]
    except ValueError:
        raise InputError(f"--seeds {text}: expected whole numbers between commas, such as 0,1,2") from None
