"""The continual-learning methods by name; each is imported when it is asked for.

Another package adds a method through an entry point of the group ``gorp.methods``, name and ``module:Class``; the class
is a `gorp.methods.base.Method`. A name of gorp's own stays gorp's.
"""

from __future__ import annotations

from importlib import import_module
from importlib.metadata import entry_points
from typing import TYPE_CHECKING

from gorp.errors import InputError, nearest

if TYPE_CHECKING:
    from gorp.methods.base import Method

METHODS: dict[str, str] = {
    **{entry.name: entry.value for entry in entry_points(group="gorp.methods")},
    "gorp": "gorp.methods.gorp:GORP",
    "seq-lora": "gorp.methods.seq_lora:SeqLoRA",
    "inc-lora": "gorp.methods.inc_lora:IncLoRA",
    "seq-full": "gorp.methods.seq_full:SeqFull",
    "joint": "gorp.methods.joint:Joint",
    "zero-shot": "gorp.methods.zero_shot:ZeroShot",
    "per-task": "gorp.methods.per_task:PerTask",
    "replay": "gorp.methods.replay:Replay",
    "ewc": "gorp.methods.ewc:EWC",
    "lwf": "gorp.methods.lwf:LwF",
    "l2p": "gorp.methods.l2p:L2P",
    "prog-prompt": "gorp.methods.prog_prompt:ProgPrompt",
    "o-lora": "gorp.methods.o_lora:OLoRA",
    "n-lora": "gorp.methods.n_lora:NLoRA",
    "inflora": "gorp.methods.inflora:InfLoRA",
    "migu": "gorp.methods.migu:MIGU",
    "osf": "gorp.methods.osf:OSF",
    "galore": "gorp.methods.galore:GaLore",
}


def check_method(name: str) -> str:
    """Return ``name`` if it is a method's.

    Raises:
        InputError: it is not; the message lists the methods and the nearest.
    """
    if name not in METHODS:
        raise InputError(f"unknown method {name!r}{nearest(name, METHODS)}; methods: {', '.join(METHODS)}")
    return name


def load_method(name: str) -> type[Method]:
    """Return the class of a method.

    Raises:
        InputError: no method has that name.
    """
    module, _, class_name = METHODS[check_method(name)].partition(":")
    method: type[Method] = getattr(import_module(module), class_name)
    return method
