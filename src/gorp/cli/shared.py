"""What the commands that load a model have in common."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from gorp.errors import BudgetExceeded, InputError
from gorp.progress import Progress, open_progress


def is_first_process() -> bool:
    """Whether this process is the one of its launch that prints and writes pages; known before it meets the others."""
    return os.environ.get("WORLD_SIZE", "1") == "1" or os.environ.get("RANK", "0") == "0"


@contextmanager
def progress_only(quiet: bool = False) -> Iterator[Progress]:
    """Show gorp's own progress, and keep transformers' bars and notices out of it."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]  # transformers
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]  # transformers
    with open_progress(quiet or not is_first_process()) as progress:
        yield progress


def as_overrides(options: Mapping[str, object]) -> list[str]:
    """Options that were given, as ``key=value`` overrides of a configuration."""
    return [f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in options.items() if value is not None]


@contextmanager
def reporting_breach(run: Path) -> Iterator[None]:
    """Where a run stops at its forgetting budget, write its report all the same."""
    try:
        yield
    except BudgetExceeded:
        if is_first_process():
            from gorp.report.html import write_report
            from gorp.report.record import RunRecord

            write_report([RunRecord.load(run)], run)
        raise


def parse_list(text: str | None) -> list[str]:
    """What stands between commas, without what is empty."""
    return [part.strip() for part in (text or "").split(",") if part.strip()]


def parse_columns(text: str) -> dict[str, str]:
    """What ``--columns`` says: ``PART=COLUMN``, between commas.

    Raises:
        InputError: it is something else.
    """
    pairs = [pair.partition("=") for pair in text.split(",")]
    if not all(part.strip() and column.strip() for part, _, column in pairs):
        raise InputError(f"--columns {text}: expected PART=COLUMN, for example text=body,label=category")
    return {part.strip(): column.strip() for part, _, column in pairs}
