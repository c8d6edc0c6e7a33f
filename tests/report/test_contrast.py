"""What can be read: the contrast of every ink on every ground of the pages' style sheet, by WCAG's formula."""

from __future__ import annotations

import re
from importlib.resources import files

import pytest

from gorp.report.html import Cell

CSS = (files("gorp.report") / "templates" / "page.css").read_text(encoding="utf-8")
TEXT, GRAPHIC = 4.5, 3.0  # WCAG 2.2, AA
Colour = tuple[float, float, float]


def variables(part: str) -> dict[str, Colour]:
    found = dict(re.findall(r"--([a-z0-9-]+): ([^;]+);", part))
    return {name: parse(value) for name, value in found.items() if re.fullmatch(r"#\w{6}|\d+ \d+ \d+", value)}


def parse(value: str) -> Colour:
    red, green, blue = (
        (int(value[at : at + 2], 16) for at in (1, 3, 5)) if value.startswith("#") else map(int, value.split())
    )
    return red, green, blue


LIGHT = variables(CSS[: CSS.index("@media")])
DARK = variables(CSS[CSS.index("prefers-color-scheme: dark") : CSS.index("* {")])
THEMES = pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])


def luminance(colour: Colour) -> float:
    linear = [c / 12.92 if (c := part / 255) <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for part in colour]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: Colour, other: Colour) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@THEMES
def test_text_on_paper(theme) -> None:
    for ink in ("ink", "muted", "accent", "bad", "good"):
        assert contrast(theme[ink], theme["paper"]) >= TEXT, ink
    assert contrast(theme["bad"], theme["bad-paper"]) >= TEXT
    assert contrast(theme["ink"], theme["bad-paper"]) >= TEXT


@THEMES
def test_every_series_stands_out(theme) -> None:
    series = [colour for name, colour in theme.items() if name.startswith("series-")]
    assert len(series) == 6
    assert all(contrast(colour, theme["paper"]) >= GRAPHIC for colour in series)


@THEMES
@pytest.mark.parametrize("kind", ["seen", "unseen"])
def test_every_cell_of_a_matrix_can_be_read(theme, kind) -> None:
    inks = {"faint": "muted" if kind == "unseen" else "ink", "pale": "ink", "mid": "full-ink", "strong": "on-heat"}
    for thousandth in range(0, 1001):
        cell = Cell("task", thousandth / 10, kind)
        ground = tuple(
            paper * (1 - cell.opacity) + heat * cell.opacity
            for paper, heat in zip(theme["paper"], theme["heat"], strict=True)
        )
        assert contrast(theme[inks[cell.depth]], ground) >= TEXT, cell
