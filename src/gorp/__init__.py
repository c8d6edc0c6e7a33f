"""Fine-tune one language model on task after task, without old data, and know what it keeps."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gorp._attach import attach, detach, end_task, learned_layers, param_groups
    from gorp.callback import GORPCallback
    from gorp.config import GORPConfig
    from gorp.errors import GorpError, InputError
    from gorp.learner import ContinualLearner
    from gorp.meters import Meters
    from gorp.optimizer import GORPAdamW
    from gorp.space import GradientSpace
    from gorp.tasks import Task, TaskStream

__version__ = "0.1.0"

_HOMES = {
    "attach": "gorp._attach",
    "detach": "gorp._attach",
    "end_task": "gorp._attach",
    "learned_layers": "gorp._attach",
    "param_groups": "gorp._attach",
    "GORPCallback": "gorp.callback",
    "GORPConfig": "gorp.config",
    "GorpError": "gorp.errors",
    "InputError": "gorp.errors",
    "ContinualLearner": "gorp.learner",
    "Meters": "gorp.meters",
    "GORPAdamW": "gorp.optimizer",
    "GradientSpace": "gorp.space",
    "Task": "gorp.tasks",
    "TaskStream": "gorp.tasks",
}

__all__ = [
    "ContinualLearner",
    "GORPAdamW",
    "GORPCallback",
    "GORPConfig",
    "GorpError",
    "GradientSpace",
    "InputError",
    "Meters",
    "Task",
    "TaskStream",
    "attach",
    "detach",
    "end_task",
    "learned_layers",
    "param_groups",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that ``gorp --help`` need not import torch."""
    if name not in _HOMES:
        raise AttributeError(f"module 'gorp' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value
