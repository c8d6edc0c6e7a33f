"""The plots over the stages of runs: what each draws, what its marks tell, and the table behind it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from matplotlib.axes import Axes

from gorp.report.drawing import Mark, Paint, Plot, Style
from gorp.report.tables import Grid
from gorp.report.words import score, share

_MARKS_PER_STAGE = 12


@dataclass(frozen=True)
class Line:
    """A run's values by position (None: not measured), drawn in the style number ``style``, counted from 0.

    ``level`` says that there is no history to draw: the last value becomes a dotted line across.
    """

    label: str
    style: int
    values: Sequence[float | None]
    level: bool = False

    @property
    def points(self) -> list[tuple[int, float]]:
        """(position, value) where measured."""
        return [(at, value) for at, value in enumerate(self.values) if value is not None]


@dataclass(frozen=True)
class Curve(Plot):
    """One task's score, 0 to 100 percent, over the stages; position 0 is before any learning.

    ``stream`` names the task's stream where there are several.
    """

    task: str
    lines: tuple[Line, ...]
    stream: str = ""
    inches = (2.2, 1.45)
    axes_titles = ("tasks learnt", "score, %")

    @property
    def title(self) -> str:
        """What it shows."""
        return (
            f"{self.stream}: {self.task} after each stage" if self.stream else f"Score of {self.task} after each stage"
        )

    @property
    def caption(self) -> str:
        """The task."""
        return self.task

    def legend(self) -> list[tuple[str, int]]:
        """The lines, where there are several."""
        return [(line.label, line.style) for line in self.lines] if len(self.lines) > 1 else []

    def draw(self, axes: Axes, paint: Paint) -> list[Mark]:
        """A line a run, or a dotted level."""
        stages = self._stages
        for line in self.lines:
            style = Style.of(line.style, paint)
            if line.level and line.points:
                axes.axhline(line.points[-1][1], color=style.colour, linestyle=(0, (1, 2)), linewidth=1.4)
            across, up = _columns(line.points)
            shown = {"marker": style.marker, "linestyle": "none" if line.level else style.line}
            axes.plot(across, up, color=style.colour, clip_on=False, zorder=3, **shown)  # type: ignore[arg-type]
        axes.set_ylim(0, 100)
        axes.set_yticks([0, 50, 100])
        axes.set_xlim(-0.2, stages - 0.8)
        axes.set_xticks(_stage_ticks(stages))
        several = len(self.lines) > 1
        return [
            Mark(at, value, f"{line.label if several else self.task}, {_stage(at)}: {score(value)}")
            for line in self.lines
            for at, value in line.points
        ]

    def table(self) -> Grid:
        """A row a line, a column a stage."""
        return curves_grid([self])

    @property
    def _stages(self) -> int:
        return max((len(line.values) for line in self.lines), default=1)


def curves_grid(curves: Sequence[Curve]) -> Grid:
    """The figures of several curves: a row for each line, a column for each stage."""
    stages = max((len(line.values) for curve in curves for line in curve.lines), default=1)
    rows = [
        (
            f"{curve.task}: {line.label}" if len(curve.lines) > 1 else curve.task,
            *(score(value) for value in (*line.values, *[None] * (stages - len(line.values)))),
        )
        for curve in curves
        for line in curve.lines
    ]
    header = ("score in percent after stage", "0", *(str(at) for at in range(1, stages)))
    return Grid("Figures behind the curves", header, tuple(rows))


@dataclass(frozen=True)
class Fullness(Plot):
    """How full the protected space is, over the stages: a thin line a layer, a bold mean.

    ``layers``: per layer its name and, by stage, the share of its cap in use, None where it had none.
    """

    run: str
    layers: tuple[tuple[str, tuple[float | None, ...]], ...]
    axes_titles = ("tasks learnt", "space in use, % of its cap")

    @property
    def title(self) -> str:
        """What it shows."""
        return f"{self.run}: share of the protected space in use after each stage"

    @property
    def caption(self) -> str:
        """The same on the run's own page."""
        return "Protected space in use, percent of its cap, by stage: every layer, and their mean"

    def draw(self, axes: Axes, paint: Paint) -> list[Mark]:
        """Lines for layers, marks for the mean."""
        for _, values in self.layers:
            points = [(at + 1, 100 * value) for at, value in enumerate(values) if value is not None]
            axes.plot(*_columns(points), color=paint.muted, linewidth=0.6, alpha=0.5)
        stages = list(self._stages())
        means = [(at, 100 * mean) for at, mean, *_ in stages]
        axes.plot(*_columns(means), color=paint.series[0], marker="o", linewidth=2.2, clip_on=False, zorder=3)
        axes.set_ylim(0, 100)
        axes.set_yticks([0, 50, 100])
        last = max((len(values) for _, values in self.layers), default=0)
        axes.set_xlim(0.8, last + 0.2)
        axes.set_xticks(_stage_ticks(last + 1)[1:] or [1])
        return [
            Mark(
                at,
                100 * mean,
                f"{_stage(at)}: {share(mean)} on average, {share(least)} to {share(most)} (most: {fullest})",
            )
            for at, mean, least, most, fullest in stages
        ]

    def table(self) -> Grid:
        """A row a stage: the mean, the least and the most of all layers, and which is the fullest."""
        rows = [
            (str(at), share(mean), share(least), share(most), fullest)
            for at, mean, least, most, fullest in self._stages()
        ]
        return Grid(self.caption, ("stage", "mean", "least", "most", "fullest layer"), tuple(rows))

    def _stages(self) -> Iterator[tuple[int, float, float, float, str]]:
        for at in range(max((len(values) for _, values in self.layers), default=0)):
            present = [(v, name) for name, values in self.layers for v in values[at : at + 1] if v is not None]
            if present:
                shares = [value for value, _ in present]
                yield at + 1, fmean(shares), min(shares), *max(present)


