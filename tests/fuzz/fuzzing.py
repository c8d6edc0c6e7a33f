"""What the fuzz tests share: inputs that are nearly right, and what must hold whatever is read.

Whatever it is, it works, or is refused with a `GorpError` that names the file or the key; nothing is written but where
it may be, nothing is unpickled, no process is started and no connection made. A few examples, always the same, are
part of the fast tests; ``make fuzz`` tries ``GORP_FUZZ`` new ones in all, within bounds of time and memory for each.
"""

from __future__ import annotations

import json
import math
import os
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import safetensors.torch
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from gorp.errors import GorpError

NIGHTLY = int(os.environ.get("GORP_FUZZ", "0"))
#: Seconds that one example may take, in ``make fuzz``.
MOST_SECONDS = 30

Value = TypeVar("Value")


class Tally:
    """How many inputs were read, refused in one message, and how many did not hold what is promised."""

    read = 0
    refused = 0
    failed = 0


def fuzzed(share: float, few: int) -> Callable[[Value], Value]:
    """Settings of a test: this share of ``GORP_FUZZ`` examples; a few where that is not set."""
    return settings(
        max_examples=math.ceil(share * NIGHTLY) if NIGHTLY else few,
        derandomize=not NIGHTLY,
        deadline=timedelta(seconds=MOST_SECONDS) if NIGHTLY else None,
        database=None,
        print_blob=True,
        suppress_health_check=list(HealthCheck),
    )


def attempt(action: Callable[[], Value], writes: Path | None, *named: str) -> Value | None:
    """What an action returns; None where it refuses, naming one of ``named``.

    Args:
        action: reads what may be anything.
        writes: the one folder in which it may write; None for nowhere.
        named: file names, or a beginning such as ``key '``.

    Raises:
        AssertionError: it refused without saying what, or did what nothing that is read may make it do.
    """
    try:
        with _watched(writes):
            value = action()
    except GorpError as error:
        if not any(name in str(error) for name in named):
            Tally.failed += 1
            raise AssertionError(f"the message names none of {named}: {error}") from error
        str(error).encode()  # it can be printed
        Tally.refused += 1
        return None
    except BaseException:
        Tally.failed += 1
        raise
    Tally.read += 1
    return value


class _Watch:
    armed = False
    writes: Path | None = None
    seen: list[str] = []  # noqa: RUF012  # one watch a process, as audit hooks are


_FORBIDDEN = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "socket.connect", "pickle.find_class")
_PATHS = {
    **dict.fromkeys(("os.remove", "os.mkdir", "os.rmdir", "os.truncate", "os.chmod", "shutil.rmtree"), (0,)),
    **dict.fromkeys(("os.rename", "shutil.move"), (0, 1)),
    **dict.fromkeys(("os.link", "os.symlink", "shutil.copyfile"), (1,)),
}
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _Watch.armed:
        return
    paths: list[Any] = [arguments[at] for at in _PATHS.get(event, ())]
    if event == "open":
        path, mode, flags = arguments
        writes = set(mode) & set("wax+") if isinstance(mode, str) else flags & _WRITING
        paths = [path] if writes else []
    if event.startswith(_FORBIDDEN) or any(_leaves(path) for path in paths):
        _Watch.seen.append(f"{event} {arguments}")
        raise PermissionError(f"{event} {arguments}")


def _leaves(path: Any) -> bool:
    if isinstance(path, int) or path == os.devnull:
        return False
    real = os.path.realpath(os.fsdecode(path))
    if not os.path.isabs(os.fsdecode(path)) and not os.path.lexists(real):
        return False  # relative to a folder that rmtree holds open; that one was looked at before
    return _Watch.writes is None or not Path(real).is_relative_to(_Watch.writes.resolve())


sys.addaudithook(_hook)


@contextmanager
def _watched(writes: Path | None) -> Iterator[None]:
    _Watch.writes, _Watch.seen, bytecode = writes, [], sys.dont_write_bytecode
    _Watch.armed = sys.dont_write_bytecode = True
    try:
        yield
    finally:
        _Watch.armed, sys.dont_write_bytecode = False, bytecode
        assert not _Watch.seen, _Watch.seen


def listing(folder: Path, without: Path) -> dict[Path, int]:
    """Every file in a folder with its size, but for those in another: what native code writes, no hook sees."""
    return {
        path: path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_relative_to(without)
    }


