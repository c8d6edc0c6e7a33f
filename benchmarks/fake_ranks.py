"""One rank of very many without the others and without memory: gorp's real code on torch's fake tensors, counted.

Tensors have shapes and no numbers (torch's FakeTensorMode), collectives have nobody at the other end (the process
group "fake"). What runs is what would run; where it asks a tensor for a value, `ANSWERS` says what an ordinary step
would answer, by the function that asks, and a question that is not there is an error. One thing is put in place of
what a machine without GPUs would do: the mesh of ranks is made of true numbers.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor
from torch._subclasses.fake_tensor import unset_fake_temporarily
from torch.distributed import device_mesh
from torch.distributed.tensor import DTensor
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry
from typing_extensions import override

from gorp import _dry
from gorp._dry import asker

Answer = Callable[[Mapping[str, Any]], float]

#: Of each function of gorp that asks a tensor for a value: the answer, given its local variables.
ANSWERS: dict[str, Answer] = {
    "gradients_are_finite": lambda _: True,
    "average_gradients": lambda _: 1.0,  # every rank has a gradient
    "_projection_of": lambda _: 1.0,  # norms: above noise, and not the task's first refresh
    "restart": lambda _: True,  # LoRA's A is not zero
    "rows_of_ranks": lambda asked: len(asked["rows"]),  # the others have as many
    "check_same_on_all_ranks": lambda _: False,  # no checksum differs
    "_columns": lambda _: True,  # the memory is finite
    "note_shares": lambda _: 1.0,  # so is its energy, and more than nothing
    "extend_basis": lambda _: 1.0,  # energies
}

#: Functions of gorp that are part of the model's own forward pass.
FORWARD = {"forward", "lift", "tap", "tapped"}

DECOMPOSITIONS = (torch.ops.aten._linalg_eigh, torch.ops.aten._linalg_svd)

WORTH_A_LOOK = 2**20
"""Bytes of new tensors from which on a new peak is looked for."""


class Meter(_dry.Meter):
    """Counts what is computed, sent and held while it is on, and answers for fake tensors, which have no values.

    Counted by name since the last `take`: ``messages KIND`` and ``sent KIND``, collectives and the bytes that all ranks
    end up with; ``operations WHO DTYPE``, of products of the model or of gorp's own work; ``touched``, bytes that the
    latter read and wrote; ``decompositions``, into eigenvectors or singular ones, whose operations are not known;
    ``peak``, most bytes of tensors alive at once, made while the meter was on.

    Args:
        columns: how many directions each layer's space grows by when a task ends.
    """

    def __init__(self, columns: int = 0) -> None:
        super().__init__()
        self.columns = columns
        self._storages: dict[int, weakref.ref[Any]] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if DTensor in types:
            return NotImplemented  # comes again with what this rank has of it
        return super().__torch_dispatch__(func, types, args, kwargs)

    @override
    def answer(self, asked: Tensor) -> float:
        frame = asker()
        name = frame.f_code.co_name if frame is not None else "nobody in gorp"
        if name == "energy_rank":
            return True if asked.dtype is torch.bool else self.columns - 1
        if frame is None or name not in ANSWERS:
            raise KeyError(f"{name} asks a tensor for its value; say in ANSWERS what an ordinary step would answer")
        return ANSWERS[name](frame.f_locals)

    @override
    def count(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        if func.namespace == "c10d":
            self._count_message(func, args)
        elif func.namespace == "aten":
            self._count_work(func, args, kwargs, result)

    def _count_message(self, func: Any, args: tuple[Any, ...]) -> None:
        name = func._schema.name.removeprefix("c10d::").strip("_").removesuffix("_base")
        if name != "barrier":
            whole = args[1] if name == "reduce_scatter" else args[0]
            self.counts[f"messages {name}"] += 1
            self.counts[f"sent {name}"] += bytes_of(whole)

    def _count_work(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        frame = asker()
        is_own = frame is not None and frame.f_code.co_name not in FORWARD
        if func._overloadpacket in flop_registry:
            dtype = next(leaf.dtype for leaf in tree_leaves(args) if isinstance(leaf, Tensor))
            kind = f"operations {'gorp' if is_own else 'model'} {str(dtype).removeprefix('torch.')}"
            self.counts[kind] += flop_registry[func._overloadpacket](*args, **kwargs, out_val=result)
        self.counts["decompositions"] += func._overloadpacket in DECOMPOSITIONS
        is_view = any(made.alias_info is not None and not made.alias_info.is_write for made in func._schema.returns)
        if is_own and not is_view:
            self.counts["touched"] += bytes_of((args, kwargs, result))

    @override
    def watch(self, made: Iterable[Tensor]) -> None:
        """Take down new memory, and whether there was never more; storages may shrink, as FSDP2 shrinks its own."""
        new = 0
        for storage in (tensor.untyped_storage() for tensor in made if not isinstance(tensor, DTensor)):
            if (key := storage._cdata) not in self._storages:
                self._storages[key] = weakref.ref(storage, lambda _, key=key: self._storages.pop(key, None))
                new += storage.nbytes()
        if new >= WORTH_A_LOOK:
            storages = [reference() for reference in list(self._storages.values())]
            alive = sum(storage.nbytes() for storage in storages if storage is not None)
            self.counts["peak"] = max(self.counts["peak"], alive)


def bytes_of(tensors: Any) -> int:
    """Of all tensors in a structure."""
    return sum(leaf.nbytes for leaf in tree_leaves(tensors) if isinstance(leaf, Tensor))


@contextmanager
def fake_ranks(count: int, columns: int = 0) -> Iterator[Meter]:
    """This process as the first of so many ranks, on fake tensors, with a meter on."""
    dist.init_process_group("fake", rank=0, world_size=count, store=FakeStore())
    try:
        with ExitStack() as stack:
            stack.enter_context(mock.patch.object(device_mesh, "init_device_mesh", real(device_mesh.init_device_mesh)))
            yield stack.enter_context(_dry.dry(torch.device("cpu"), Meter(columns)))
    finally:
        dist.destroy_process_group()


def real(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that makes true tensors though it be called among fake ones."""

    def run(*args: Any, **kwargs: Any) -> Any:
        with unset_fake_temporarily():
            return function(*args, **kwargs)

    return run
