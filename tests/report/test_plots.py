from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from gorp.report.drawing import PAGE, Style, to_svg, write_png
from gorp.report.plots import Curve, Fullness, Line, Losses, curves_grid
from gorp.report.plots_of_methods import Dots, Scatter, spread
from gorp.report.run_plots import report_plots, write_pngs
from gorp.report.tables import Grid
from gorp.report.words import MINUS, NOT_MEASURED

CURVE = Curve("<b>", (Line("gorp", 0, [10.0, None, 80.5]), Line("joint", 1, [None, None, 90.0], level=True)))
DOTS = Dots("BWT", (("gorp", 0, (-1.0, -2.0)), ("seq", 1, (-30.0,))), signed=True)
SCATTER = Scatter("AP against BWT", ("BWT", "AP"), (("gorp", 0, -1.0, 80.0), ("<b>", 7, -1.0, 80.1)))
FULLNESS = Fullness("r", (("a.q", (0.1, 0.5)), ("a.v", (None, 0.7))))
LOSSES = Losses(
    "r", (("one", tuple((step, 1 / step) for step in range(1, 101))), ("two", ((5, float("nan")), (10, 2.0))))
)


def told(svg: str) -> list[str]:
    return re.findall(r'class="mark".*?<title>(.*?)</title>', plain(svg))


def plain(text: str) -> str:
    return text.replace(MINUS, "-").replace(NOT_MEASURED, "?")


def rows(table: Grid) -> list[list[str]]:
    return [list(map(plain, row)) for row in table.rows]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ([0.2, 0.6], [0.2, 0.6]),
        ([0.5, 0.5, 0.5], [0.5, 0.6, 0.7]),
        ([0.95, 0.97, 1.0], [0.8, 0.9, 1.0]),
        ([], []),
    ],
)
def test_labels_keep_their_order_and_a_distance(wanted, expected):
    assert spread(wanted, 0.1) == pytest.approx(expected)


def test_too_many_labels_stay_apart():
    places = spread([0.5] * 13, 0.1)
    assert all(after - before == pytest.approx(0.1) for before, after in itertools.pairwise(places))


def test_every_dot_is_named():
    drawing = to_svg(SCATTER, "one")
    assert drawing.startswith("<svg") and "gorp" in drawing and "&lt;b&gt;" in drawing
    assert "var(--series-1)" in drawing and "var(--series-2)" in drawing


@pytest.mark.parametrize(
    ("plot", "expected"),
    [
        (CURVE, ["gorp, before any learning: 10.0", "gorp, after stage 2: 80.5", "joint, after stage 2: 90.0"]),
        (DOTS, ["gorp: -1.0, one of 2 runs with mean -1.5", "gorp: -2.0, one of 2 runs with mean -1.5", "seq: -30.0"]),
        (SCATTER, ["gorp: BWT -1.0, AP 80.0", "&lt;b&gt;: BWT -1.0, AP 80.1"]),
        (
            FULLNESS,
            [
                "after stage 1: 10% on average, 10% to 10% (most: a.q)",
                "after stage 2: 60% on average, 50% to 70% (most: a.v)",
            ],
        ),
    ],
)
def test_marks_tell_their_figures(plot, expected):
    assert told(to_svg(plot, "p")) == expected


def test_marks_of_a_long_curve_are_few_and_finite_and_end_with_it():
    marks = told(to_svg(LOSSES, "p"))
    assert len(marks) == 13
    assert marks[-2:] == ["one, step 100: loss 0.01", "two, step 10: loss 2"]


def test_a_mark_lies_where_its_point_is_drawn():
    svg = to_svg(Curve("t", (Line("r", 0, [0.0, 50.0, 100.0]),)), "p")
    places = [float(y) for y in re.findall(r'class="mark"[^>]*cy="([\d.]+)"', svg)]
    drawn = [float(y) for y in re.findall(r'<use xlink:href="[^"]*" x="[\d.]+" y="([\d.]+)" style="[^"]*series-1', svg)]
    assert places == pytest.approx(drawn, abs=0.1)


def test_one_mark_of_a_plot_is_a_stop_of_the_tab_key():
    assert re.findall(r'tabindex="(-?\d)"', to_svg(CURVE, "p")) == ["0", "-1", "-1"]


def test_the_first_thirty_series_look_different():
    styles = [Style.of(number, PAGE) for number in range(30)]
    assert len({(style.colour, style.marker) for style in styles}) == 30
    assert len({(style.colour, style.dash) for style in styles}) == 30


def test_the_tables_behind():
    assert rows(curves_grid([CURVE])) == [["<b>: gorp", "10.0", "?", "80.5"], ["<b>: joint", "?", "?", "90.0"]]
    assert rows(DOTS.table()) == [["gorp", "-1.5", "-1.0, -2.0"], ["seq", "-30.0", "-30.0"]]
    assert rows(FULLNESS.table())[1] == ["2", "60%", "50%", "70%", "a.v"]
    assert rows(LOSSES.table())[0] == ["one", "100", "1", "0.01", "0.01"]


@pytest.mark.parametrize("plot", [CURVE, DOTS, SCATTER, FULLNESS, LOSSES])
def test_a_png_is_large_enough_to_be_shown(plot, tmp_path: Path):
    content = write_png(plot, tmp_path / "new" / "plot.png").read_bytes()
    assert content.startswith(b"\x89PNG")
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
    assert width > 800 and height > 250


def test_pngs_are_named_by_place_and_title(make_record, tmp_path: Path):
    plots = report_plots([make_record(2), make_record(2, "seq-lora")])
    names = [path.name for path in write_pngs(plots[:3], tmp_path)]
    assert names == [
        "01-average-performance-at-the-end.png",
        "02-change-of-earlier-tasks-since-learnt-bwt.png",
        "03-score-of-task-1-after-each-stage.png",
    ]
    assert len(plots) == 2 + 2 + 2 + 1
