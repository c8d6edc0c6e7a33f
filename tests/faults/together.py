"""Runs on two ranks, of which one is killed or told to end; what launches them ends the other, as torchrun does."""

from __future__ import annotations

import os
import signal
import socket
from functools import partial
from pathlib import Path

from faults.child import Inject, Outcome, start
from faults.tiny_run import TinyRun

RANKS = 2
MODES = ("replicate", "shard")


def run_together(run: TinyRun, out: Path, mode: str, rank: int = 0, inject: Inject | None = None) -> list[Outcome]:
    """Run, or go on, on two ranks, to the end or until what is injected into one of them ends it.

    Args:
        mode: what ranks do with the model.
        rank: the one that is disturbed.
        inject: how.

    Returns:
        How each rank ended.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    arguments = run.arguments(out, f"training.parallel={mode}")
    children = [
        start(arguments, partial(_join, number, port, inject if number == rank else None)) for number in range(RANKS)
    ]
    outcomes: dict[int, Outcome] = {rank: children[rank].wait()}
    for number, child in enumerate(children):
        if number != rank:
            if outcomes[rank].code:
                os.kill(child.pid, signal.SIGKILL)
            outcomes[number] = child.wait()
    return [outcomes[number] for number in range(RANKS)]


def finish_together(run: TinyRun, out: Path, mode: str) -> None:
    """Run, or go on, on two ranks to the end.

    Raises:
        AssertionError: a rank failed.
    """
    for number, outcome in enumerate(run_together(run, out, mode)):
        assert outcome.code == 0 and not outcome.said, f"rank {number} ended with {outcome.code}: {outcome.said[-600:]}"


def _join(rank: int, port: int, inject: Inject | None) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS), "LOCAL_WORLD_SIZE": str(RANKS)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    if inject:
        inject()
