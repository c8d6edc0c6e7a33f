"""The figures of an experiment as grids: a row per cell, its runs on all streams and seeds taken together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean, mode

from gorp import metrics
from gorp.compare.results import CellResult, Results, worst
from gorp.compare.statistics import Mean, Paired, mean, paired
from gorp.methods import METHODS, load_method
from gorp.report.tables import Grid
from gorp.report.words import NOT_MEASURED, change, score

PLUS_MINUS = "\N{PLUS-MINUS SIGN}"


@dataclass(frozen=True)
class Entry:
    """The runs of one cell, and those of the cell it is compared with on the same streams and seeds.

    Attributes:
        pairs: (own run, the other cell's run); empty for that cell itself.
        device: the one whose runs tell what the cell costs, for others are slower or faster.
    """

    name: str
    runs: tuple[CellResult, ...]
    pairs: tuple[tuple[CellResult, CellResult], ...] = ()
    device: str | None = None

    def figure(self, key: str) -> Mean | None:
        """AP, BWT or another figure of the summary over seeds; None where any run leaves it undefined.

        Streams of one seed share rows and start, so they are averaged first, and seeds alone count as independent.
        """
        values = _by_seed((run.seed, run.summary.get(key)) for run in self.runs)
        return None if values is None else mean(values)

    def less_the_other(self, key: str) -> Paired | None:
        """The figure less the other cell's on the same stream and seed, over seeds; None where it is undefined."""
        ours = _by_seed((run.seed, run.summary.get(key)) for run, _ in self.pairs)
        theirs = _by_seed((run.seed, run.summary.get(key)) for _, run in self.pairs)
        return None if ours is None or theirs is None else paired(ours, theirs)

    @property
    def seeds(self) -> int:
        """How many seeds there are."""
        return len({run.seed for run in self.runs})

    @property
    def streams(self) -> int:
        """How many streams there are."""
        return len({run.stream for run in self.runs})

    @property
    def is_even(self) -> bool:
        """Whether every seed has every stream, so that seeds differ by chance alone."""
        return len({(run.stream, run.seed) for run in self.runs}) == self.streams * self.seeds

    @property
    def worst_leak(self) -> float | None:
        """The largest leak of any run, as a share of what round-off may leave; None where nothing is protected."""
        return worst(run.worst_leak_over_bound for run in self.runs if run.worst_leak_over_bound is not None)

    @property
    def just_learnt(self) -> float | None:
        """Mean score of tasks when they had just been learnt, in percent (plasticity)."""
        one_task = len(self.runs[0].tasks) < 2
        return None if one_task else metrics.mean([value for run in self.runs for value in run.just_learnt])

    @property
    def kept(self) -> float | None:
        """Mean score at the end of all tasks but the last, in percent (stability); None where learnt all at once."""
        if self.just_learnt is None:
            return None
        return metrics.mean([value for run in self.runs for value in run.matrix[-1][:-1]])

    @property
    def _on_the_device(self) -> list[CellResult]:
        return [run for run in self.runs if run.device == self.device]

    @property
    def training_seconds(self) -> float | None:
        """Seconds of training and of keeping what a task needs, a run on the device; None where it made none."""
        seconds = [run.seconds.get("train", 0.0) + run.seconds.get("memory", 0.0) for run in self._on_the_device]
        return fmean(seconds) if seconds else None

    @property
    def peak_megabytes(self) -> float | None:
        """The most memory of any run on the device, in 10^6 bytes; None where it was not measured."""
        peaks = [run.peak_memory_bytes for run in self._on_the_device if run.peak_memory_bytes is not None]
        return max(peaks) / 1e6 if peaks else None

    @property
    def notes(self) -> str:
        """What sets the cell apart from those with every stream for every seed, all with the same settings, and its
        method from those that see one task at a time and are not told which one is scored."""
        notes, method = [] if self.is_even else ["uneven seeds"], self.runs[0].method
        settings = [run.settings for run in self.runs]
        notes += [] if all(told == settings[0] for told in settings) else ["mixed settings"]
        if method in METHODS:
            kind = load_method(method)
            notes += ["old rows"] if kind.keeps_old_rows else []
            notes += ["told task"] if kind.told_task else []
        return " ".join(notes)


def entries(results: Results, against: str) -> list[Entry]:
    """One entry per cell, the best AP first; pairs are with the runs of the cell ``against``.

    Costs are told of the device that most results are of.
    """
    by_name: dict[str, list[CellResult]] = {}
    for result in results.values():
        by_name.setdefault(result.cell, []).append(result)
    others = {(run.stream, run.seed): run for run in by_name.get(against, [])}
    devices = [result.device for result in results.values()]
    device = mode(devices) if devices else None
    found = []
    for name, runs in by_name.items():
        partners = [(run, others.get((run.stream, run.seed))) for run in runs if name != against]
        pairs = tuple((run, other) for run, other in partners if other is not None)
        found.append(Entry(name, tuple(runs), pairs, device))
    return sorted(found, key=lambda entry: -_value(entry.figure("AP")))


def summary_grid(results: Results, against: str, title: str = "") -> Grid:
    """AP, BWT and FWT with 95% intervals, and AP and BWT less those of ``against``, paired, with the test's p.

    ``leak`` is the worst of any layer, as a share of what round-off may leave. Where unseen tasks were measured, their
    mean has a column, too; FWT has none where it was not measured, ``streams`` where all have the same one, and the
    differences where ``against`` has no run that another shares. Where runs were made on several devices, the costs
    are of the one that is named.
    """
    found = entries(results, against)
    several = len({run.stream for run in results.values()}) > 1
    compared = any(entry.pairs for entry in found)
    measured = {key for run in results.values() for key, value in run.summary.items() if value is not None}
    figures = ["AP", "BWT", *(key for key in ("FWT", "unseen") if key in measured)]
    rows = [
        (
            entry.name,
            *([str(entry.streams)] if several else []),
            str(len(entry.runs)),
            *(interval(entry.figure(key), signed=key in ("BWT", "FWT")) for key in figures),
            *(_difference(entry.less_the_other(key), entry.seeds) for key in ("AP", "BWT") if compared),
            score(entry.worst_leak, 2),
            score(entry.training_seconds, 0),
            score(entry.peak_megabytes, 0),
            entry.notes,
        )
        for entry in found
    ]
    header = ["method", *(["streams"] if several else []), "runs", *figures]
    header += [f"{key} less {against}'s" for key in ("AP", "BWT") if compared]
    title = f"{title}: mean {PLUS_MINUS} half its 95% interval over seeds".removeprefix(": ")
    mixed = len({run.device for run in results.values()}) > 1
    costs = [f"{cost}, {found[0].device}" if mixed else cost for cost in ("train s", "peak MB")]
    return Grid(title, (*header, "leak", *costs, "notes"), tuple(rows))


def stream_grid(results: Results, against: str, title: str = "AP by stream") -> Grid:
    """AP with its interval, a column per stream."""
    streams = list(dict.fromkeys(result.stream for result in results.values()))
    rows = []
    for entry in entries(results, against):
        runs = [[run for run in entry.runs if run.stream == stream] for stream in streams]
        cells = [interval(Entry(entry.name, tuple(part)).figure("AP")) if part else NOT_MEASURED for part in runs]
        rows.append((entry.name, *cells))
    return Grid(title, ("method", *streams), tuple(rows))


def task_grid(results: Results, against: str, title: str = "score at the end, and when just learnt, by task") -> Grid:
    """Per task the mean score after the last task, and when it had just been learnt; of one stream."""
    tasks = next(iter(results.values())).tasks if results else []
    rows = []
    for entry in entries(results, against):
        last = [score(metrics.mean([run.matrix[-1][task] for run in entry.runs]), 0) for task in range(len(tasks))]
        learnt = [score(metrics.mean([run.just_learnt[task] for run in entry.runs]), 0) for task in range(len(tasks))]
        once = entry.just_learnt is None
        cells = [end if once else f"{end} ({new})" for end, new in zip(last, learnt, strict=True)]
        rows.append((entry.name, *cells))
    return Grid(title, ("method", *tasks), tuple(rows))


def all_grids(results: Results, against: str, title: str) -> list[Grid]:
    """Every grid of an experiment, the summary first."""
    streams = dict.fromkeys(result.stream for result in results.values())
    by_stream = {s: {key: result for key, result in results.items() if result.stream == s} for s in streams}
    grids = [summary_grid(results, against, title)]
    grids += [stream_grid(results, against)] if len(streams) > 1 else []
    return grids + [
        task_grid(part, against, f"{stream}: score at the end (when just learnt), by task")
        for stream, part in by_stream.items()
    ]


def interval(figure: Mean | None, signed: bool = False) -> str:
    """``"42.8 ± 2.9"``: the mean and half its 95% interval."""
    if figure is None:
        return NOT_MEASURED
    value = change(figure.value) if signed else score(figure.value)
    return value if figure.margin is None else f"{value} {PLUS_MINUS} {score(figure.margin)}"


def _difference(found: Paired | None, seeds: int) -> str:
    if found is None:
        return ""
    notes = [] if found.p_value is None else [f"p {found.p_value:.2g}"]
    notes += [] if found.difference.count == seeds else [f"{found.difference.count} of {seeds} seeds"]
    text = interval(found.difference, signed=True)
    return f"{text} ({', '.join(notes)})" if notes else text


def _by_seed(values: Iterable[tuple[int, float | None]]) -> list[float] | None:
    """The mean for each seed, seeds ascending; None if any value is missing."""
    found: dict[int, list[float]] = {}
    for seed, value in values:
        if value is None:
            return None
        found.setdefault(seed, []).append(value)
    return [fmean(found[seed]) for seed in sorted(found)]


def _value(figure: Mean | None) -> float:
    return float("-inf") if figure is None else figure.value
