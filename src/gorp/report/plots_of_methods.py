"""The plots that set methods side by side, the name of each within the drawing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from matplotlib.axes import Axes

from gorp.report.drawing import Mark, Paint, Plot, Style
from gorp.report.tables import Grid
from gorp.report.words import change, score

_LINE_OF_TEXT = 0.14  # inches


@dataclass(frozen=True)
class Dots(Plot):
    """One row per method: a dot per run and a bar at the mean, in percent. ``rows``: label, style number, values."""

    heading: str
    rows: tuple[tuple[str, int, tuple[float, ...]], ...]
    signed: bool = False
    margins = (0, 0.06, 0.04, 0.06)

    @property
    def title(self) -> str:
        """What it shows."""
        return self.heading

    @property
    def size(self) -> tuple[float, float]:
        """As high as there are rows."""
        return 4.0, 0.12 + 0.42 * len(self.rows)

    def draw(self, axes: Axes, paint: Paint) -> list[Mark]:
        """Bars, dots and labels."""
        figure = change if self.signed else score
        values = [value for _, _, run_values in self.rows for value in run_values]
        low, high = min([0.0, *values]), max([0.0, *values])
        reach = max(high - low, 1.0)
        marks = []
        for position, (label, number, run_values) in enumerate(self.rows):
            style, mean = Style.of(number, paint), fmean(run_values)
            axes.barh(-position, mean, height=0.16, color=style.colour, alpha=0.45, linewidth=0)
            axes.plot(
                run_values,
                [-position] * len(run_values),
                style.marker,
                color=style.colour,
                markersize=4.5,
                clip_on=False,
            )
            axes.text(low, -position + 0.3, label, va="center", ha="left", fontsize=8.5, parse_math=False)
            axes.text(high + 0.04 * reach, -position, figure(mean), va="center", ha="left", fontsize=8.5)
            runs = "" if len(run_values) == 1 else f", one of {len(run_values)} runs with mean {figure(mean)}"
            marks += [Mark(value, -position, f"{label}: {figure(value)}{runs}") for value in run_values]
        axes.axvline(0, color=paint.rule, linewidth=0.8)
        axes.set_xlim(low - 0.02 * reach, high + 0.22 * reach)
        axes.set_ylim(-len(self.rows) + 0.5, 0.6)
        axes.set_yticks([])
        axes.grid(visible=False)
        axes.spines["bottom"].set_visible(False)
        axes.set_xticks([])
        return marks

    def table(self) -> Grid:
        """A row a method: its mean and every run's value."""
        figure = change if self.signed else score
        rows = [(label, figure(fmean(values)), ", ".join(map(figure, values))) for label, _, values in self.rows]
        return Grid(self.heading, ("method", "mean", "runs"), tuple(rows))


@dataclass(frozen=True)
class Scatter(Plot):
    """A dot per method, its name at the right edge. ``points``: label, style number, x, y."""

    heading: str
    titles: tuple[str, str]
    points: tuple[tuple[str, int, float, float], ...]
    margins = (0.45, 0.42, 1.6, 0.1)

    @property
    def title(self) -> str:
        """What it shows."""
        return self.heading

    @property
    def size(self) -> tuple[float, float]:
        """High enough for the names."""
        return 4.6, max(2.6, 0.6 + _LINE_OF_TEXT * len(self.points))

    def draw(self, axes: Axes, paint: Paint) -> list[Mark]:
        """Dots, and names that keep apart."""
        for _, number, x, y in self.points:
            style = Style.of(number, paint)
            axes.plot([x], [y], style.marker, color=style.colour, markersize=5, clip_on=False, zorder=3)
        axes.margins(0.08)
        axes.locator_params(nbins=5)
        axes.set_xlabel(self.titles[0])
        axes.set_ylabel(self.titles[1])
        low, high = axes.get_ylim()
        ranked = sorted(self.points, key=lambda point: point[3])
        gap = _LINE_OF_TEXT / (self.size[1] - 0.52)
        for (label, number, x, y), place in zip(
            ranked, spread([(y - low) / (high - low) for *_, y in ranked], gap), strict=True
        ):
            axes.annotate(
                label,
                (x, y),
                xytext=(1.06, place),
                textcoords="axes fraction",
                va="center",
                fontsize=8,
                parse_math=False,
                arrowprops={
                    "arrowstyle": "-",
                    "color": Style.of(number, paint).colour,
                    "linewidth": 0.5,
                    "alpha": 0.5,
                },
            )
        across, up = self.titles
        return [Mark(x, y, f"{label}: {across} {score(x)}, {up} {score(y)}") for label, _, x, y in self.points]

    def table(self) -> Grid:
        """A row a method."""
        rows = [(label, score(x), score(y)) for label, _, x, y in self.points]
        return Grid(self.heading, ("method", *self.titles), tuple(rows))


def spread(wanted: Sequence[float], gap: float) -> list[float]:
    """Places near those ``wanted``, which ascend, in the same order and at least ``gap`` apart, between 0 and 1.

    Where 0 to 1 is too short for that, the places go on above 1.
    """
    places: list[float] = []
    for place in wanted:
        places.append(max(place, places[-1] + gap) if places else max(place, 0.0))
    ceiling = max(1.0, gap * (len(places) - 1))
    for position in range(len(places) - 1, -1, -1):
        places[position] = min(places[position], ceiling)
        ceiling = places[position] - gap
    return places
