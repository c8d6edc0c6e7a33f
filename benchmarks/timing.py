"""Times taken side by side in one run, told as ratios: a machine's pace drifts, the ratio of neighbours hardly does."""

from __future__ import annotations

import gc
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from rich.console import Console

from gorp.files import write_text_atomically
from gorp.report.tables import Grid, to_rich
from gorp.run_setup import describe_environment

Seconds = dict[str, list[float]]


def alternate(candidates: Mapping[str, Callable[[], object]], rounds: int, warm_up: bool = True) -> Seconds:
    """Seconds of each candidate in every round; the order turns round from one round to the next."""
    if warm_up:
        for candidate in candidates.values():
            candidate()
    seconds: Seconds = {name: [] for name in candidates}
    for turn in range(rounds):
        for name in list(candidates)[:: 1 if turn % 2 == 0 else -1]:
            with without_collector():
                finish()
                start = time.perf_counter()
                candidates[name]()
                finish()
                seconds[name].append(time.perf_counter() - start)
    return seconds


def finish() -> None:
    """Wait for the accelerator, if there is one, to do what it has been told."""
    if torch.accelerator.is_available():
        torch.accelerator.synchronize()


@contextmanager
def without_collector() -> Iterator[None]:
    """Python's garbage collector off, as timeit has it: whoever makes the next object would pay for all."""
    was_on = gc.isenabled()
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


@dataclass
class Figure:
    """One line of a table: what was measured, the median over the rounds with its range, and what was asked."""

    what: str
    median: float
    lowest: float
    highest: float
    goal: str = ""
    seconds: tuple[float, float] | None = None  # medians of numerator and denominator

    @classmethod
    def of(cls, what: str, values: Sequence[float], goal: str = "") -> Figure:
        """Of one value a round."""
        return cls(what, statistics.median(values), min(values), max(values), goal)

    @classmethod
    def ratio(cls, what: str, over: Sequence[float], under: Sequence[float], goal: str = "") -> Figure:
        """Of times taken in the same rounds."""
        ratios = [a / b for a, b in zip(over, under, strict=True)]
        medians = (statistics.median(over), statistics.median(under))
        return cls(what, statistics.median(ratios), min(ratios), max(ratios), goal, medians)


def grid(title: str, figures: Sequence[Figure]) -> Grid:
    """The figures as a table."""
    rows = [
        (
            figure.what,
            f"{figure.median:.5g}",
            f"{figure.lowest:.4g} - {figure.highest:.4g}",
            " / ".join(f"{value:.3g}" for value in figure.seconds or ()),
            figure.goal,
        )
        for figure in figures
    ]
    return Grid(title, ("what", "median", "range", "seconds", "goal"), tuple(rows))


def tell(title: str, figures: Sequence[Figure], out: Path | None) -> None:
    """Print the figures as one table; with ``out``, also write them as JSON, with the machine."""
    console = Console()
    console.width = max(console.width, 160)
    console.print(to_rich(grid(title, figures)))
    if out is not None:
        machine = describe_environment() | {
            "processor": processor(),
            "instructions": torch.backends.cpu.get_cpu_capability(),
        }
        content = {"title": title, "machine": machine, "figures": [asdict(figure) for figure in figures]}
        write_text_atomically(out, json.dumps(content, indent=1) + "\n")


def processor() -> str:
    """The processor's name, where Linux tells it; else what Python knows."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
