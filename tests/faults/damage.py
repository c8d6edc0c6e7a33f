"""What is damaged in a run folder, and what else than before a run is gone on with."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from faults.tiny_run import TinyRun


def flip(place: int, path: Path) -> None:
    """Turn over a bit of a file."""
    content = bytearray(path.read_bytes())
    content[place] ^= 1 << place % 8
    path.write_bytes(content)


def cut(share: float, path: Path) -> None:
    """Leave so much of a file."""
    os.truncate(path, int(share * path.stat().st_size))


def _edit(name: str, old: str, new: str) -> Callable[[TinyRun], None]:
    def change(run: TinyRun) -> None:
        path = run.folder / name
        text = path.read_text()
        assert old in text, f"{name} has no {old!r}"
        path.write_text(text.replace(old, new))

    return change


def _another_model(run: TinyRun) -> None:
    """One bit of one weight."""
    path = run.model / "model.safetensors"
    flip(path.stat().st_size - 5, path)


CHANGES: dict[str, Callable[[TinyRun], None]] = {
    "a training row changed": _edit("data/animal-train.jsonl", "red", "green"),
    "a test row changed": _edit("data/colour-test.jsonl", '"text": "', '"text": "big '),
    "a row of an unseen task changed": _edit("data/act-test.jsonl", '"text": "', '"text": "big '),
    "a data file gone": lambda run: (run.data / "animal-train.jsonl").unlink(),
    "a label added": _edit("data/stream.yaml", "labels: [cat,", "labels: [fish, cat,"),
    "an instruction changed": _edit("data/stream.yaml", "What animal", "Which animal"),
    "another base model": _another_model,
    "another tokenizer": _edit("model/tokenizer.json", '"cat"', '"cow"'),
    "another setting of the model": _edit(
        "model/config.json", '"layer_norm_epsilon": 1e-06', '"layer_norm_epsilon": 0.1'
    ),
    "another setting of the run": _edit("run.yaml", "lr: 0.01", "lr: 0.02"),
}
