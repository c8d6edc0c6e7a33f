"""One plot in two media: inline SVG in the colours of the page, light or dark, and a PNG file that stands alone.

matplotlib draws both. For the page it draws with marker colours that stand for CSS variables (see `PAGE`) and are
exchanged in the SVG text; texts stay texts, in the font of the page. Over the drawing lie the marks, each of which
tells its numbers. Nothing goes through pyplot, so no state is shared with a user's figures.
"""

from __future__ import annotations

import io
import os
import re
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import matplotlib
from markupsafe import Markup, escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from gorp.files import write_bytes_atomically
from gorp.report.tables import Grid

SERIES_COLOURS = 6
_DASHES = ((), (5, 2), (1.5, 1.5), (6, 2, 1.5, 2), (3, 1), (8, 3))
_MARKERS = "os^Dv"
_DOTS_PER_INCH = 220
_FILE_WIDTH = 4.8  # inches, without names at the side
_TITLE_WIDTH = 60  # characters
_REACH = 7.0  # points around a mark in which it is pointed at


@dataclass(frozen=True)
class Paint:
    """The colours of a medium: one per series, and those of text, lesser text and rules."""

    series: tuple[str, ...]
    ink: str
    muted: str
    rule: str
    paper: str = "none"


#: Stand for the page's CSS variables.
PAGE = Paint(tuple(f"#00000{digit + 1}" for digit in range(SERIES_COLOURS)), "#00000a", "#00000b", "#00000c")
#: The page's light theme, on white.
FILE = Paint(
    ("#18647c", "#c07a1e", "#87527d", "#5c7d34", "#ad4534", "#5a6675"), "#23272e", "#585d65", "#d9d6cf", "#ffffff"
)

_VARIABLES = {
    **{marker: f"var(--series-{position + 1})" for position, marker in enumerate(PAGE.series)},
    PAGE.ink: "var(--ink)",
    PAGE.muted: "var(--muted)",
    PAGE.rule: "var(--rule)",
}


@dataclass(frozen=True)
class Style:
    """How a series looks: a colour, a dash pattern (in widths of the line; empty is solid) and a marker."""

    colour: str
    dash: tuple[float, ...]
    marker: str

    @classmethod
    def of(cls, number: int, paint: Paint) -> Style:
        """The style of series ``number``, counted from 0; no two of the first thirty look alike."""
        turn = number + number // SERIES_COLOURS
        return cls(paint.series[number % SERIES_COLOURS], _DASHES[turn % len(_DASHES)], _MARKERS[turn % len(_MARKERS)])

    @property
    def line(self) -> Literal["-"] | tuple[float, tuple[float, ...]]:
        """The dash pattern as matplotlib takes it."""
        return (0, self.dash) if self.dash else "-"


@dataclass(frozen=True)
class Mark:
    """A place in a plot, in its own coordinates, and what it tells to those who point at it."""

    x: float
    y: float
    text: str


class Plot(ABC):
    """Something to draw, and the figures it is drawn from.

    Attributes:
        inches: width and height on the page.
        margins: left, bottom, right and top, in inches.
        axes_titles: what lies along x and y, for a drawing that stands alone.
    """

    inches: ClassVar[tuple[float, float]] = (4.0, 2.0)
    margins: ClassVar[tuple[float, float, float, float]] = (0.32, 0.24, 0.06, 0.08)
    axes_titles: ClassVar[tuple[str, str]] = ("", "")

    @property
    @abstractmethod
    def title(self) -> str:
        """What it shows."""

    @property
    def caption(self) -> str:
        """The title for readers who see where on the page it stands."""
        return self.title

    @property
    def size(self) -> tuple[float, float]:
        """Width and height on the page, in inches."""
        return self.inches

    @abstractmethod
    def draw(self, axes: Axes, paint: Paint) -> list[Mark]:
        """Draw, and return the marks in the order of reading."""

    @abstractmethod
    def table(self) -> Grid:
        """The figures it is drawn from."""

    def legend(self) -> list[tuple[str, int]]:
        """(label, style number) of series that nothing in the drawing names."""
        return []


