"""The built-in stream: five tasks cut from the docstrings of libraries that gorp installs anyway.

Every row comes from a docstring of its own, so no text is in two tasks or in two parts of one. Which docstrings serve
for test and validation is decided by a hash of where they stand; the built-in models were pretrained without those. A
row is for test or for validation however many of either are asked for.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gorp.errors import InputError
from gorp.tasks.docstrings import Docstring, load, sections
from gorp.tasks.prompts import Template
from gorp.tasks.stream import TaskStream
from gorp.tasks.task import Example, Task

#: What the stream reads. The heaviest part of sympy is left out: it takes longer to read than all the rest.
PACKAGES = (
    "huggingface_hub",
    "matplotlib",
    "networkx",
    "numpy",
    "pandas",
    "sympy.combinatorics",
    "sympy.geometry",
    "sympy.physics",
    "sympy.stats",
)

LIBRARIES = ("huggingface_hub", "matplotlib", "networkx", "pandas")
SECTIONS = {
    "Parameters": "parameters",
    "Returns": "result",
    "Raises": "errors",
    "Notes": "notes",
    "Examples": "examples",
}
TOPICS = {
    "sympy.combinatorics": "combinatorics",
    "sympy.geometry": "geometry",
    "sympy.physics": "physics",
    "sympy.stats": "statistics",
}
TEST_ROWS, VALIDATION_ROWS = 100, 50  # of a task, unless asked otherwise; which ones these are never changes
_LONGEST = 200  # characters of docstring in a prompt
_SHORTEST = 40

_Row = tuple[str, str]  # text, answer


@dataclass(frozen=True)
class _Cut:
    """How one task is cut: `rows(docstring)` gives the row a docstring yields, or None.

    Labels are equally frequent in every part. A free answer (no labels) is that of at most `repeats` rows in a hundred.
    """

    name: str
    instruction: str
    rows: Callable[[Docstring], _Row | None]
    labels: tuple[str, ...] = ()
    repeats: int = 5


def builtin_stream(
    train_rows: int = 400,
    test_rows: int = TEST_ROWS,
    validation_rows: int = VALIDATION_ROWS,
    seed: int = 0,
    cache_dir: Path | None = None,
) -> TaskStream:
    """Five tasks over overlapping kinds of text, with other answers each.

    Another `seed` draws other training rows; those for test and validation stay. `cache_dir` is where the docstrings
    read are kept, by default the user's cache directory.

    Raises:
        InputError: the docstrings do not suffice for so many rows.
        GorpError: a library that the rows are cut from is not installed.
    """
    docstrings = load(PACKAGES, cache_dir)
    kept = sorted((d for d in docstrings if held_out(d)), key=lambda d: _hash(f"{d.module}:{d.name}"))
    free = sorted((d for d in docstrings if not held_out(d)), key=lambda d: _hash(f"{seed}:{d.module}:{d.name}"))
    used: set[str] = set()
    by_need = sorted(_CUTS, key=lambda cut: cut.name != "topic")  # the task with the fewest texts chooses first
    usual = {cut.name: _take(cut, kept, TEST_ROWS + VALIDATION_ROWS, used) for cut in by_need}
    sides: list[list[Docstring]] = [[], []]  # of what is asked for beyond that
    for docstring in kept:
        sides[int(_hash(docstring.text), 16) % 2].append(docstring)
    more_test = {cut.name: _take(cut, sides[0], test_rows - TEST_ROWS, used) for cut in by_need}
    more_validation = {cut.name: _take(cut, sides[1], validation_rows - VALIDATION_ROWS, used) for cut in by_need}
    test = {name: [*rows[:TEST_ROWS], *more_test[name]][:test_rows] for name, rows in usual.items()}
    validation = {name: [*rows[TEST_ROWS:], *more_validation[name]][:validation_rows] for name, rows in usual.items()}
    trained = {cut.name: _take(cut, free, train_rows, used) for cut in by_need}
    return TaskStream(
        "builtin",
        [Task(cut.name, trained[cut.name], validation[cut.name], test[cut.name], cut.labels) for cut in _CUTS],
    )


def held_out(docstring: Docstring) -> bool:
    """Whether a docstring is kept for test and validation rows: a quarter are, by a hash of where they stand."""
    return hashlib.sha256(f"{docstring.module}:{docstring.name}".encode()).digest()[0] < 64


def _take(cut: _Cut, docstrings: list[Docstring], count: int, used: set[str]) -> list[Example]:
    """The first `count` rows that keep the answers in balance, the answers taking turns; adds to `used` what they use.

    None where `count` is not above 0.
    `used` holds docstrings (by text) and rows (by text) that are in a task already.
    """
    most = -(-count // len(cut.labels)) if cut.labels else max(1, count * cut.repeats // 100)
    taken: Counter[str] = Counter()
    rows: list[tuple[int, _Row]] = []
    for docstring in docstrings:
        if len(rows) >= count:
            break
        row = None if docstring.text in used else cut.rows(docstring)
        if row is None or row[0] in used or taken[row[1]] == most:
            continue
        used.update((docstring.text, row[0]))
        rows.append((taken[row[1]], row))
        taken[row[1]] += 1
    if len(rows) < count:
        raise InputError(f"the built-in task {cut.name!r} has {count - len(rows)} rows too few: ask for fewer")
    template = Template(cut.instruction, cut.labels)
    return [template.example(*row) for _, row in sorted(rows, key=lambda turn: turn[0])]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _shortened(text: str, longest: int = _LONGEST) -> str:
    """At most `longest` characters, cut at a blank; runs of blanks made one, indentation dropped."""
    text = re.sub(r"[ \t]+", " ", re.sub(r"\s*\n\s*", "\n", text.strip()))
    return text if len(text) <= longest else text[:longest].rsplit(None, 1)[0]


def _summary(docstring: Docstring) -> str:
    """What stands before the first heading, with the signature in front where there is one."""
    text = re.split(r"\n\s*(?:Args|Parameters|Returns|Raises|Examples?):", sections(docstring.text)[""])[0]
    return _shortened(f"{docstring.signature}\n{text}" if docstring.parameters else text)


_TELLING = re.compile(r"import |pandas|numpy|matplotlib|networkx|hugging|sympy", re.IGNORECASE)


def _whole(docstring: Docstring) -> str:
    """The beginning of signature and docstring without headings, nor the lines that would name where it comes from."""
    lines = "\n".join([docstring.signature, *sections(docstring.text).values()]).split("\n")
    return _shortened("\n".join(line for line in lines if not _TELLING.search(line)), _LONGEST + 60)


def _library(docstring: Docstring) -> _Row | None:
    text = _whole(docstring) if docstring.package in LIBRARIES else ""
    return (text, docstring.package) if len(text) >= 180 else None


def _section(docstring: Docstring) -> _Row | None:
    if docstring.package == "sympy":
        return None
    parts = [
        (_shortened(body), SECTIONS[title]) for title, body in sections(docstring.text).items() if title in SECTIONS
    ]
    parts = [part for part in parts if len(part[0]) >= _SHORTEST]
    rare = [part for part in parts if part[1] in ("errors", "notes")]
    return min(rare or parts, key=lambda part: _hash(part[0]), default=None)


def _topic(docstring: Docstring) -> _Row | None:
    label = TOPICS.get(".".join(docstring.module.split(".")[:2]))
    text = _whole(docstring) if label else ""
    return (text, label) if label and len(text) >= 140 else None


_ENTRY = re.compile(r"^(\*{0,2}[\w]+ ?: ?\S.*(?:\n[ ]+.*)+)", re.MULTILINE)


def _optional(docstring: Docstring) -> _Row | None:
    entries = [_shortened(entry) for entry in _ENTRY.findall(sections(docstring.text).get("Parameters", ""))]
    entries = [entry for entry in entries if len(entry) >= _SHORTEST]
    if not entries:
        return None
    entry = min(entries, key=_hash)
    return entry, "yes" if re.search("optional|default", entry) else "no"


# First parameters that many functions share: a model of two million weights cannot spell every other.
_COMMON = re.compile(
    "alpha|api|arr|arrays|ax|axes|axis|base|bbox|condition|content|data|df|dtype|expr|fig|fname|frame|freq|func|"
    "image|index|indexer|indices|key|label|labels|left|level|loc|method|name|names|obj|other|path|result|shape|"
    "start|subset|system|target|text|value|values|vmin|width|xy"
)


def _parameter(docstring: Docstring) -> _Row | None:
    first = docstring.parameters[0] if len(docstring.parameters) >= 2 and len(docstring.signature) <= 120 else ""
    text = _summary(docstring) if _COMMON.fullmatch(first) else ""
    return (text, first) if len(text) >= _SHORTEST else None


_PLACE = "Where does the following text belong? Choose one from the option.\n"
_CUTS = (
    _Cut("topic", _PLACE, _topic, tuple(TOPICS.values())),
    _Cut("library", _PLACE, _library, LIBRARIES),
    _Cut("section", _PLACE, _section, tuple(SECTIONS.values())),
    _Cut(
        "optional", "May the following parameter be left out? Choose one from the option.\n", _optional, ("yes", "no")
    ),
    _Cut("parameter", "What is the first parameter of the following function?\n", _parameter),
)
