"""English that every installation has: the docstrings of installed libraries.

Docstrings are read from source files with `ast`; nothing of the libraries is imported. The order is that of sorted file
paths and lines, so the same versions give the same list on every machine. Reading takes seconds, so `load` keeps the
result in the user's cache directory, keyed by the versions read.
"""

from __future__ import annotations

import ast
import gzip
import hashlib
import importlib.util
import inspect
import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import astuple, dataclass
from importlib import metadata
from pathlib import Path

from gorp.errors import GorpError

_FORMAT = 1
_SKIPPED_FOLDERS = frozenset({"tests", "test", "testing", "_vendor", "benchmarks", "bench", "__pycache__"})
_HEADING = re.compile(r"^(?P<title>[A-Z][A-Za-z ]{2,30})\n(?P<line>[-=~]{3,})[ ]*$", re.MULTILINE)


@dataclass(frozen=True)
class Docstring:
    """One docstring and where it comes from.

    `package` is the top-level one, `module` the dotted module, `name` the qualified name inside it ("" for the
    module itself), `parameters` the names in the signature without self and cls (empty for modules and classes).
    """

    package: str
    module: str
    name: str
    parameters: tuple[str, ...]
    text: str

    @property
    def signature(self) -> str:
        """The last part of the name with its parameters, e.g. "shortest_path(G, source, target)"."""
        return f"{self.name.rpartition('.')[2]}({', '.join(self.parameters)})"


def sections(text: str) -> dict[str, str]:
    """Split a docstring in the numpydoc form at its underlined headings; what stands before the first is under ""."""
    found = list(_HEADING.finditer(text))
    starts = [0, *(match.end() for match in found)]
    ends = [*(match.start() for match in found), len(text)]
    titles = ["", *(match["title"] for match in found)]
    return {title: text[start:end].strip("\n") for title, start, end in zip(titles, starts, ends, strict=True)}


def without_headings(text: str) -> str:
    """The docstring without its underlined headings."""
    return _HEADING.sub("", text)


def load(packages: Iterable[str], cache_dir: Path | None = None) -> list[Docstring]:
    """Docstrings of `packages` (dotted names such as "numpy" or "sympy.geometry"), each text once, in a fixed order.

    Read from the cache when the same versions were read before. A cache that cannot be read is made again; a cache that
    cannot be written is done without. Raises GorpError naming the package when one is not installed.
    """
    wanted = sorted(set(packages))
    path = (cache_dir or _cache_dir()) / f"docstrings-{_key(wanted)}.json.gz"
    cached = _read(path)
    if cached is not None:
        return cached
    texts = list(distinct(docstring for package in wanted for docstring in extract(package)))
    _write(path, texts)
    return texts


def extract(package: str) -> Iterator[Docstring]:
    """Every docstring of one installed package, tests left out, in the order of its sorted files."""
    root = _folder(package)
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root).with_suffix("").parts
        if _SKIPPED_FOLDERS.isdisjoint(inside):
            yield from of_file(path, ".".join((package, *(part for part in inside if part != "__init__"))))


def of_file(path: Path, module: str) -> Iterator[Docstring]:
    """Every docstring of one source file; none where it is not Python of this version."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            tree = ast.parse(path.read_text(encoding="utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError):
        return
    yield from _of_node(tree, module, "")


def _of_node(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, module: str, name: str
) -> Iterator[Docstring]:
    text = ast.get_docstring(node, clean=False)
    if text is not None and text.strip():
        yield Docstring(module.partition(".")[0], module, name, _parameters(node), inspect.cleandoc(text))
    for child in node.body:
        if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _of_node(child, module, f"{name}.{child.name}" if name else child.name)


def _parameters(node: ast.AST) -> tuple[str, ...]:
    if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return ()
    named = [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs]
    return tuple(argument.arg for argument in named if argument.arg not in ("self", "cls"))


def distinct(docstrings: Iterable[Docstring]) -> Iterator[Docstring]:
    """The docstrings without those whose words came before."""
    seen: set[str] = set()
    for docstring in docstrings:
        essence = re.sub(r"\W+", " ", docstring.text).strip().lower()
        if essence and essence not in seen:
            seen.add(essence)
            yield docstring


def _folder(package: str) -> Path:
    top, *below = package.split(".")
    spec = importlib.util.find_spec(top)
    if spec is None or not spec.submodule_search_locations:
        raise GorpError(
            f"the built-in tasks are cut from the docstrings of {top}, which is not installed: pip install {top}"
        )
    folder = Path(next(iter(spec.submodule_search_locations))).joinpath(*below)
    if not folder.is_dir():
        raise GorpError(f"{top} has no package {package}: the built-in tasks need the version in constraints.txt")
    return folder


def _key(packages: list[str]) -> str:
    versions = [f"{package}=={_version(package.partition('.')[0])}" for package in packages]
    return hashlib.sha256(json.dumps([_FORMAT, versions]).encode()).hexdigest()[:16]


def _version(library: str) -> str:
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        raise GorpError(
            f"the built-in tasks are cut from the docstrings of {library}, which is not installed: "
            f"pip install {library}"
        ) from None


def _cache_dir() -> Path:
    given = os.environ.get("GORP_CACHE")
    return Path(given) if given else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "gorp"


def _read(path: Path) -> list[Docstring] | None:
    try:
        checksum, _, body = gzip.decompress(path.read_bytes()).partition(b"\n")
        if checksum.decode("ascii") != hashlib.sha256(body).hexdigest():
            return None
        return [
            Docstring(package, module, name, tuple(parameters), text)
            for package, module, name, parameters, text in json.loads(body)
        ]
    except (OSError, EOFError, ValueError, TypeError):
        return None


def _write(path: Path, docstrings: list[Docstring]) -> None:
    body = json.dumps([astuple(docstring) for docstring in docstrings]).encode()
    packed = gzip.compress(hashlib.sha256(body).hexdigest().encode() + b"\n" + body, compresslevel=3)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(packed)
        os.replace(file.name, path)
    except OSError:
        return
