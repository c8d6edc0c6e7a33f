"""One cell of an experiment as a process: ``python -m gorp.compare.cell FOLDER``.

The folder is the run's, and holds ``cell.yaml`` besides; what is kept goes to ``result.json`` there. An interrupted
cell goes on where it was. The process ends as soon as the one that started it does: its standard input closes then.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from gorp.errors import BusyError, GorpError
from gorp.files import write_text_atomically
from gorp.preemption import Stopped, stopped_by

CELL, RESULT = "cell.yaml", "result.json"
#: The exit code of a cell that could not go on, through no fault of its own: EX_TEMPFAIL of sysexits.h.
GIVEN_BACK = 75


def main(folder: Path) -> int:
    """Run the cell; returns the exit code, as of the ``gorp`` command: 0 without a result if SIGTERM has stopped it."""
    _die_with_the_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of Ctrl-C the one that started it hears, too, and sends SIGTERM
    try:
        with stopped_by(signal.SIGTERM):
            _run(folder)
    except (GorpError, Stopped) as error:
        print(f"gorp: {error}", flush=True)
        return GIVEN_BACK if isinstance(error, BusyError) else error.exit_code
    return 0


def _run(folder: Path) -> None:
    from gorp.compare.results import CellResult
    from gorp.progress import LineProgress
    from gorp.run import run_stream
    from gorp.run_config import RunConfig
    from gorp.run_folder import STATE

    config = RunConfig.from_yaml(folder / CELL)
    resumed = (folder / STATE).exists()
    record = run_stream(config, folder, progress=LineProgress(sys.stdout))
    result = CellResult.of(record, config.name or folder.name, None if resumed else peak_memory())
    write_text_atomically(folder / RESULT, result.model_dump_json(indent=1) + "\n")


def peak_memory() -> int | None:
    """Bytes this process held at most: on the GPU if it used one, else resident; None where it cannot be known."""
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated()
    try:
        import resource
    except ImportError:  # not on this platform
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _die_with_the_parent() -> None:
    def watch() -> None:
        os.read(sys.stdin.fileno(), 1)  # not sys.stdin.read: it would hold a lock that a process needs to end
        os._exit(GIVEN_BACK)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