HOSTILE = st.sampled_from(
    [
        *("", " ", ".", "..", "../../x", "/etc/passwd", "a/../../b", "C:\\x", "\0", "x" * 300, "x" * 70_000),
        *("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7 * 7 }}", "a|b", "\\", "$x$", "=1+1"),
        *("\ud800", "\u2028", "\ufeff", "\x1b[2J", "\r", "nan", "1e999", "null", "task-01-x/../..", "%s", "é"),
    ]
)
NUMBERS = st.one_of(
    st.integers(-3, 10),
    st.sampled_from([2**31, 2**63, -(2**63), 10**30, 0.5, -0.0, 1e-320, 1e308, math.inf, -math.inf, math.nan]),
    st.floats(),
)
SCALARS = st.one_of(st.none(), st.booleans(), NUMBERS, HOSTILE, st.text(max_size=20))
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(HOSTILE | st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


def _places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    yield path
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _places(inner, (*path, key))


def _at(value: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        value = value[key]
    return value


def _copy(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _copy(inner) for key, inner in value.items()}
    return [_copy(inner) for inner in value] if isinstance(value, list) else value


@st.composite
def changed(draw: st.DrawFn, value: Any, most: int = 3) -> Any:
    """Plain values with up to ``most`` places taken away, put twice, renamed, or replaced by anything."""
    value = _copy(value)
    for _ in range(draw(st.integers(0, most))):
        path = draw(st.sampled_from(list(_places(value))))
        if not path:
            if draw(st.integers(0, 9)) == 0:
                return draw(VALUES)
            continue
        parent, key = _at(value, path[:-1]), path[-1]
        match draw(st.sampled_from(["replace", "replace", "swap", "remove", "rename", "repeat"])):
            case "replace":
                parent[key] = draw(VALUES)
            case "swap":
                parent[key] = _copy(_at(value, draw(st.sampled_from(list(_places(value))))))
            case "remove":
                del parent[key]
            case "rename" if isinstance(parent, dict):
                name = draw(HOSTILE | st.sampled_from(sorted(map(str, parent))))
                parent[name] = parent.pop(key)
            case _ if isinstance(parent, list):
                parent.insert(key, _copy(parent[key]))
    return value


@st.composite
def damaged(draw: st.DrawFn, content: bytes, most: int = 4) -> bytes:
    """Bytes with bits flipped, parts cut out, repeated or put in, or cut short; now and then any bytes."""
    if draw(st.integers(0, 19)) == 0:
        return draw(st.binary(max_size=200))
    for _ in range(draw(st.integers(0, most))):
        at = draw(st.integers(0, max(len(content) - 1, 0)))
        length = draw(st.integers(0, 40))
        match draw(st.sampled_from(["flip", "flip", "cut", "repeat", "insert", "shorten"])):
            case "flip" if content:
                flipped = content[at] ^ (1 << draw(st.integers(0, 7)))
                content = content[:at] + bytes([flipped]) + content[at + 1 :]
            case "cut":
                content = content[:at] + content[at + length :]
            case "repeat":
                content = content[:at] + content[at : at + length] * 2 + content[at + length :]
            case "insert":
                content = content[:at] + draw(st.binary(max_size=20) | _FRAGMENTS) + content[at:]
            case _:
                content = content[:at]
    return content


@st.composite
def other_tensors(draw: st.DrawFn, content: bytes) -> bytes:
    """A safetensors file with some tensors gone, more, or of another kind, shape and content."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    tensors = safetensors.torch.load(content)
    for name in draw(st.lists(st.sampled_from([*tensors, "other.basis", "other"]), max_size=2)):
        if draw(st.integers(0, 2)) == 0:
            tensors.pop(name, None)
            continue
        shape = list(tensors[name].shape) if name in tensors and draw(st.booleans()) else None
        shape = draw(st.lists(st.integers(0, 6), max_size=3)) if shape is None else shape
        number = draw(st.sampled_from([0.0, 1.0, -1.0, 1e30, math.nan, math.inf]))
        kind = draw(st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.bool]))
        tensors[name] = torch.full(shape, number).to(kind)
    return safetensors.torch.save(tensors, header["__metadata__"])


_FRAGMENTS = st.sampled_from(
    [
        *(b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"\n", b"\r", b'"', b"'", b",", b"[", b"{", b"}", b": ", b"- "),
        *(b"\\ud800", b"NaN", b"-Infinity", b"1e999", b"9" * 5000, b"[" * 2000, b"&a [*a]", b"<<: *a"),
        *(b"!!binary x", b"!!set {a}"),
        *(b"!!python/object/apply:os.system [exit]", b"2020-13-45", b"2020-01-01", b"\xed\xa0\x80", b"../", b"%TAG"),
    ]
)


def unsealed(content):
    """The bytes of a safetensors file without the checksum in its metadata."""
    length = struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8 : 8 + length])
    del header["__metadata__"]["checksum"]
    packed = json.dumps(header).encode()
    return struct.pack("<Q", len(packed)) + packed + content[8 + length :]