@dataclass(frozen=True)
class Losses(Plot):
    """Training loss over the steps of the whole run, the stages end to end with a rule between them.

    ``stages``: per stage the task and its (step, loss) pairs.
    """

    run: str
    stages: tuple[tuple[str, tuple[tuple[int, float], ...]], ...]
    axes_titles = ("step", "training loss")

    @property
    def title(self) -> str:
        """What it shows."""
        return f"{self.run}: training loss over the steps"

    @property
    def caption(self) -> str:
        """The same on the run's own page."""
        return "Training loss by step"

    def draw(self, axes: Axes, paint: Paint) -> list[Mark]:
        """A line a stage; of its points every so many are marks."""
        start, marks = 0, []
        for position, (task, points) in enumerate(self.stages):
            if position:
                axes.axvline(start, color=paint.rule, linewidth=0.8)
            steps, losses = [start + step for step, _ in points], [loss for _, loss in points]
            axes.plot(steps, losses, color=paint.series[0], linewidth=1.2)
            stride = -(-len(points) // _MARKS_PER_STAGE)
            marks += [
                Mark(start + step, loss, f"{task}, step {step}: loss {loss:.3g}")
                for step, loss in points[::-stride][::-1]
                if math.isfinite(loss)
            ]
            start += max((step for step, _ in points), default=0)
        axes.set_ylim(bottom=0)
        axes.set_xlim(0, max(start, 1))
        axes.locator_params(nbins=4)
        return marks

    def table(self) -> Grid:
        """A row a stage: its steps, its first, lowest and last loss."""
        rows = [
            (
                task,
                str(max(step for step, _ in points)),
                *(f"{loss:.3g}" for loss in (points[0][1], min(loss for _, loss in points), points[-1][1])),
            )
            for task, points in self.stages
        ]
        return Grid(self.caption, ("learning", "steps", "first loss", "lowest", "last"), tuple(rows))


def _stage(at: int) -> str:
    return f"after stage {at}" if at else "before any learning"


def _stage_ticks(positions: int) -> list[int]:
    """At most five whole numbers from 0 to the last position."""
    stride = max(1, -(-(positions - 1) // 4))
    return list(range(0, positions, stride))


def _columns(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [at for at, _ in points], [value for _, value in points]
