"""Where the processes of cells run: what the loop over them needs to know, and the launcher for this machine."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

LOG = "cell.log"
POLL_SECONDS = 0.3


class CellProcess(Protocol):
    """A cell that was started."""

    def poll(self) -> int | None:
        """Its exit code, None while it runs.

        Raises:
            GorpError: it cannot run where it was put, and no other cell can.
        """

    def stop(self) -> None:
        """Have it save and end; `wait` until it has."""

    def wait(self) -> None:
        """Return when it has ended."""


class Launcher(Protocol):
    """Starts cells."""

    def room(self) -> int:
        """How many cells may run at once, as of now."""

    def start(self, folder: Path) -> CellProcess:
        """Start the cell of a folder that holds its ``cell.yaml``; what it says is added to its log there."""


class LocalProcess:
    """A cell's process on this machine; it ends with this one.

    Args:
        folder: the cell's.
        environment: of the process.
        directory: where it starts, which relative paths in its settings depend on; this process's if not given.

    Raises:
        OSError: it cannot be started.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str], directory: Path | None = None) -> None:
        with (folder / LOG).open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "gorp.compare.cell", str(folder)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd=directory,
            )

    def poll(self) -> int | None:
        """Its exit code, negative for a signal's; None while it runs."""
        if self._process.poll() is not None:
            self.wait()
        return self._process.returncode

    def stop(self) -> None:
        """Have it save and end."""
        self._process.terminate()

    def wait(self) -> None:
        """Return when it has ended; if this process is asked to end meanwhile, it is killed."""
        try:
            self._process.wait()
        finally:
            self._process.kill()
            self._process.wait()
            if self._process.stdin is not None:
                self._process.stdin.close()


class LocalLauncher:
    """Runs cells on this machine, ``workers`` at a time; they share the cores."""

    def __init__(self, workers: int = 1) -> None:
        self._workers = workers

    def room(self) -> int:
        """How many cells may run at once."""
        return self._workers

    def start(self, folder: Path) -> LocalProcess:
        """Start a cell."""
        share = max(1, (os.cpu_count() or 1) // self._workers)
        return LocalProcess(folder, {**os.environ, **threads(share)})


def threads(cores: int) -> dict[str, str]:
    """The setting for a cell's share of the cores: two with a thread a core each would wait for each other."""
    return {"OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS") or str(cores)}
