"""Joining the processes that ``torchrun`` or ``accelerate launch`` started; a process by itself joins nobody."""

from __future__ import annotations

import os
import time

import torch
import torch.distributed as dist
from accelerate import PartialState

from gorp.errors import InputError

_REFUSED = {
    "deepspeed": "DeepSpeed's ZeRO cuts parameters and optimizer states into flat pieces, in which no layer's gradient "
    "space can be found",
    "fsdp": "accelerate's own FSDP would shard the factors, cores and bases that every rank needs whole",
}


#: Seconds in which gloo's threads let go of the last messages' tensors. They need the interpreter for it, and abort a
#: process whose interpreter is ending; where weights are spread, torch keeps these threads for as long as the process.
_LETTING_GO = 0.1


def join_ranks() -> torch.device:
    """Meet the other processes of this launch, if there are any, and tell the device of this one.

    Raises:
        InputError: the launch asks for what would take gorp's layers apart.
    """
    if reason := taken_apart():
        raise InputError(
            f"{reason}; accepted: torchrun or accelerate launch without it, with training.parallel: replicate, "
            "or shard (FSDP2), which leaves more of each device to activations"
        )
    on_cpu = "LOCAL_RANK" in os.environ and not torch.accelerator.is_available()
    if on_cpu:  # where accelerate has no processes meet unless told
        os.environ["ACCELERATE_USE_CPU"] = "true"
    return PartialState(cpu=on_cpu).device


def taken_apart(settings: object = None) -> str | None:
    """Why gorp's layers would not stay whole under this launch or a Trainer's settings; None where they would."""
    for name, reason in _REFUSED.items():
        if getattr(settings, name, None) or os.environ.get(f"ACCELERATE_USE_{name.upper()}", "").lower() == "true":
            return reason
    return None


def leave_ranks() -> None:
    """Part, everything being done; not after an error, for others may wait for a message still."""
    if dist.is_available() and dist.is_initialized():
        dist.destroy_process_group()
        time.sleep(_LETTING_GO)
