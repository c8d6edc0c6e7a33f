"""What all pages have in common: templates, one script, and a policy by which they load and run nothing else."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from gorp.progress import describe_duration
from gorp.report import words
from gorp.report.drawing import SERIES_COLOURS, Plot, sample, to_svg
from gorp.report.tables import Grid


@dataclass(frozen=True)
class Picture:
    """A plot as a page shows it: caption, drawing, and the table behind it."""

    caption: str
    drawing: Markup
    table: Grid

    @classmethod
    def of(cls, plot: Plot, identity: str) -> Picture:
        """Draw; ``identity`` is the plot's own on the page."""
        return cls(plot.caption, to_svg(plot, identity), plot.table())


def pictures(plots: Sequence[Plot], prefix: str) -> list[Picture]:
    """Draw several; ``prefix`` is their own on the page."""
    return [Picture.of(plot, f"{prefix}{number}") for number, plot in enumerate(plots)]


def render(template: str, **values: object) -> str:
    """A page as text."""
    return _templates().get_template(template).render(**values)


@cache
def _templates() -> Environment:
    """The pages' templates, everything escaped, with the filters that print figures."""
    environment = Environment(
        loader=PackageLoader("gorp.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        score=words.score,
        change=words.change,
        small=words.small,
        share=words.share,
        interval=words.interval,
        duration=describe_duration,
        breakable=_breakable,
        sample=sample,
    )
    script = (files("gorp.report") / "templates" / "page.js").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment.globals.update(
        SERIES_COLOURS=SERIES_COLOURS,
        SCRIPT=Markup(script),
        POLICY=f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'",
    )
    return environment


def _breakable(name: str) -> Markup:
    """A dotted name that may break after its dots."""
    return Markup(".<wbr>").join(name.split("."))
