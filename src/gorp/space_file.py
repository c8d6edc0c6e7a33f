"""Where a gradient space lies: its file, in the folder of a run, of a checkpoint or of an export."""

from __future__ import annotations

from pathlib import Path

from gorp.errors import InputError

SPACE_FILE = "gradient_space.safetensors"
"""What a space is called in the folder of a run or of a checkpoint."""

SPACE_IN_EXPORT = f"space/{SPACE_FILE}"
"""In a folder of its own: of the export's there are programs, such as vLLM, that take every safetensors for weights."""


def find_space(path: Path) -> Path:
    """The gradient space file that ``path`` is or holds: a file, or a folder of a run, a checkpoint or an export.

    Raises:
        InputError: there is none.
    """
    if not path.exists():
        raise InputError(f"{path}: no such file or folder; give a run's folder, an export's, or a gradient space file")
    if not path.is_dir():
        return path
    for name in (SPACE_FILE, SPACE_IN_EXPORT):
        if (path / name).exists():
            return path / name
    raise InputError(
        f"{path}: holds no {SPACE_FILE}; either no task is learnt yet, or the run's method keeps no gradient space"
    )
