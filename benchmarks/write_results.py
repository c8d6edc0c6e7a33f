"""Write docs/results.md, performance.md and scaling.md: the words of benchmarks/*.md.j2 with measured figures.

    python benchmarks/write_results.py

Figures are those of results/*.json and performance/*.json. In the words, ``table("NAME")`` is the summary of
results/NAME.json and ``tasks("NAME", STREAM)`` its scores by task; ``less("NAME", CELL, KEY, OTHER)`` is the mean
difference of two cells, paired, with its interval; ``figure("NAME", CELL, KEY, STREAM)`` a cell's own mean, on one
stream or all; ``learnt("NAME", CELL, STREAM)`` that of its scores when tasks were just learnt; ``performance("NAME")``
is the table of performance/NAME.json, with its machine; ``devices.TABLE()`` is a table of device_tables.py. A figure
without a run is an error.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import device_tables
from jinja2 import Environment, StrictUndefined
from timing import Figure, grid

from gorp.compare.results import Results, read_results
from gorp.compare.tables import Entry, entries, interval, summary_grid, task_grid
from gorp.files import write_text_atomically
from gorp.report.tables import to_markdown
from gorp.report.words import score

HERE = Path(__file__).parent
RESULTS, PERFORMANCE = HERE / "results", HERE / "performance"
PAGES = [HERE.parent / "docs" / f"{name}.md" for name in ("results", "performance", "scaling")]


def render(page: Path) -> str:
    """A page as text."""
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True)
    words = environment.from_string((HERE / f"{page.name}.j2").read_text())
    return words.render(
        table=table,
        tasks=tasks,
        less=less,
        figure=figure,
        learnt=learnt,
        performance=performance,
        devices=device_tables,
    )


def results(name: str) -> Results:
    """The finished cells of an experiment."""
    found = read_results(RESULTS / f"{name}.json")
    if not found:
        raise ValueError(f"results/{name}.json holds no finished cell")
    return found


def table(name: str, against: str = "gorp") -> str:
    """AP, BWT and FWT of every cell, and its differences from one of them, as Markdown."""
    return to_markdown(summary_grid(results(name), against, name))


def tasks(name: str, stream: str) -> str:
    """Scores by task of one stream, as Markdown."""
    part = {key: result for key, result in results(name).items() if result.stream == stream}
    if not part:
        raise ValueError(f"results/{name}.json holds no finished cell of {stream}")
    return to_markdown(task_grid(part, "gorp", f"{stream}: score at the end (when just learnt), by task"))


def less(name: str, cell: str, key: str, other: str) -> str:
    """The mean difference of two cells, on the same streams with the same seeds, with its interval."""
    found = entry(name, cell, other).less_the_other(key)
    if found is None:
        raise ValueError(f"{name}: {cell} and {other} have no runs in common with a {key}")
    return interval(found.difference, signed=True)


def figure(name: str, cell: str, key: str, stream: str | None = None) -> str:
    """The mean of a figure over a cell's seeds, with its interval; of one stream, or of all."""
    found = entry(name, cell, cell, stream).figure(key)
    if found is None:
        raise ValueError(f"{name}: {cell} has no {key}")
    return interval(found, signed=key in ("BWT", "FWT"))


def learnt(name: str, cell: str, stream: str | None = None) -> str:
    """The mean score of tasks when they had just been learnt, of one stream, or of all."""
    return score(entry(name, cell, cell, stream).just_learnt)


def performance(name: str) -> str:
    """Times or bytes, as ratios, as Markdown."""
    measured = json.loads((PERFORMANCE / f"{name}.json").read_text())
    machine = measured["machine"]
    where = (
        f"{machine['processor']}, {machine['threads']} of {machine['processor_count']} cores, torch {machine['torch']}"
    )
    figures = [Figure(**figure) for figure in measured["figures"]]
    return to_markdown(grid(f"{measured['title']} ({where})", figures))


def entry(name: str, cell: str, against: str, stream: str | None = None) -> Entry:
    """The runs of one cell, paired with those of another; of one stream, or of all."""
    part = {key: result for key, result in results(name).items() if stream in (None, result.stream)}
    return next(found for found in entries(part, against) if found.name == cell)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    for page in PAGES:
        print(write_text_atomically(page, render(page)))