def to_svg(plot: Plot, identity: str) -> Markup:
    """The plot as inline SVG. ``identity`` keeps its ids apart from those of others on the page.

    Its first mark is a stop of the Tab key; the page's script leads on from there with the arrow keys.
    """
    with matplotlib.rc_context(_settings(PAGE)):
        figure, axes = _canvas(plot, PAGE)
        marks = plot.draw(axes, PAGE)
        FigureCanvasSVG(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
        places = [axes.transData.transform((mark.x, mark.y)) for mark in marks]
    drawing = buffer.getvalue()
    drawing = drawing[drawing.index("<svg") :]
    drawing = re.sub(r"<metadata>.*?</metadata>\s*|<style.*?</style>\s*", "", drawing, flags=re.DOTALL)
    drawing = re.sub(r"font-family: [^;\"]*;? ?", "", drawing)
    drawing = re.sub(r'\bid="([^"]*)"', rf'id="{identity}-\1"', drawing)
    drawing = re.sub(r'(url\(#|href="#)', rf"\g<1>{identity}-", drawing)
    for marker, variable in _VARIABLES.items():
        drawing = drawing.replace(marker, variable)
    drawing = re.sub(r"<g id=", '<g aria-hidden="true" id=', drawing, count=1)
    overlay = "".join(
        _overlay(mark, x, 72 * plot.size[1] - y, first=not position)
        for position, (mark, (x, y)) in enumerate(zip(marks, places, strict=True))
    )
    head = f'<svg class="plot" role="group" aria-label="{escape(plot.title)}"'
    return Markup(drawing.replace("<svg", head, 1).replace("</svg>", f"{overlay}</svg>").strip())


def write_png(plot: Plot, path: str | os.PathLike[str]) -> Path:
    """Write the plot, with its title, the names of its axes and a legend, to a PNG file on white, atomically."""
    with matplotlib.rc_context(_settings(FILE)):
        figure, axes = _canvas(plot, FILE, _FILE_WIDTH / plot.size[0])
        plot.draw(axes, FILE)
        FigureCanvasAgg(figure)
        title = textwrap.fill(plot.title, _TITLE_WIDTH)
        axes.set_title(title, loc="left", fontsize=10, color=FILE.ink, pad=10, parse_math=False)
        across, up = plot.axes_titles
        axes.set_xlabel(across or axes.get_xlabel())
        axes.set_ylabel(up or axes.get_ylabel())
        if legend := plot.legend():
            _add_legend(axes, legend)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=_DOTS_PER_INCH, bbox_inches="tight", pad_inches=0.15)
    return write_bytes_atomically(path, buffer.getvalue())


def sample(number: int) -> Markup:
    """A piece of the line of series ``number`` with its marker, for a legend on the page."""
    style = Style.of(number, PAGE)
    colour = _VARIABLES[style.colour]
    dash = f' stroke-dasharray="{" ".join(f"{2 * part:g}" for part in style.dash)}"' if style.dash else ""
    return Markup(
        '<svg class="sample" viewBox="0 0 34 12" width="34" height="12" aria-hidden="true">'
        f'<path d="M1 6H33" fill="none" stroke-width="2" style="stroke:{colour}"{dash}/>'
        f'<path d="{_MARKER_PATHS[style.marker]}" style="fill:{colour}"/></svg>'
    )


_MARKER_PATHS = {
    "o": "M13 6a4 4 0 1 0 8 0a4 4 0 1 0-8 0z",
    "s": "M13.5 2.5h7v7h-7z",
    "^": "M17 1.5l4.5 8h-9z",
    "D": "M17 1l5 5-5 5-5-5z",
    "v": "M17 10.5l4.5-8h-9z",
}


def _overlay(mark: Mark, x: float, y: float, first: bool) -> str:
    return (
        f'<circle class="mark" role="img" tabindex="{0 if first else -1}" cx="{x:.1f}" cy="{y:.1f}" r="{_REACH:g}">'
        f"<title>{escape(mark.text)}</title></circle>"
    )


def _settings(paint: Paint) -> dict[Any, Any]:
    return {
        "svg.fonttype": "none",
        "svg.hashsalt": "gorp",
        "font.size": 8.5,
        "text.color": paint.ink,
        "axes.edgecolor": paint.rule,
        "axes.labelcolor": paint.muted,
        "xtick.color": paint.muted,
        "ytick.color": paint.muted,
        "axes.linewidth": 0.8,
        "lines.linewidth": 1.6,
        "lines.markersize": 3.2,
    }


def _canvas(plot: Plot, paint: Paint, scale: float = 1.0) -> tuple[Figure, Axes]:
    """A figure and its only axes. Margins in inches: a layout engine costs far more."""
    width, height = (scale * side for side in plot.size)
    figure = Figure(figsize=(width, height), dpi=72, facecolor=paint.paper)
    left, below, right, top = plot.margins
    axes = figure.add_axes((left / width, below / height, 1 - (left + right) / width, 1 - (below + top) / height))
    axes.patch.set_alpha(0)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=0, pad=5)
    axes.grid(axis="y", color=paint.rule, linewidth=0.6)
    axes.set_axisbelow(True)
    return figure, axes


def _add_legend(axes: Axes, series: Sequence[tuple[str, int]]) -> None:
    styles = [Style.of(number, FILE) for _, number in series]
    handles = [Line2D([], [], color=style.colour, linestyle=style.line, marker=style.marker) for style in styles]
    legend = axes.legend(handles, [f" {label}" for label, _ in series], loc="upper left", bbox_to_anchor=(1.02, 1.02))
    legend.set_frame_on(False)
    for text in legend.get_texts():
        text.set_parse_math(False)
