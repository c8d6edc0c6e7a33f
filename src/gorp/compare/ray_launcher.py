"""Cells spread over a Ray cluster: each is a task that runs the cell's process on its node and ends with it."""

from __future__ import annotations

import logging
import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from gorp.compare.cell import GIVEN_BACK
from gorp.compare.launchers import LOG, POLL_SECONDS, LocalProcess, threads
from gorp.errors import GorpError, InputError

#: How the names of variables begin that cells have from this machine on every node: where data and models are, mostly.
PASSED_ON = ("GORP_", "HF_", "TOKENIZERS_", "TRANSFORMERS_", "PYTHONPATH")
_SECONDS_TO_ANSWER = _SECONDS_TO_END = 10.0


@contextmanager
def open_ray(
    address: str | None = None, workers: int | None = None, cpus: int = 1, gpus: float | None = None
) -> Iterator[RayLauncher]:
    """Connect to a Ray cluster for a while.

    Args:
        address: the cluster's; ``RAY_ADDRESS`` if not given. Without either, one of this machine alone is started.
        workers: most cells at once; as many as there is room for if not given.
        cpus: cores of a cell.
        gpus: GPUs of a cell, such as 0.5 for two on each; 1 if not given and the cluster has any, else 0.

    Raises:
        InputError: there is no cluster at the address, or no node of it has room for a cell.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    try:
        _knock(address)
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False)
    except (OSError, RuntimeError, ValueError, OverflowError) as error:
        raise InputError(f"--address {address}: no Ray cluster answers ({str(error).splitlines()[0]})") from None
    try:
        if gpus is None:
            gpus = 1 if any(node.get("GPU") for node in _nodes()) else 0
        launcher = RayLauncher(workers, cpus, gpus)
        if not launcher.room():
            nodes = "; ".join(f"{node.get('CPU', 0):g} and {node.get('GPU', 0):g}" for node in _nodes())
            raise InputError(f"no node has {cpus} CPUs and {gpus:g} GPUs for a cell; the nodes' CPUs and GPUs: {nodes}")
        yield launcher
    finally:
        ray.shutdown()


class RayLauncher:
    """Runs cells on the nodes of the cluster that Ray is connected to; `open_ray` makes one.

    Args:
        workers: most cells at once; as many as there is room for if None.
        cpus: cores of a cell.
        gpus: GPUs of a cell.
    """

    def __init__(self, workers: int | None, cpus: int, gpus: float) -> None:
        self._workers, self._cpus, self._gpus = workers, cpus, gpus
        passed_on = {key: value for key, value in os.environ.items() if key.startswith(PASSED_ON)}
        self._task = ray.remote(_run_cell).options(
            num_cpus=cpus,
            num_gpus=gpus,
            max_retries=0,  # the cell is given back, and the loop over the cells starts it anew
            scheduling_strategy="SPREAD",
            runtime_env={"env_vars": {**passed_on, **threads(cpus)}},
        )

    def room(self) -> int:
        """How many cells may run at once on the nodes that are alive."""
        room = sum(self._cells_on(node) for node in _nodes())
        return room if self._workers is None else min(room, self._workers)

    def start(self, folder: Path) -> RayProcess:
        """Have a node run the cell of a folder, which it must see under the same path."""
        folder = folder.absolute()
        token = folder / f".{uuid.uuid4().hex}.token"
        token.touch()
        return RayProcess(self._task.remote(folder, token, Path.cwd()), token, folder / LOG)

    def _cells_on(self, node: dict[str, float]) -> int:
        by_cpus = int(node.get("CPU", 0) / self._cpus)
        return min(by_cpus, int(node.get("GPU", 0) / self._gpus)) if self._gpus else by_cpus


class RayProcess:
    """A cell's task.

    Args:
        task: what Ray knows it by.
        token: a file that its node takes away, which tells that it sees the folder and may write there.
        log: the cell's, where it is noted if its node is lost.
    """

    def __init__(self, task: Any, token: Path, log: Path) -> None:
        self._task, self._token, self._log = task, token, log

    def poll(self) -> int | None:
        """The exit code of the cell's process, None while it runs or waits for its node; `GIVEN_BACK` if that is lost.

        Raises:
            GorpError: the node does not see the folder, may not write to it, or has no gorp that fits.
        """
        if not ray.wait([self._task], timeout=0)[0]:
            return None
        self._token.unlink(missing_ok=True)
        try:
            return int(ray.get(self._task))
        except RayTaskError as error:
            if isinstance(error.cause, GorpError):
                raise error.cause from None
            raise GorpError(f"a node cannot run cells: {error.cause!r}") from None
        except RayError as error:
            with self._log.open("a", encoding="utf-8") as log:
                print(f"{type(error).__name__}: {str(error).splitlines()[0]}", file=log)
            return GIVEN_BACK

    def stop(self) -> None:
        """Have the cell's process on its node save and end."""
        ray.cancel(self._task)
        self._token.unlink(missing_ok=True)

    def wait(self) -> None:
        """Return when the cell's process has ended; one that has not within ten seconds is killed."""
        if not ray.wait([self._task], timeout=_SECONDS_TO_END)[0]:
            ray.cancel(self._task, force=True)


def _knock(address: str) -> None:
    """Ray itself would go on trying for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if host and port.isdigit():
        socket.create_connection((host.strip("[]"), int(port)), _SECONDS_TO_ANSWER).close()


def _nodes() -> list[dict[str, float]]:
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _run_cell(folder: Path, token: Path, directory: Path) -> int:
    """What a node does: see that it shares the folder, and run the cell's process to its end."""
    node = f"node {socket.gethostname()}"
    try:
        token.unlink()
    except FileNotFoundError:
        raise InputError(
            f"{node} does not see {folder}: --out must be in a file system that all nodes share, under the same path"
        ) from None
    except OSError as error:
        raise GorpError(f"{node} cannot write to {folder}: {error.strerror or error}") from None
    if not directory.is_dir():
        raise InputError(f"{node} has no folder {directory}: start gorp compare in one that all nodes share")
    process = LocalProcess(folder, os.environ, directory)
    try:
        while (code := process.poll()) is None:
            time.sleep(POLL_SECONDS)
        return code
    finally:
        process.stop()
        process.wait()
