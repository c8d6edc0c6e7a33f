"""What the replicas of a data-parallel run tell each other: thin panels and small sums. A single process: nothing.

The replicas are the processes of torch.distributed's default group, each with the whole model and rows of its own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from gorp._outer_products import OuterProducts
from gorp.errors import GorpError

_GOLDEN = 0x1E3779B97F4A7C15  # odd; makes neighbours' weights as good as random
_INTEGERS = {2: torch.int16, 4: torch.int32, 8: torch.int64}


def ranks() -> int:
    """How many replicas there are."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this replica."""
    return dist.get_rank() if ranks() > 1 else 0


def mean_over_ranks(tensors: Sequence[Tensor]) -> list[Tensor]:
    """The mean of each tensor over the replicas, bit for bit the same on all of them; one message a dtype."""
    if ranks() == 1 or not tensors:
        return list(tensors)
    means: list[Tensor] = list(tensors)
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        places = [place for place, tensor in enumerate(tensors) if tensor.dtype is dtype]
        message = torch.cat([tensors[place].reshape(-1) for place in places])
        dist.all_reduce(message)
        parts = message.div_(ranks()).split([tensors[place].numel() for place in places])
        for place, part in zip(places, parts, strict=True):
            means[place] = part.view(tensors[place].shape)
    return means


def average_gradients(parameters: Sequence[Tensor]) -> None:
    """Give every parameter the mean of its gradients, in one message; none is zero where another rank has one."""
    if ranks() == 1 or not parameters:
        return
    given = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in parameters]
    share, *means = mean_over_ranks([given, *gradients])
    for p, is_given, mean in zip(parameters, share.tolist(), means, strict=True):
        p.grad = mean if is_given else None


def rows_of_ranks(rows: Tensor) -> list[Tensor]:
    """The rows (n, d) of each replica, n its own, in the order of the ranks."""
    if ranks() == 1:
        return [rows]
    counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(ranks())]
    dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device))
    sizes = [int(count) for count in counts]
    padded = rows.new_zeros(max(sizes), rows.shape[1])
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(gathered, padded)
    return [each[:size] for each, size in zip(gathered, sizes, strict=True)]


def of_all_ranks(content: Any) -> list[Any]:
    """What JSON can say, of each replica, in the order of the ranks."""
    if ranks() == 1:
        return [content]
    letters = torch.frombuffer(bytearray(json.dumps(content).encode()), dtype=torch.uint8)
    return [json.loads(bytes(said[:, 0].tolist())) for said in rows_of_ranks(letters[:, None].to(_device()))]


def on_first_rank(write: Callable[[], None]) -> None:
    """Do what one replica alone may do, such as writing a file that all of them read; the others wait for it.

    Raises:
        GorpError: it could not be done; on the first what it raised, on the others with that message.
    """
    failed: BaseException | None = None
    try:
        if rank() == 0:
            write()
    except BaseException as error:  # whatever it is, the others must not wait for ever
        failed = error
    told = of_all_ranks("" if failed is None else str(failed) or type(failed).__name__)[0]
    if failed is not None:
        raise failed
    if told:
        raise GorpError(told)


def _device() -> torch.device:
    """Where this replica's messages must lie."""
    return torch.device("cuda", torch.cuda.current_device()) if dist.get_backend() == "nccl" else torch.device("cpu")


def check_same_on_all_ranks(tensors: dict[str, Tensor]) -> None:
    """Refuse replicas that have gone apart.

    Raises:
        GorpError: a tensor is not the same on all of them.
    """
    if ranks() == 1 or not tensors:
        return
    sums = torch.stack([checksum(tensor) for tensor in tensors.values()])
    of_ranks = [torch.empty_like(sums) for _ in range(ranks())]
    dist.all_gather(of_ranks, sums)
    differ = (torch.stack(of_ranks) != of_ranks[0]).any(dim=0)
    for name, is_other in zip(tensors, differ.tolist(), strict=True):
        if is_other:
            raise GorpError(
                f"{name} is not the same on all {ranks()} ranks; accepted: replicas that average their gradients, "
                "as torch's DistributedDataParallel does"
            )


def checksum(tensor: Tensor) -> Tensor:
    """An integer () of all bits of a tensor, in whatever order they are summed."""
    bits = tensor.detach().contiguous().view(_INTEGERS[tensor.element_size()]).flatten().long()
    places = torch.arange(1, len(bits) + 1, device=bits.device) * _GOLDEN  # all wraps around, as integers do
    return (bits * ((places ^ (places >> 29)) | 1)).sum()


class MeanOverRanks:
    """The mean of matrices, one on each replica, of which only products with a few columns are exchanged.

    Stands in for the matrix in ``G @ block`` and ``G.mT @ block``.

    Args:
        matrix: this replica's, (out, in).
    """

    def __init__(self, matrix: Tensor | OuterProducts) -> None:
        self.matrix = matrix

    @property
    def mT(self) -> MeanOverRanks:
        """The transpose."""
        return MeanOverRanks(self.matrix.mT)

    def __matmul__(self, block: Tensor) -> Tensor:
        """Mean of G block, (out, q), for a block (in, q) that is the same on all replicas."""
        return mean_over_ranks([self.matrix @ block])[0]
