"""gorp's real code on tensors that have shapes and no numbers (torch's FakeTensorMode), with what it holds counted."""

from __future__ import annotations

import sys
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from types import FrameType
from typing import Any, TypeVar
from unittest import mock

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

Answer = Callable[[Mapping[str, Any], Tensor], float]

#: Of each function of gorp that asks a tensor for a value: what an ordinary step would answer, given its local
#: variables and the tensor. What is not here is answered with 1, or 0 for a whole number, which may be a position.
ANSWERS: dict[str, Answer] = {
    "_generate": lambda _, asked: asked.dtype is not torch.bool or _longest_reached(),  # rows padded, answers long
    "logits": lambda _, asked: asked.dtype is not torch.bool,  # rows are padded
    "restart": lambda _, asked: True,  # LoRA's A is not zero
    "energy_rank": lambda _, asked: asked.dtype is torch.bool,  # of finite numbers, the first alone
    "check_same_on_all_ranks": lambda *_: False,  # no checksum differs
}

#: Functions of gorp that are part of the model's own passes.
FORWARD = {
    "forward",
    "lift",
    "tap",
    "tapped",
    "logits",
    "embed",
    "_generate",
    "choose",
    "log_likelihoods",
    "_forward",
    "training_step",
    "compute_loss",
}

_ASKING = (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.item.default, torch.ops.aten.is_nonzero.default)

_ATTENTION = {
    "_scaled_dot_product_flash_attention_for_cpu": lambda args: sdpa_flop_count(*(arg.shape for arg in args[:3])),
    "_scaled_dot_product_flash_attention_for_cpu_backward": lambda args: sdpa_backward_flop_count(
        *(arg.shape for arg in args[:4])
    ),
}
"""Operations of what torch's own register of them lacks."""


class Meter(TorchDispatchMode):
    """While on, counts operations and bytes alive, and answers for tensors that have no values.

    ``counts`` by name: ``model`` and ``own``, operations of matrix products in the model's passes and in all that is
    done besides. ``alive`` and ``peak``, by type of device: bytes of tensors made while the meter was on, now and at
    most since `mark`.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch
        self.counts: Counter[str] = Counter()
        self.alive: Counter[str] = Counter()
        self.peak: Counter[str] = Counter()
        self._known: dict[int, weakref.ref[Any]] = {}

    def mark(self) -> None:
        """Begin a new peak."""
        self.peak = Counter(self.alive)

    def take(self) -> Counter[str]:
        """What was counted since the last call."""
        counts, self.counts = self.counts, Counter()
        return counts

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _ASKING and has_no_value(args[0]):
            return self.answer(args[0])
        if func is torch.ops.aten.nonzero.default and has_no_value(args[0]):
            return args[0].new_zeros(args[0].numel(), args[0].ndim, dtype=torch.int64)
        if func is torch.ops.aten.index.Tensor:
            args = (args[0], [place for index in args[1] for place in _places(index)])
        if func.namespace == "aten":
            with self:  # in inference mode products come whole, with what they are made of inside
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        result = func(*args, **kwargs)
        self.count(func, args, kwargs, result)
        self.watch([leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)])
        return result

    def answer(self, asked: Tensor) -> float:
        """What a tensor without values answers the function of gorp that asks it for one."""
        frame = asker()
        name = frame.f_code.co_name if frame is not None else ""
        whole = asked.dtype is not torch.bool and not asked.dtype.is_floating_point
        answer = ANSWERS.get(name, lambda *_: not whole)(frame.f_locals if frame else {}, asked)  # type: ignore[no-untyped-call]
        return bool(answer) if asked.dtype is torch.bool else int(answer) if whole else float(answer)

    def count(self, func: Any, args: Any, kwargs: Any, result: Any) -> None:
        """Take down what an operation did."""
        packet = func._overloadpacket
        if packet in flop_registry:
            operations = flop_registry[packet](*args, **kwargs, out_val=result)
        elif packet.__name__ in _ATTENTION:
            operations = _ATTENTION[packet.__name__](args)
        else:
            return
        frame = asker()
        is_own = frame is not None and frame.f_code.co_name not in FORWARD
        self.counts["own" if is_own else "model"] += int(operations)

    def watch(self, made: Iterable[Tensor]) -> None:
        """Take down the memory of tensors, until it is let go."""
        for tensor in made:
            self._watch(tensor)

    def _watch(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size, device = storage._cdata, storage.nbytes(), tensor.device.type
        if key in self._known or not size or device == "meta":
            return

        def freed(_: object) -> None:
            self._known.pop(key, None)
            self.alive[device] -= size

        self._known[key] = weakref.ref(storage, freed)
        self.alive[device] += size
        self.peak[device] = max(self.peak[device], self.alive[device])


AnyMeter = TypeVar("AnyMeter", bound=Meter)


@contextmanager
def dry(device: torch.device, meter: AnyMeter) -> Iterator[AnyMeter]:
    """Within, tensors are made without numbers, on ``device`` if nothing else is said, and counted by the meter."""
    with ExitStack() as stack:
        # modules swap such tensors when they are moved, which torch refuses where the mode itself refers to them weakly
        stack.enter_context(mock.patch.object(torch.utils, "weakref", mock.Mock(getweakrefs=lambda _: [])))
        stack.enter_context(mock.patch.object(nn.Module, "to", _cast_alone))
        stack.enter_context(FakeTensorMode())
        stack.enter_context(device)
        stack.enter_context(meter)
        yield meter


_to = nn.Module.to


def _cast_alone(module: nn.Module, *args: Any, **kwargs: Any) -> nn.Module:
    """``Module.to`` where all is on its device: what is swapped would lose the attributes that parameters have."""
    dtype = torch._C._nn._parse_to(*args, **kwargs)[1]
    return module if dtype is None else _to(module, dtype=dtype)


def has_no_value(tensor: Tensor) -> bool:
    """Whether nothing is known of a tensor but its shape."""
    return isinstance(tensor, FakeTensor) and tensor.constant is None


def _places(index: Tensor | None) -> list[Tensor | None]:
    """What indexes by position as a mask does that is true everywhere, if ``index`` is one without values."""
    if index is None or index.dtype is not torch.bool or not has_no_value(index):
        return [index]
    return [index.new_zeros(index.numel(), dtype=torch.int64)] * index.ndim


def _longest_reached() -> bool:
    """Whether transformers' loop over tokens, if it is what asks, has made as many as it may."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and not str(frame.f_globals.get("__name__", "")).startswith("transformers."):
        frame = frame.f_back
    if frame is None or not frame.f_globals["__name__"].startswith("transformers.generation."):
        return False
    while frame is not None and "stopping_criteria" not in frame.f_locals:
        frame = frame.f_back
    if frame is None or frame.f_code.co_name != "_sample":
        return False
    return bool(frame.f_locals["input_ids"].shape[1] >= frame.f_locals["stopping_criteria"].max_length)


def asker() -> FrameType | None:
    """The innermost function of gorp that is running, comprehensions and wrappers passed over."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        code, module = frame.f_code, str(frame.f_globals.get("__name__", ""))
        inside = module.startswith("gorp.") and module not in ("gorp._precision", __name__)
        if inside and not code.co_name.startswith("<"):
            return frame
        frame = frame.f_back
    return None
