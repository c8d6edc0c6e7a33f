"""The folder of an export: which one may be written or replaced, and how it comes to be whole or not at all."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from gorp.checkpoint import publish_folder
from gorp.checksums import touched
from gorp.errors import GorpError, InputError
from gorp.files import locked, read_json
from gorp.run_folder import RunFolder

MARKER = "gorp_export.json"


def run_identity(folder: RunFolder) -> str:
    """A sha256 that tells one run from another, however many tasks it goes on to learn."""
    state = folder.state
    first = asdict(state.tasks[0]) if state and state.tasks else None
    told = [state.base_model if state else None, first, folder.config().model_dump(mode="json")]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def check_place(out: Path, run: str, overwrite: bool) -> None:
    """Refuse a folder that holds anything but an export of the same run, as it was written.

    Args:
        out: need not exist.
        run: `run_identity` of the run to be exported.
        overwrite: accept an export of any run, whatever was put or changed there since.

    Raises:
        InputError: it does; what is no export is never accepted.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"{out}: is a file; an export needs a folder")
    if not out.exists() or not any(out.iterdir()):
        return
    if not (out / MARKER).exists():
        raise InputError(f"{out}: holds files that are no export ({MARKER} is missing); give another folder")
    told = read_json(out / MARKER)
    if not isinstance(told, dict) or "run" not in told:
        raise InputError(f"{out / MARKER}: key 'run' is missing; give another folder")
    if overwrite:
        return
    if told["run"] != run:
        raise InputError(f"{out}: is the export of another run; give another folder, or --overwrite")
    if found := touched(out):
        name, how = next(iter(found.items()))
        raise InputError(f"{out}: {name} was {how} since this was exported, and would go; move it, or give --overwrite")


@contextmanager
def new_export(out: Path, told: Mapping[str, Any]) -> Iterator[Path]:
    """A folder to be filled, which then takes the place of ``out``, marked with what is ``told`` of it.

    Raises:
        BusyError: another process writes an export there.
        GorpError: the disk refuses; nothing new is left, and what stood there is untouched.
    """
    beside = out.with_name(f".{out.name}.unfinished")
    unfinished = beside / "work" / "export"
    with locked(beside / "lock", "writes an export"):
        try:
            shutil.rmtree(unfinished.parent, ignore_errors=True)
            unfinished.mkdir(parents=True)
            yield unfinished
            (unfinished / MARKER).write_text(json.dumps(dict(told), indent=1) + "\n", encoding="utf-8")
            publish_folder(unfinished, out)
        except (OSError, SafetensorError) as error:
            raise GorpError(f"cannot write {out}: {error}; what stood there before is untouched") from error
        finally:
            shutil.rmtree(unfinished.parent, ignore_errors=True)
            shutil.rmtree(beside, ignore_errors=True)  # the lock last: with it gone, another export may begin
