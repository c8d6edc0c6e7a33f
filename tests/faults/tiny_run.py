"""The run that is disturbed: a tiny random T5 learns tasks and is measured on one more; and how runs are compared."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch

from conftest import make_model, make_tokenizer, write_stream
from faults.child import Inject, Outcome, gorp, start
from gorp.checksums import verify_folder
from gorp.report.record import RunRecord
from gorp.space import GradientSpace

SETTINGS = """
model: {model}
stream: {stream}
training: {{epochs: 1, lr: 0.01, batch_size: 4, schedule: linear, save_every: 2}}
lora: {{dropout: 0.1}}
gorp: {{rank: 2, refresh_every: 2}}
data: {{train_rows: 24, test_rows: 3, validation_rows: 2}}
"""
NOT_COMPARED = {"run.lock", "environment.json", "report.html", "checksums.json", "record.json", "state.json"}


class TinyRun:
    """Model, data and settings in a folder of their own; every run of them is a `gorp run` in a process."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model, self.data, self.config = folder / "model", folder / "data", folder / "run.yaml"

    def make(self, tasks: int = 2) -> None:
        """Write all three; of the three tasks there are, those beyond ``tasks`` are measured and never learnt."""
        self.data.mkdir(parents=True)
        in_a_child(self._save_model)
        stream = write_stream(self.data)
        head, *entries = stream.read_text().split("  - ")
        entries += [entry.replace("name: ", "name: again-", 1) for entry in entries[: max(0, tasks - len(entries))]]
        learnt, measured = (["  - " + entry for entry in part] for part in (entries[:tasks], entries[tasks:]))
        stream.write_text("".join([head, *learnt, *(["unseen:\n", *measured] if measured else [])]))
        self.config.write_text(SETTINGS.format(model=self.model, stream=stream))

    def _save_model(self) -> None:
        from transformers.utils import logging

        logging.disable_progress_bar()
        make_model("seq2seq").save_pretrained(self.model)
        make_tokenizer("seq2seq").save_pretrained(self.model)

    def arguments(self, out: Path, *settings: str) -> list[str]:
        """The command line of a run in ``out``."""
        overrides = [part for setting in settings for part in ("--set", setting)]
        return ["run", str(self.config), "--out", str(out), "--quiet", *overrides]

    def run(self, out: Path, inject: Inject | None = None, *settings: str) -> Outcome:
        """Run, or go on, to the end or until what is injected ends it."""
        return gorp(self.arguments(out, *settings), inject)

    def finish(self, out: Path, inject: Inject | None = None, *settings: str) -> None:
        """Run, or go on, to the end.

        Raises:
            AssertionError: the command failed.
        """
        outcome = self.run(out, inject, *settings)
        assert outcome.code == 0 and not outcome.said, f"going on ended with {outcome.code}: {outcome.said.strip()}"

    start = staticmethod(start)


def in_a_child(work: Inject) -> None:
    """Do work that computes in a process of its own, so that this one can still be forked."""
    pid = os.fork()
    if not pid:
        try:
            work()
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(pid, 0)[1] == 0, f"{work} failed"


def assert_identical(found: Path, expected: Path, ignored: tuple[str, ...] = ()) -> None:
    """Two runs have the same record but for times and environment, the same weights and spaces, and the same files.

    Args:
        ignored: figures of a stage's record that may differ.

    Raises:
        AssertionError: they differ; the message says in what.
    """
    records = [RunRecord.load(folder).comparable() for folder in (found, expected)]
    for record in records:
        record["config"] = None  # names where model and data are
        for stage in record["stages"]:
            for key in ignored:
                del stage[key]
    for key, value in records[1].items():
        assert records[0][key] == value, f"the record's {key} differ"
    names = [sorted(str(path.relative_to(folder)) for path in folder.rglob("*")) for folder in (found, expected)]
    assert names[0] == names[1], f"files differ: {sorted(set(names[0]) ^ set(names[1]))}"
    for name in names[1]:
        one, other = found / name, expected / name
        if one.is_file() and one.name not in NOT_COMPARED and one.name != "config.yaml":
            same = _same_space(one, other) if one.name.startswith("gradient_space") else _same_bytes(one, other)
            assert same, f"{name} differs"


def assert_same_files(found: Path, expected: Path, ignored: tuple[str, ...] = ()) -> None:
    """Two folders hold the same files, byte for byte; of gradient spaces the content counts, of checksums their truth.

    Args:
        ignored: names of files that may differ.

    Raises:
        AssertionError: they do not; the message says in what.
    """
    names = [set(tree(folder)) for folder in (found, expected)]
    assert names[0] == names[1], f"files differ: {sorted(names[0] ^ names[1])}"
    for name in sorted(names[1]):
        one, other = found / name, expected / name
        if one.name == "checksums.json":
            verify_folder(one.parent)
        elif one.name not in ignored:
            same = _same_space(one, other) if one.name.startswith("gradient_space") else _same_bytes(one, other)
            assert same, f"{name} differs"


def assert_finite(folder: Path) -> None:
    """No weight and no direction of a run is NaN or infinite."""
    from gorp.checkpoint import load_tensors

    for path in folder.rglob("weights.safetensors"):
        assert all(bool(torch.isfinite(value).all()) for value in load_tensors(path).values()), f"{path} is poisoned"
    space = GradientSpace.load(folder / "gradient_space.safetensors")
    assert all(bool(torch.isfinite(side.basis).all()) for side in space.input_sides), "the space is poisoned"


def tree(folder: Path) -> dict[str, bytes]:
    """Every file of a folder with its content, but for the lock."""
    files = (path for path in folder.rglob("*") if path.is_file() and path.name != "run.lock")
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def copy(source: Path, target: Path) -> Path:
    """A copy of a run folder."""
    shutil.copytree(source, target)
    return target


def _same_bytes(one: Path, other: Path) -> bool:
    return one.read_bytes() == other.read_bytes()


def _same_space(one: Path, other: Path) -> bool:
    """The order of metadata in the file is nobody's business."""
    spaces = [GradientSpace.load(path) for path in (one, other)]
    if (spaces[0].tasks, spaces[0].retracted) != (spaces[1].tasks, spaces[1].retracted):
        return False
    if list(spaces[0].layers) != list(spaces[1].layers):
        return False
    pairs = zip(spaces[0].layers.values(), spaces[1].layers.values(), strict=True)
    return all(
        (a.frozen, a.growth, a.shares.keys()) == (b.frozen, b.growth, b.shares.keys())
        and all(torch.equal(share.nan_to_num(-1), b.shares[side].nan_to_num(-1)) for side, share in a.shares.items())
        and all(
            (x is None and y is None) or (x is not None and y is not None and torch.equal(x, y))
            for x, y in (
                (a.basis, b.basis),
                (a.energy, b.energy),
                (a.output_basis, b.output_basis),
                (a.output_energy, b.output_energy),
            )
        )
        for a, b in pairs
    )
