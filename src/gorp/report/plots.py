"""Small plots as inline SVG. Colours are CSS variables of the page, so one drawing serves light and dark mode.

matplotlib draws with marker colours that stand for the variables (see `PAINT`) and are exchanged in the SVG text;
texts stay texts, in the font of the page. Nothing goes through pyplot, so no state is shared with a user's figures.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from gorp.report.words import score

SERIES_COLOURS = 6
_DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)), (0, (6, 2, 1.5, 2)), (0, (3, 1)), (0, (8, 3)))
_MARKERS = "os^D"
_LINE_OF_TEXT = 0.14  # inches
_SERIES = [f"#00000{digit + 1}" for digit in range(SERIES_COLOURS)]
_INK, _MUTED, _RULE = "#00000a", "#00000b", "#00000c"

#: marker colour -> CSS variable of the page
PAINT = {
    **{marker: f"var(--series-{position + 1})" for position, marker in enumerate(_SERIES)},
    _INK: "var(--ink)",
    _MUTED: "var(--muted)",
    _RULE: "var(--rule)",
}

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "gorp",
    "font.size": 8.5,
    "text.color": _INK,
    "axes.edgecolor": _RULE,
    "axes.labelcolor": _MUTED,
    "xtick.color": _MUTED,
    "ytick.color": _MUTED,
    "axes.linewidth": 0.8,
    "lines.linewidth": 1.6,
    "lines.markersize": 3.2,
}


@dataclass(frozen=True)
class Line:
    """A run's values by position (None: not measured), drawn in the style number ``style``, counted from 0.

    ``level`` says that there is no history to draw: the last value becomes a dotted line across.
    """

    style: int
    values: Sequence[float | None]
    level: bool = False


@matplotlib.rc_context(_SETTINGS)
def curve(title: str, lines: Sequence[Line], identity: str) -> str:
    """One task's score, 0 to 100 percent, over the stages.

    Position 0 is before any learning. ``identity`` keeps the SVG's ids apart from those of others on the page.
    """
    figure, axes = _canvas(2.2, 1.45)
    stages = max((len(line.values) for line in lines), default=1)
    for line in lines:
        points = [(at, value) for at, value in enumerate(line.values) if value is not None]
        colour, dash = _style(line.style)
        if line.level and points:
            axes.axhline(points[-1][1], color=colour, linestyle=(0, (1, 2)), linewidth=1.4)
        else:
            axes.plot(*_columns(points), color=colour, linestyle=dash, marker="o", clip_on=False, zorder=3)
    axes.set_ylim(0, 100)
    axes.set_yticks([0, 50, 100])
    axes.set_xlim(-0.2, stages - 0.8)
    axes.set_xticks(_stage_ticks(stages))
    return _svg(figure, f"Score of {title} after each stage", identity)


@matplotlib.rc_context(_SETTINGS)
def dots(title: str, rows: Sequence[tuple[str, int, Sequence[float]]], identity: str) -> str:
    """One row per method: a dot per run and a bar at the mean, in percent. ``rows``: label, style number, values."""
    figure, axes = _canvas(4.0, 0.12 + 0.42 * len(rows), margins=(0, 0.06, 0.04, 0.06))
    values = [value for _, _, run_values in rows for value in run_values]
    low, high = min([0.0, *values]), max([0.0, *values])
    reach = max(high - low, 1.0)
    for position, (label, style, run_values) in enumerate(rows):
        if not run_values:
            continue
        colour, mean = _style(style)[0], fmean(run_values)
        axes.barh(-position, mean, height=0.16, color=colour, alpha=0.45, linewidth=0)
        axes.plot(run_values, [-position] * len(run_values), "o", color=colour, markersize=4.5, clip_on=False)
        axes.text(low, -position + 0.3, label, va="center", ha="left", fontsize=8.5, parse_math=False)
        axes.text(high + 0.04 * reach, -position, score(mean), va="center", ha="left", fontsize=8.5)
    axes.axvline(0, color=_RULE, linewidth=0.8)
    axes.set_xlim(low - 0.02 * reach, high + 0.22 * reach)
    axes.set_ylim(-len(rows) + 0.5, 0.6)
    axes.set_yticks([])
    axes.grid(visible=False)
    axes.spines["bottom"].set_visible(False)
    axes.set_xticks([])
    return _svg(figure, title, identity)


@matplotlib.rc_context(_SETTINGS)
def scatter(
    title: str, axes_titles: tuple[str, str], points: Sequence[tuple[str, int, float, float]], identity: str
) -> str:
    """A dot per method, its name at the right edge. ``points``: label, style number, x, y; titles of x and y."""
    height = max(2.6, 0.6 + _LINE_OF_TEXT * len(points))
    figure, axes = _canvas(4.6, height, margins=(0.45, 0.42, 1.6, 0.1))
    for _, style, x, y in points:
        marker = _MARKERS[style // SERIES_COLOURS % len(_MARKERS)]
        axes.plot([x], [y], marker, color=_style(style)[0], markersize=5, clip_on=False, zorder=3)
    axes.margins(0.08)
    axes.locator_params(nbins=5)
    axes.set_xlabel(axes_titles[0])
    axes.set_ylabel(axes_titles[1])
    low, high = axes.get_ylim()
    ranked = sorted(points, key=lambda point: point[3])
    shares = spread([(y - low) / (high - low) for *_, y in ranked], _LINE_OF_TEXT / (height - 0.52))
    for (label, style, x, y), share in zip(ranked, shares, strict=True):
        axes.annotate(
            label,
            (x, y),
            xytext=(1.06, share),
            textcoords="axes fraction",
            va="center",
            fontsize=8,
            parse_math=False,
            arrowprops={"arrowstyle": "-", "color": _style(style)[0], "linewidth": 0.5, "alpha": 0.5},
        )
    return _svg(figure, title, identity)


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


@matplotlib.rc_context(_SETTINGS)
def fullness(layers: Sequence[Sequence[float | None]], identity: str) -> str:
    """How full the protected space is, in percent of the cap, over the stages: a thin line a layer, a bold mean."""
    figure, axes = _canvas(4.0, 2.0)
    stages = max((len(layer) for layer in layers), default=0)
    for layer in layers:
        points = [(at + 1, 100 * value) for at, value in enumerate(layer) if value is not None]
        axes.plot(*_columns(points), color=_MUTED, linewidth=0.6, alpha=0.5)
    means = []
    for at in range(stages):
        present = [value for layer in layers for value in layer[at : at + 1] if value is not None]
        if present:
            means.append((at + 1, 100 * fmean(present)))
    axes.plot(*_columns(means), color=_SERIES[0], marker="o", linewidth=2.2, clip_on=False, zorder=3)
    axes.set_ylim(0, 100)
    axes.set_yticks([0, 50, 100])
    axes.set_xlim(0.8, stages + 0.2)
    axes.set_xticks(_stage_ticks(stages + 1)[1:] or [1])
    return _svg(figure, "Share of the protected space in use after each stage, per layer and on average", identity)


@matplotlib.rc_context(_SETTINGS)
def losses(stages: Sequence[Sequence[tuple[int, float]]], identity: str) -> str:
    """Training loss over the steps of the whole run, the stages end to end with a rule between them."""
    figure, axes = _canvas(4.0, 2.0)
    start = 0
    for position, points in enumerate(stages):
        if position:
            axes.axvline(start, color=_RULE, linewidth=0.8)
        axes.plot([start + step for step, _ in points], [loss for _, loss in points], color=_SERIES[0], linewidth=1.2)
        start += max((step for step, _ in points), default=0)
    axes.set_ylim(bottom=0)
    axes.set_xlim(0, max(start, 1))
    axes.locator_params(nbins=4)
    return _svg(figure, "Training loss over the steps of the run", identity)


def _canvas(width: float, height: float, margins: Sequence[float] = (0.32, 0.24, 0.06, 0.08)) -> tuple[Figure, Axes]:
    """A figure and its only axes. All in inches; margins left, bottom, right, top: a layout engine costs far more."""
    figure = Figure(figsize=(width, height))
    FigureCanvasSVG(figure)
    left, bottom, right, top = margins
    axes = figure.add_axes((left / width, bottom / height, 1 - (left + right) / width, 1 - (bottom + top) / height))
    figure.patch.set_alpha(0)
    axes.patch.set_alpha(0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, pad=4)
    axes.grid(axis="y", color=_RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _svg(figure: Figure, description: str, identity: str) -> str:
    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>\s*|<style.*?</style>\s*", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r"font-family: [^;\"]*;? ?", "", drawing)
    drawing = re.sub(r'\bid="([^"]*)"', rf'id="{identity}-\1"', drawing)
    drawing = re.sub(r'(url\(#|href="#)', rf"\g<1>{identity}-", drawing)
    for marker, variable in PAINT.items():
        drawing = drawing.replace(marker, variable)
    return drawing.replace("<svg", f'<svg role="img" aria-label="{escape(description, quote=True)}"', 1).strip()


def _style(number: int) -> tuple[str, str | tuple[float, tuple[float, ...]]]:
    return _SERIES[number % SERIES_COLOURS], _DASHES[(number + number // SERIES_COLOURS) % len(_DASHES)]


def _stage_ticks(positions: int) -> list[int]:
    """At most five whole numbers from 0 to the last position."""
    stride = max(1, -(-(positions - 1) // 4))
    return list(range(0, positions, stride))


def _columns(points: Sequence[tuple[int, float]]) -> tuple[list[int], list[float]]:
    return [at for at, _ in points], [value for _, value in points]
