"""What a shell is offered after a Tab: names that are cheap to tell. Torch is never imported for it."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

#: Shells' scripts put the line that is being typed here: zsh, fish and PowerShell in the first, bash in the second.
_LINES = ("_TYPER_COMPLETE_ARGS", "COMP_WORDS")


def being_completed() -> list[str]:
    """The words after ``gorp`` of a line that a shell asks to complete; none if it does not."""
    if not os.environ.get("_GORP_COMPLETE", "").startswith("complete_"):
        return []
    line = next((os.environ[name] for name in _LINES if os.environ.get(name)), "")
    try:
        return shlex.split(line)[1:]
    except ValueError:  # a quote is still open
        return line.split()[1:]


def methods(incomplete: str) -> list[str]:
    """Names of methods that begin so."""
    from gorp.methods import METHODS

    return [name for name in METHODS if name.startswith(incomplete)]


def streams(incomplete: str) -> list[str]:
    """Names of streams that begin so, and files."""
    from gorp.tasks.benchmarks import BENCHMARKS

    return [name for name in ("builtin", *BENCHMARKS) if name.startswith(incomplete)] + _paths(incomplete)


def run_folders(incomplete: str) -> list[str]:
    """Run folders in the folder that is being typed, or on the way to one."""
    found = [path for path in _paths(incomplete) if Path(path).is_dir()]
    runs = [path for path in found if (Path(path) / "state.json").is_file()]
    return runs or [f"{path}/" for path in found]


def _paths(incomplete: str) -> list[str]:
    folder, _, name = incomplete.rpartition("/")
    home = Path(folder or ("/" if incomplete.startswith("/") else "."))
    prefix = incomplete[: len(incomplete) - len(name)]
    try:
        inside = sorted(entry.name for entry in home.iterdir())
    except OSError:
        return []
    return [prefix + entry for entry in inside if entry.startswith(name) and (name or not entry.startswith("."))]
