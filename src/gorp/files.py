"""Files: read with errors that name file and line, written so that a crash leaves old or new, and locked."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import json
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import yaml

from gorp.errors import BusyError, GorpError, InputError
from gorp.parsing import parse_json, parse_yaml

_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE, of Linux


def read_json(path: Path, kind: str = "file") -> Any:
    """What a JSON file that gorp wrote holds; ``kind`` says in messages what it is, such as ``record``.

    Raises:
        InputError: the file is missing, cannot be read, is not UTF-8 or not JSON; the message names file and line.
    """
    try:
        return parse_json(_read(path, kind))
    except json.JSONDecodeError as error:
        raise InputError(f"{path}:{error.lineno}: not valid JSON ({error.msg}); the {kind} is damaged") from None


def read_yaml(path: Path, kind: str) -> dict[str, Any] | None:
    """The keys and values of a YAML file, None if it is empty; ``kind`` says in messages what it is.

    Raises:
        InputError: the file is missing, cannot be read, is not UTF-8, not YAML, or not keys and values.
    """
    try:
        content = parse_yaml(_read(path, kind))
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f":{mark.line + 1}" if mark else ""
        raise InputError(f"{path}{line}: not valid YAML ({getattr(error, 'problem', None) or error})") from None
    if content is not None and not isinstance(content, dict):
        raise InputError(f"{path}: expected keys and values, found {type(content).__name__}")
    return content


def _read(path: Path, kind: str) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(f"{path}: no such {kind}") from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: byte {error.start} is not UTF-8") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


def stay_inside(path: str) -> str:
    """The path, relative to a folder that it does not leave. Links in the folder are its owner's, and may lead out.

    Raises:
        ValueError: it is absolute, or goes up.
    """
    if any(kind(path).anchor or ".." in kind(path).parts for kind in (PurePosixPath, PureWindowsPath)):
        raise ValueError(f"{path!r} leaves the folder of the file that names it; accepted: a path within the folder")
    return path


def write_text_atomically(path: str | os.PathLike[str], text: str) -> Path:
    """Write ``text`` in UTF-8, as `write_bytes_atomically` does."""
    return write_bytes_atomically(path, text.encode())


def write_bytes_atomically(path: str | os.PathLike[str], content: bytes) -> Path:
    """Write ``content`` beside ``path`` under a temporary name, fsync it, rename it, fsync the folder.

    Returns the path written. Raises ``GorpError`` naming the file when the disk refuses; what stood at
    ``path`` before is then untouched and the temporary file is gone.
    """
    target = Path(path)
    temporary: Path | None = None
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary_name = tempfile.mkstemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent)
        temporary = Path(temporary_name)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        permit(temporary)
        os.replace(temporary, target)
        sync(target.parent)
    except OSError as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                temporary.unlink()
        raise GorpError(f"cannot write {target}: {error.strerror or error}") from error
    return target


def replace_folder(new: Path, place: Path) -> None:
    """Rename a folder to ``place``; what stood there is whole until that moment, and then removed.

    Where the kernel cannot exchange two names in one step, there is an instant at which nothing stands there, and what
    did is beside ``new``, under its name and ``.old``. What is removed has the name ``new`` or that one meanwhile.

    Raises:
        OSError: the disk refuses.
    """
    if not place.exists():
        os.replace(new, place)
        sync(place.parent)
        return
    old = new
    if not _exchange(new, place):
        old = new.with_name(f"{new.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        os.replace(place, old)
        try:
            os.replace(new, place)
        except OSError:
            os.replace(old, place)
            raise
    sync(place.parent)
    shutil.rmtree(old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Whether two names were exchanged in one step: Linux, where the file system can.

    Raises:
        OSError: it can, and refuses.
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    if not rename(_HERE, os.fsencode(one.absolute()), _HERE, os.fsencode(other.absolute()), _EXCHANGE):
        return True
    if (number := ctypes.get_errno()) in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(other))


@contextlib.contextmanager
def locked(path: Path, doing: str, wait: bool = False) -> Iterator[None]:
    """Hold a lock file, in which the holder's number and machine stand; no lock where there are none.

    It dies with the process.

    Args:
        path: the lock file; its folder is made.
        doing: what a holder does there, for the message: ``works on this run``.
        wait: for another holder to let go.

    Raises:
        BusyError: another process holds it.
        GorpError: the file cannot be written.
    """
    descriptor = _lock(path, doing, wait)
    try:
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"{os.getpid()}{_on_this_machine()}\n".encode())
        yield
    finally:
        os.close(descriptor)


def _lock(path: Path, doing: str, wait: bool) -> int:
    """Descriptor of the lock file, held; of the one that stands there now, should a holder have removed its own."""
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
        except OSError as error:
            raise GorpError(f"cannot write to {path.parent}: {error.strerror or error}") from error
        holds = False
        try:
            if not _try_lock(descriptor, wait):
                holder = (
                    os.read(descriptor, 300).decode(errors="replace").strip().removesuffix(_on_this_machine())
                    or "unknown"
                )
                raise BusyError(f"{path.parent}: process {holder} {doing}; wait for it, or end it")
            with contextlib.suppress(FileNotFoundError):
                holds = os.path.samestat(os.fstat(descriptor), path.stat())
        finally:
            if not holds:
                os.close(descriptor)
        if holds:
            return descriptor


def _on_this_machine() -> str:
    return f" on {socket.gethostname()}"


def _try_lock(descriptor: int, wait: bool) -> bool:
    try:
        import fcntl
    except ImportError:  # no such locks on this platform
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def permit(path: Path) -> None:
    """Let a file be read by whom the umask says: what writes under a temporary name keeps it to its owner."""
    umask = os.umask(0)
    os.umask(umask)
    path.chmod(0o666 & ~umask)


def sync(path: Path) -> None:
    """Have a file, or the names in a folder, reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
