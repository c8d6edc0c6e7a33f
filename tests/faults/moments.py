"""The moments of a run at which something may go wrong, and how a child is made to notice them.

A moment is a function that arms another one in the child: it wraps a named function of gorp, counts its calls, and
acts when the count is reached. Files are caught while they are written, half of them on the disk, or as they get
their names.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from faults.child import Inject

Arm = Callable[[Inject], None]


@dataclass(frozen=True)
class Moment:
    """A moment of the tiny run.

    Attributes:
        name: for the table.
        arm: has a function called in the middle of it.
        writes: where it is the writing of a file: has a function called before the first byte.
    """

    name: str
    arm: Arm
    writes: Arm | None = None


def patch(target: str, wrap: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
    """Replace ``module:a.b`` by what ``wrap`` makes of it."""
    module, _, path = target.partition(":")
    *owners, name = path.split(".")
    owner: Any = import_module(module)
    for part in owners:
        owner = getattr(owner, part)
    setattr(owner, name, wrap(getattr(owner, name)))


def at_call(target: str, count: int = 1, after: bool = False) -> Arm:
    """Before, or after, call number ``count`` of a function."""
    return _when(target, lambda *_: True, count, after)


def _when(target: str, is_meant: Callable[..., bool], count: int, after: bool = False) -> Arm:
    def arm(act: Inject) -> None:
        seen = 0

        def wrap(function: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                nonlocal seen
                meant = is_meant(*args)
                seen += meant
                due = meant and seen == count
                if due and not after:
                    act()
                result = function(*args, **kwargs)
                if due and after:
                    act()
                return result

            return wrapped

        patch(target, wrap)

    return arm


def _named(name: str, folder: str) -> Callable[..., bool]:
    """Whether a path is that of a file in a folder whose name begins so."""
    return lambda path, *_: Path(path).name == name and (not folder or Path(path).parent.name.startswith(folder))


def text(name: str, count: int, label: str = "", folder: str = "") -> Moment:
    """A file that `write_text_atomically` writes: caught with everything written and no name yet."""

    def begins(act: Inject) -> None:
        seen = 0

        def wrap(mkstemp: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(*args: Any, prefix: str, dir: Path, **kwargs: Any) -> Any:
                nonlocal seen
                meant = prefix == f".{name}." and (not folder or Path(dir).name.startswith(folder))
                seen += meant
                if meant and seen == count:
                    act()
                return mkstemp(*args, prefix=prefix, dir=dir, **kwargs)

            return wrapped

        tempfile.mkstemp = wrap(tempfile.mkstemp)

    renamed = _when("os:replace", lambda _, target: _named(name, folder)(target), count)
    return Moment(label or name, renamed, begins)


def renamed(name: str, count: int, label: str) -> Moment:
    """A file or folder has just got its name."""
    return Moment(label, _when("os:replace", lambda _, target: Path(target).name == name, count, after=True))


def tensors(name: str, count: int, target: str = "gorp.tensor_file:save_file", label: str = "") -> Moment:
    """A safetensors file, which a function writes: caught half written."""

    def meant(_: object, path: Any, *rest: object, **named: object) -> bool:
        return Path(path).name in (name, f".{name}.tmp")

    def halved(act: Inject) -> None:
        def wrap(save_file: Callable[..., Any]) -> Callable[..., Any]:
            seen = 0

            def wrapped(content: Any, path: Any, *args: Any, **named: Any) -> None:
                nonlocal seen
                save_file(content, path, *args, **named)
                seen += meant(content, path)
                if meant(content, path) and seen == count:
                    os.truncate(path, os.path.getsize(path) // 2)
                    act()
                    save_file(content, path, *args, **named)

            return wrapped

        patch(target, wrap)

    return Moment(label or name, halved, _when(target, meant, count))


def plain_text(name: str, count: int, label: str) -> Moment:
    """A file that is written into a folder before that gets its name: caught half written."""

    def halved(act: Inject) -> None:
        seen = 0

        def wrap(write_text: Callable[..., Any]) -> Callable[..., Any]:
            def wrapped(path: Path, content: str, **kwargs: Any) -> Any:
                nonlocal seen
                due = path.name == name
                seen += due
                if due and seen == count:
                    write_text(path, content[: len(content) // 2], **kwargs)
                    act()
                return write_text(path, content, **kwargs)

            return wrapped

        patch("pathlib:Path.write_text", wrap)

    return Moment(label, halved, _when("pathlib:Path.write_text", lambda path, *_: path.name == name, count))


def call(target: str, label: str, meant: Callable[..., bool] = lambda *_: True) -> Moment:
    """A function that writes: caught before it has, and once it has."""
    return Moment(label, _when(target, meant, 1, after=True), _when(target, meant, 1))


#: Of a run that begins; of one that has learnt its first task of six steps, saved every two, and has a past to lose.
AT_START = [
    Moment("model loading", at_call("gorp.backbones:AutoTokenizer.from_pretrained")),
    text("config.yaml", 1),
    text("environment.json", 1),
    text("checksums.json", 1, "run's checksums"),
    text("test.jsonl", 2, "task's rows"),
    text("record.json", 2, "record, tasks known"),
    text("state.json", 2, "state, tasks known"),
]
IN_SECOND_TASK = [
    Moment("task start", at_call("gorp.methods.base:Method.begin_task")),
    Moment("refresh step", at_call("gorp.layers:ProjectedLinear._choose_projection", 12)),
    plain_text("flight.json", 2, "flight.json"),
    tensors("flight.safetensors", 2),
    plain_text("checksums.json", 2, "flight's checksums"),
    renamed("step-000004", 1, "flight saved, not named"),
    text("state.json", 2, "state, in flight"),
    Moment("space extension", at_call("gorp.space:GradientSpace.extend", 10)),
    Moment("merge", at_call("gorp.layers:ProjectedLinear.merge", 28)),
    Moment("evaluation", at_call("gorp.evaluation:Evaluator._generate", 2)),
    tensors("weights.safetensors", 1),
    tensors("method.safetensors", 1),
    tensors("inputs.safetensors", 1),
    tensors("gradient_space.safetensors", 1),
    plain_text("checksums.json", 4, "stage's checksums"),
    renamed("after", 1, "stage saved, not named"),
    text("record.json", 1, "record, stage finished"),
    text("state.json", 4, "state, stage finished"),
    renamed("state.json", 4, "stage named"),
    renamed("gradient_space.safetensors", 2, "space at the top"),
    Moment("report", at_call("gorp.report.html:render_report")),
    text("report.html", 1),
]

#: Of what is done to a finished run.
_OPENED = Moment("opened", at_call("gorp.run_folder:RunFolder.locked"))
_AT_THE_TOP = call("shutil:copyfile", "space at the top")
RETRACTING = [
    _OPENED,
    Moment("directions chosen", at_call("gorp.retraction:removable", 5)),
    tensors("gradient_space.safetensors", 1),
    plain_text("checksums.json", 1, "space's checksums"),
    renamed("retracted-02", 1, "space saved, not named"),
    text("state.json", 1),
    renamed("state.json", 1, "space named"),
    text("record.json", 1),
    _AT_THE_TOP,
    text("report.html", 1),
]
ROLLING_BACK = [
    _OPENED,
    Moment("files verified", at_call("gorp.checksums:verify", 4)),
    text("rolled_back.json", 1),
    text("record.json", 1, "record, whole"),
    text("state.json", 1),
    renamed("state.json", 1, "state named"),
    text("record.json", 2, "record, cut"),
    _AT_THE_TOP,
    text("report.html", 1),
]
PUTTING_BACK = [
    text("record.json", 1, "record, whole"),
    text("state.json", 1),
    renamed("state.json", 1, "state named"),
    call("pathlib:Path.unlink", "way back removed", lambda path, **_: path.name == "rolled_back.json"),
    _AT_THE_TOP,
    text("report.html", 1),
]
#: Of an export that takes the place of an earlier one.
EXPORTING = [
    Moment("model loading", at_call("gorp.backbones:AutoTokenizer.from_pretrained")),
    tensors("model.safetensors", 1, "transformers.modeling_utils:safe_save_file"),
    call("gorp.export:add_base_files", "tokenizer"),
    tensors("gradient_space.safetensors", 1),
    plain_text("README.md", 1, "model card"),
    plain_text("gorp_export.json", 1, "gorp_export.json"),
    plain_text("checksums.json", 1, "checksums"),
    Moment("whole, not in its place", at_call("gorp.checkpoint:replace_folder")),
    Moment("amid the removal of the earlier one", at_call("os:unlink", 3)),
]
