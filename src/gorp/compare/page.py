"""What an experiment found, as files: tables in Markdown, LaTeX and CSV, and one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from gorp import metrics
from gorp.compare.results import CellResult, Results
from gorp.compare.tables import Entry, all_grids, entries, summary_grid
from gorp.files import write_text_atomically
from gorp.report.drawing import Plot
from gorp.report.pages import pictures, render
from gorp.report.plots import Curve, Line, curves_grid
from gorp.report.plots_of_methods import Scatter
from gorp.report.tables import to_csv, to_latex, to_markdown

PAGE_FILE = "comparison.html"
Figure = Callable[[Entry], float | None]


def write_files(results: Results, title: str, about: str, against: str, folder: Path) -> Path:
    """Write ``tables.md``, ``tables.tex``, ``summary.csv`` and ``comparison.html``; returns the page."""
    grids = all_grids(results, against, title)
    write_text_atomically(folder / "tables.md", "\n".join(map(to_markdown, grids)))
    write_text_atomically(folder / "tables.tex", "\n".join(map(to_latex, grids)))
    write_text_atomically(folder / "summary.csv", to_csv(summary_grid(results, against, title)))
    return write_text_atomically(folder / PAGE_FILE, render_page(results, title, about, against))


def render_page(results: Results, title: str, about: str, against: str) -> str:
    """The page as text. Raises ``ValueError`` if there is no result."""
    if not results:
        raise ValueError("a comparison needs at least one finished cell")
    found = entries(results, against)
    return render(
        "comparison.html.j2",
        title=title,
        about=about,
        against=against,
        grids=all_grids(results, against, "AP, BWT and FWT"),
        trade_offs=pictures(_trade_offs(found), "scatter"),
        curves=[
            (stream, pictures(curves, f"curve{number}-"), curves_grid(curves))
            for number, (stream, curves) in enumerate(_curves(found).items())
        ],
        styles={entry.name: style for style, entry in enumerate(found)},
        tunings=_tunings(found),
        environments=sorted({_machine(run) for run in results.values()}),
    )


def comparison_plots(results: Results, against: str) -> list[Plot]:
    """Every plot of the page, in its order."""
    found = entries(results, against)
    return [*_trade_offs(found), *(curve for curves in _curves(found).values() for curve in curves)]


def _trade_offs(found: Sequence[Entry]) -> list[Scatter]:
    ap, bwt = _mean_of("AP"), _mean_of("BWT")
    drawings: list[tuple[str, tuple[str, str], Figure, Figure]] = [
        ("AP against BWT", ("BWT", "AP"), bwt, ap),
        (
            "Stability against plasticity",
            ("mean score when just learnt", "mean score of earlier tasks at the end"),
            lambda entry: entry.just_learnt,
            lambda entry: entry.kept,
        ),
        ("Cost against AP", ("seconds of training", "AP"), lambda entry: entry.training_seconds, ap),
    ]
    scatters = []
    for heading, titles, x, y in drawings:
        points = []
        for style, entry in enumerate(found):
            across, up = x(entry), y(entry)
            if across is not None and up is not None:
                points.append((entry.name, style, across, up))
        if points:
            scatters.append(Scatter(heading, titles, tuple(points)))
    return scatters


def _mean_of(key: str) -> Figure:
    def figure(entry: Entry) -> float | None:
        found = entry.figure(key)
        return None if found is None else found.value

    return figure


def _curves(found: Sequence[Entry]) -> dict[str, list[Curve]]:
    """Per stream, per task, the score over the stages: the mean over seeds, a line per cell."""
    streams = dict.fromkeys(run.stream for entry in found for run in entry.runs)
    curves = {}
    for stream in streams:
        tasks = next(run.tasks for entry in found for run in entry.runs if run.stream == stream)
        parts = [(entry.name, [run for run in entry.runs if run.stream == stream]) for entry in found]
        curves[stream] = [
            Curve(
                task,
                tuple(_line(name, style, runs, position) for style, (name, runs) in enumerate(parts) if runs),
                stream if len(streams) > 1 else "",
            )
            for position, task in enumerate(tasks)
        ]
    return curves


def _line(name: str, style: int, runs: Sequence[CellResult], task: int) -> Line:
    histories = [[run.zero_shot[task], *(row[task] for row in run.matrix)] for run in runs]
    values = [metrics.mean(column) for column in zip(*histories, strict=True)]
    return Line(name, style, values, level=all(metrics.measured_once(run.matrix) for run in runs))


def _tunings(found: Sequence[Entry]) -> list[tuple[str, list[tuple[str, float | None, bool]]]]:
    """Per cell with a grid: the settings tried, their AP on validation rows, and whether they were chosen."""
    tunings = [(entry.name, entry.runs[0].tuning) for entry in found]
    return [
        (
            name,
            [
                (", ".join(f"{key}={value}" for key, value in choice.items()), ap, choice == tuning.chosen)
                for choice, ap in tuning.tried
            ],
        )
        for name, tuning in tunings
        if tuning is not None
    ]


def _machine(run: CellResult) -> str:
    told = run.environment
    keys = ("device", "processor_count", "threads", "python", "torch", "transformers", "peft", "gorp-cl", "commit")
    return ", ".join(f"{key} {told[key]}" for key in keys if told.get(key) is not None)
