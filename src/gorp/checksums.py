"""Checksums: a bit that turned over on a disk or in a copy is an error that names the file, never another run.

The files of a folder have theirs in ``checksums.json`` beside them. A file that is replaced again and again, such as
``record.json``, or that travels alone, such as a gradient space, carries its own. Files that earlier versions wrote
have none, and are read as they are.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from gorp.errors import InputError
from gorp.files import read_json

if TYPE_CHECKING:
    from torch import Tensor

CHECKSUMS, CHECKSUM = "checksums.json", "checksum"
_BLOCK = 1 << 20


def checksums_of(folder: Path, names: Iterable[str]) -> str:
    """What ``checksums.json`` is to say: the SHA-256 of each of the named files of a folder.

    Raises:
        OSError: a file cannot be read.
    """
    return json.dumps({name: _digest(folder / name) for name in sorted(names)}, indent=1) + "\n"


def verify(path: Path) -> None:
    """Do nothing if a file is what ``checksums.json`` beside it says, or none is known or there.

    Raises:
        InputError: the file is another, or the checksums are damaged.
        OSError: the file cannot be read.
    """
    beside = path.with_name(CHECKSUMS)
    if not beside.exists() or not path.exists():
        return
    digests = read_json(beside)
    if not isinstance(digests, dict) or digests.get(path.name) != _digest(path):
        raise InputError(
            f"{path}: is damaged, or was changed (its checksum is not the one in {CHECKSUMS} beside it); put back a "
            "copy of it, or begin anew in another folder"
        )


def verify_folder(folder: Path) -> None:
    """Do nothing if every file of a folder that ``checksums.json`` there names is what it says.

    Raises:
        InputError: one is another, or gone, or the folder is.
        OSError: a file cannot be read.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; put back a copy of it")
    beside = folder / CHECKSUMS
    for name in read_json(beside) if beside.exists() else ():
        if not (folder / name).exists():
            raise InputError(f"{folder / name}: no such file; put back a copy of it")
        verify(folder / name)


def touched(folder: Path) -> dict[str, Literal["added", "changed"]]:
    """The files, at any depth, that ``checksums.json`` does not name, or that are no longer what it says.

    Raises:
        InputError: the checksums are damaged.
        OSError: a file cannot be read.
    """
    beside = folder / CHECKSUMS
    digests = read_json(beside) if beside.exists() else {}
    if not isinstance(digests, dict):
        raise InputError(f"{beside}: expected names and checksums; put back a copy of it")
    found: dict[str, Literal["added", "changed"]] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path != beside):
        name = path.relative_to(folder).as_posix()
        if name not in digests:
            found[name] = "added"
        elif digests[name] != _digest(path):
            found[name] = "changed"
    return found


def is_expected(path: Path) -> bool:
    """Whether a file is there, or ``checksums.json`` beside it says that it should be."""
    beside = path.with_name(CHECKSUMS)
    return path.exists() or (beside.exists() and path.name in read_json(beside))


def sealed(content: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with its own checksum in it."""
    return {**content, CHECKSUM: _digest_of(content)}


def unsealed(path: Path, content: Any) -> Any:
    """What `sealed` was given; ``content`` itself if it is no object or carries no checksum.

    Raises:
        InputError: the content is not what the checksum is of; ``path`` is named.
    """
    if not isinstance(content, dict) or CHECKSUM not in content:
        return content
    rest = {key: value for key, value in content.items() if key != CHECKSUM}
    if content[CHECKSUM] != _digest_of(rest):
        raise InputError(
            f"{path}: is damaged, or was changed (key '{CHECKSUM}' is not that of its content); put back a copy of it, "
            "or remove that key to take it as it is"
        )
    return rest


def tensors_checksum(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> str:
    """SHA-256 of what a safetensors file holds, for its metadata; tensors on the CPU."""
    import torch  # not above: the command line reads no tensors for --help

    digest = hashlib.sha256(json.dumps(metadata, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _digest_of(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
