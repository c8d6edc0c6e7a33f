"""Outside of autocast: what protects the past is computed in the precision of its tensors, wherever it is called."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import wraps
from typing import TypeVar

import torch
from typing_extensions import ParamSpec

_Given = ParamSpec("_Given")
_Result = TypeVar("_Result")

DEVICE_TYPES = ("cpu", "cuda", "mps", "xpu")


def without_autocast(function: Callable[_Given, _Result]) -> Callable[_Given, _Result]:
    """A function whose products autocast does not touch, though it be called within, as a backward pass may be."""

    @wraps(function)
    def run(*args: _Given.args, **given: _Given.kwargs) -> _Result:
        with ExitStack() as stack:
            for device_type in DEVICE_TYPES:
                if torch.is_autocast_enabled(device_type):
                    stack.enter_context(torch.autocast(device_type, enabled=False))
            return function(*args, **given)

    return run
