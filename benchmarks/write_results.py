"""Write docs/results.md: the words of benchmarks/results.md.j2 with the figures of benchmarks/results/*.json.

    python benchmarks/write_results.py

In the words, ``table("NAME")`` is the summary of results/NAME.json and ``tasks("NAME", STREAM)`` its scores by task;
``less("NAME", CELL, KEY, OTHER)`` is the mean difference of two cells, paired, with its interval.
A figure without a run is an error.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from jinja2 import Environment, StrictUndefined

from gorp.compare.results import Results, read_results
from gorp.compare.tables import Entry, entries, interval, summary_grid, task_grid
from gorp.files import write_text_atomically
from gorp.report.tables import to_markdown

HERE = Path(__file__).parent
TEMPLATE, RESULTS = HERE / "results.md.j2", HERE / "results"
PAGE = HERE.parent / "docs" / "results.md"


def render() -> str:
    """The page as text."""
    environment = Environment(undefined=StrictUndefined, keep_trailing_newline=True, trim_blocks=True)
    return environment.from_string(TEMPLATE.read_text()).render(table=table, tasks=tasks, less=less)


def results(name: str) -> Results:
    """The finished cells of an experiment."""
    found = read_results(RESULTS / f"{name}.json")
    if not found:
        raise ValueError(f"results/{name}.json holds no finished cell")
    return found


def table(name: str) -> str:
    """AP, BWT and FWT of every cell, as Markdown."""
    return to_markdown(summary_grid(results(name), "gorp", name))


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


def entry(name: str, cell: str, against: str) -> Entry:
    """The runs of one cell, paired with those of another."""
    return next(found for found in entries(results(name), against) if found.name == cell)


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(write_text_atomically(PAGE, render()))
