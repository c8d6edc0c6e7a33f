"""Bytes that data-parallel ranks send in a training step under gorp, beside LoRA and full fine-tuning under DDP.

    python benchmarks/communication.py --out benchmarks/performance/communication.json

Two processes on this machine, the blocks and contenders of speed.py, each wrapped in torch's DistributedDataParallel.
Counted is every tensor that a rank gives to a collective of torch.distributed. Steps between refreshes and steps with
one are told apart; memories are full.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from speed import BLOCKS, VOCABULARY, T, attach, full, lora
from timing import Figure, tell
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.parallel import DistributedDataParallel

RANKS = 2


@contextmanager
def counted() -> Iterator[list[int]]:
    """Bytes given to collectives meanwhile, summed up in a list of one."""
    sent = [0]

    def counting(collective: Callable[..., Any], which: int) -> Callable[..., Any]:
        def run(*args: Any, **given: Any) -> Any:
            sent[0] += args[which].nbytes
            return collective(*args, **given)

        return run

    with ExitStack() as stack:
        for name, which in (("all_reduce", 0), ("broadcast", 0), ("all_gather", 1)):
            stack.enter_context(mock.patch.object(dist, name, counting(getattr(dist, name), which)))
        yield sent


def replica(rank: int, folder: str, block: str, rows: int, length: int) -> None:
    """Steps 0 to T of every contender; the first rank writes down the bytes of each."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    torch.manual_seed(0)
    base = BLOCKS[block]()
    steps: dict[str, list[int]] = {}
    contenders = {"gorp": lambda: attach(base, 0.0), "LoRA": lambda: lora(base), "full fine-tuning": lambda: full(base)}
    for name, build in contenders.items():
        model, optimizer = build()
        wrapped = DistributedDataParallel(model, broadcast_buffers=False)
        wrapped.register_comm_hook(None, allreduce_hook)  # the same in Python, where it is counted
        tokens = torch.randint(0, VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(rank))
        steps[name] = []
        for _ in range(T + 1 if name == "gorp" else 2):
            with counted() as sent:
                optimizer.zero_grad()
                wrapped(input_ids=tokens, labels=tokens).loss.backward()
                optimizer.step()
            steps[name].append(sent[0])
    if rank == 0:
        torch.save(steps, Path(folder, "steps.pt"))
    dist.destroy_process_group()


def measure(block: str, rows: int, length: int) -> list[Figure]:
    """All ratios on one block."""
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(replica, (folder, block, rows, length), nprocs=RANKS)  # type: ignore[no-untyped-call]
        steps = torch.load(Path(folder, "steps.pt"))
    whole = steps["full fine-tuning"][-1]
    between, refreshes = steps["gorp"][1:T], [steps["gorp"][0], steps["gorp"][T]]
    return [
        Figure(
            f"{block} sent a step: {what} / full fine-tuning",
            statistics.median(sent) / whole,
            min(sent) / whole,
            max(sent) / whole,
            goal,
        )
        for what, sent, goal in (
            ("gorp between refreshes", between, "<= 0.01"),
            ("gorp with a refresh", refreshes, ""),
            ("LoRA", steps["LoRA"], ""),
        )
    ]


def main() -> None:
    """Parse the command line, measure, tell."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--blocks", nargs="+", choices=list(BLOCKS), default=["T5-large"])
    parser.add_argument("--rows", type=int, default=1)
    parser.add_argument("--length", type=int, default=16)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    figures = [figure for block in options.blocks for figure in measure(block, options.rows, options.length)]
    tell(f"bytes sent, {RANKS} ranks", figures, options.out)


if __name__ == "__main__":
    main()
