"""Methods attached to a tiny model, and rows for them to learn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from gorp.backbones import load_backbone
from gorp.encoding import Encoder
from gorp.methods import load_method
from gorp.methods.base import Method
from gorp.run_config import RunConfig
from gorp.tasks import Task, TaskStream

Attach = Callable[..., Method]


@pytest.fixture(params=["seq2seq", "causal"])
def kind(request):
    return request.param


@pytest.fixture
def attach(tiny_models) -> Attach:
    """Makes a method of that name, with options of its own, on a fresh tiny model in evaluation mode."""

    def attached(name: str, kind: str = "causal", **options: Any) -> Method:
        backbone = load_backbone(str(tiny_models[kind]))
        settings = {"method": name, "lora": {"rank": 2}, "training": {"lr": 0.05}, "options": options}
        method = load_method(name)(RunConfig.from_mapping(settings))
        method.encoder = Encoder(backbone.model, backbone.tokenizer)
        torch.manual_seed(0)
        method.attach(backbone.model.eval())
        return method

    return attached


@pytest.fixture
def tasks(tiny_stream) -> list[Task]:
    return list(TaskStream.from_yaml(tiny_stream, train_rows=12, validation_rows=4))


@pytest.fixture
def disturb() -> Callable[[Method], None]:
    """Moves everything that learns, as a training would."""

    def moved(method: Method, scale: float = 1.0) -> None:
        with torch.no_grad():
            for parameter in method.model.parameters():
                if parameter.requires_grad:
                    parameter.add_(scale * torch.randn_like(parameter))

    return moved
