"""Runs of three tasks, made once, to be exported."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from gorp.run import run_stream
from gorp.run_config import RunConfig

Run = Callable[..., Path]


@pytest.fixture(scope="session")
def run(tiny_models, tiny_stream, tmp_path_factory) -> Run:
    """The folder of a run of three tasks with such settings, made once."""
    made: dict[str, Path] = {}

    def runs(kind: str = "seq2seq", method: str = "gorp", model: Path | None = None, **settings) -> Path:
        key = json.dumps([kind, method, str(model), settings])
        if key not in made:
            folder = tmp_path_factory.mktemp("run")
            values = {
                "method": method,
                "model": str(model or tiny_models[kind]),
                "stream": str(tiny_stream),
                "training": {"epochs": 1, "lr": 0.02, "batch_size": 6},
                "lora": {"rank": 2},
                "gorp": {"rank": 2, "refresh_every": 2},
                "data": {"train_rows": 12, "test_rows": 3, "validation_rows": 4},
                **settings,
            }
            run_stream(RunConfig.from_mapping(values), folder)
            made[key] = folder
        return made[key]

    return runs
