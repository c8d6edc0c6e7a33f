"""What goes wrong, as it is done to a child at a moment: by real signals, real limits and modes, and patched clocks."""

from __future__ import annotations

import ctypes
import os
import random
import resource
import signal
import time
from collections.abc import Callable
from datetime import datetime, tzinfo
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import torch

from faults.child import Inject
from faults.moments import patch

_DAC_OVERRIDE, _DAC_READ_SEARCH, _CAPABILITY_VERSION_3 = 1, 2, 0x20080522


def send(number: signal.Signals) -> Inject:
    """Send this process a signal."""
    return partial(_send, number)


def _send(number: signal.Signals) -> None:
    os.kill(os.getpid(), number)


def both(first: Inject | None, second: Inject | None) -> None:
    """Disturb a child in two ways."""
    for inject in (first, second):
        if inject:
            inject()


def stop_clock() -> None:
    """Whatever happens to a run happens at the same time, by its history."""

    class Stopped(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime(2026, 1, 1, tzinfo=tz)

    patch("gorp.events:datetime", lambda _: Stopped)


def jump_clocks() -> None:
    """From now on every look at a clock is off by up to a day, in either direction."""
    generator = random.Random(0)
    for name in ("time", "monotonic", "perf_counter"):
        real: Callable[[], float] = getattr(time, name)
        setattr(time, name, lambda real=real: real() + generator.uniform(-86400, 86400))


def fill_disk() -> None:
    """From now on the kernel refuses every write beyond a file's first 24 bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (24, resource.RLIM_INFINITY))


def make_read_only(folder: Path) -> Inject:
    """Take the right to write from a folder and all in it, and root's right not to mind."""

    def act() -> None:
        _obey_modes()
        for path in [folder, *folder.rglob("*")]:
            path.chmod(0o555 if path.is_dir() else 0o444)

    return act


def make_writable(folder: Path) -> None:
    """Undo `make_read_only`."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)


def _obey_modes() -> None:
    """Root gives up the capabilities to read and write whatever the modes say; Linux."""
    if os.geteuid():
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION_3, 0)
    sets = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable, twice 32 bits
    if libc.capget(header, sets):
        raise OSError(ctypes.get_errno(), "capget")
    sets[0] &= ~(1 << _DAC_OVERRIDE | 1 << _DAC_READ_SEARCH)
    if libc.capset(header, sets):
        raise OSError(ctypes.get_errno(), "capset")


# numbers that are not finite, in a step (from 0, over the whole run) or from it on

Spoil = Callable[[float, range], Inject]


def spoil_loss(value: float, steps: range) -> Inject:
    """The loss of these steps is NaN or infinite."""
    return partial(_spoil_result, "gorp.training:answer_loss", value, steps)


def _spoil_result(target: str, value: float, calls: range) -> None:
    numbers = count()

    def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            result = function(*args, **kwargs)
            return result * value if next(numbers) in calls else result

        return wrapped

    patch(target, wrap)


def spoil_gradient(value: float, steps: range) -> Inject:
    """One number of the gradient of every factor is NaN or infinite in these steps."""

    def act() -> None:
        numbers = count()

        def wrap(backward: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(keeper: Any, *args: Any, **kwargs: Any) -> Any:
                if next(numbers) in steps:
                    for parameter in keeper.trainer.learning:
                        parameter.grad.view(-1)[0] = value
                return backward(keeper, *args, **kwargs)

            return wrapped

        patch("gorp.training:_Keeper.on_pre_optimizer_step", wrap)

    return act


def spoil_activations(value: float, steps: range) -> Inject:
    """One number at the output of the encoder's last layer is NaN or infinite in these steps' forward passes."""

    def act() -> None:
        numbers = count()

        def wrap(logits: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(encoder: Any, model: Any, batch: Any) -> Any:
                if next(numbers) not in steps:
                    return logits(encoder, model, batch)
                with _spoilt(model, value):
                    return logits(encoder, model, batch)

            return wrapped

        patch("gorp.encoding:Encoder.logits", wrap)

    return act


def spoil_answers(value: float, call: int) -> Inject:
    """Likewise in one batch of an evaluation."""

    def act() -> None:
        numbers = count()

        def wrap(generate: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(evaluator: Any, *args: Any) -> Any:
                if next(numbers) != call:
                    return generate(evaluator, *args)
                with _spoilt(evaluator.model, value):
                    return generate(evaluator, *args)

            return wrapped

        patch("gorp.evaluation:Evaluator._generate", wrap)

    return act


class _spoilt:  # noqa: N801 (a context manager)
    def __init__(self, model: Any, value: float) -> None:
        self.module, self.value = model.get_submodule("encoder.block")[-1], value

    def __enter__(self) -> None:
        def spoil(module: Any, args: Any, output: Any) -> Any:
            states = output[0] if isinstance(output, tuple) else output
            hole = torch.zeros_like(states)
            hole.view(-1)[0] = self.value
            return (states + hole, *output[1:]) if isinstance(output, tuple) else states + hole

        self.handle = self.module.register_forward_hook(spoil)

    def __exit__(self, *_: object) -> None:
        self.handle.remove()


def no_gradient() -> None:
    """Every loss is constant: all gradients are zero."""
    patch("gorp.training:answer_loss", lambda loss: lambda *args, **kwargs: loss(*args, **kwargs) * 0.0)


def one_row() -> None:
    """A task is one row, again and again: gradients have hardly a rank."""
    patch(
        "gorp.plan:Plan.batches",
        lambda batches: lambda plan, *args: [[plan.rows[0]] * len(rows) for rows in batches(plan, *args)],
    )
