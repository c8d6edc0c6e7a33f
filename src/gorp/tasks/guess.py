"""What the columns of somebody's file seem to be: which is read, which is to be answered, which are left out.

A guess goes by names first and by content second, and is shown to whoever asked before anything comes of it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from statistics import fmean
from typing import Any, Literal

from gorp.errors import InputError, nearest
from gorp.tasks.forms import ACCEPTED, FORMS, MOST_LABELS, FormName, is_empty, whole
from gorp.tasks.readers import Record

Kind = Literal["text", "number", "fraction", "turns", "other"]

#: Names that columns go by, the likeliest first; of ``ticket_body`` the last word counts.
_TEXTS = (
    *("text", "sentence", "input", "body", "message", "content", "review", "comment", "utterance", "tweet", "document"),
    *(
        "passage",
        "description",
        "abstract",
        "article",
        "question",
        "query",
        "prompt",
        "instruction",
        "subject",
        "title",
    ),
)
_LABELS = (
    *("label", "labels", "category", "class", "topic", "intent", "sentiment", "target", "tag", "answer", "output"),
    *(
        "completion",
        "response",
        "reply",
        "rating",
        "stars",
        "type",
        "department",
        "queue",
        "priority",
        "urgent",
        "status",
    ),
)
_PROMPTS = ("prompt", "instruction", "question", "query", "input", "source")
_COMPLETIONS = ("completion", "response", "answer", "output", "reply", "summary", "translation", "target")
_NEITHER = ("id", "uuid", "guid", "key", "date", "time", "timestamp", "created", "updated", "url", "email", "phone")

#: So many rows, spread over the file, tell how long a column's texts are.
_SAMPLE = 2000
_LONGEST_LABEL_WORDS = 4
_LONGEST_LABEL = 60


@dataclass(frozen=True)
class Column:
    """A column as it is found: how many rows fill it, its different values (no more than ``MOST_LABELS`` + 1 of them),
    the mean length of its sampled values, and its first ones."""

    name: str
    kind: Kind
    filled: int
    values: tuple[str, ...]
    words: float
    characters: float
    examples: tuple[str, ...]

    def rank(self, names: Sequence[str]) -> int:
        """Where the column's name, or its last word, stands in ``names``; their number if it does not."""
        words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", self.name).lower()) or [""]
        return names.index(words[-1]) if words[-1] in names else len(names)

    def is_named(self, names: Sequence[str]) -> bool:
        """Whether the column's name is one of ``names``, or ends in one."""
        return self.rank(names) < len(names)

    @property
    def may_be_text(self) -> bool:
        """Whether it may be what is read: texts that differ, and that are no keys, codes or addresses."""
        if self.kind != "text" or len(self.values) < 2 or self.is_named(_NEITHER):
            return False
        are_codes = all(example.isascii() and not re.search(r"\s", example) for example in self.examples)
        return self.is_named(_TEXTS) or not are_codes

    @property
    def may_be_label(self) -> bool:
        """Whether it may be what is answered: a few short values, each of which comes again."""
        short = self.words <= _LONGEST_LABEL_WORDS and all(len(value) <= _LONGEST_LABEL for value in self.values)
        few = 2 <= len(self.values) <= MOST_LABELS and len(self.values) < self.filled
        again = len(self.values) <= self.filled / 2 or self.is_named(_LABELS)
        return self.kind in ("text", "number") and short and few and again and not self.is_named(_NEITHER)


@dataclass(frozen=True)
class Guess:
    """The file's column for each part of a form, the labels (none for free answers), and other columns that might be
    the label."""

    form: FormName
    columns: dict[str, str]
    labels: tuple[str, ...] = ()
    others: tuple[str, ...] = ()


def look_at_columns(records: Sequence[Record]) -> list[Column]:
    """The columns of a file's rows, in the order in which they are met."""
    sample = [record.values for record in islice(records, 0, None, max(1, len(records) // _SAMPLE))]
    names = dict.fromkeys(str(name) for values in sample for name in values)
    return [_look_at(name, records, sample) for name in names]


def guess_columns(columns: Sequence[Column], given: Mapping[str, str] | None = None) -> Guess:
    """Guess what columns are; ``given`` says of some parts which column they are.

    Raises:
        InputError: no guess is likely enough, or ``given`` names what is not there; the message says how to tell.
    """
    chosen = dict(given or {})
    _check_given(chosen, columns)
    form = next((form for form, parts in FORMS.items() if chosen and set(chosen) <= set(parts)), None)
    if chosen and form is None:
        raise InputError(f"--columns: {', '.join(chosen)} do not go together; accepted: {ACCEPTED}")
    form = form or _likeliest_form(columns)
    if form == "text":
        return _labelled(columns, chosen)
    return Guess(form, {part: chosen.get(part) or _named(part, columns, chosen) for part in FORMS[form]})


def _named(part: str, columns: Sequence[Column], chosen: Mapping[str, str]) -> str:
    names = {"prompt": _PROMPTS, "completion": _COMPLETIONS}.get(part, ())
    free = [column for column in columns if column.name not in chosen.values()]
    fits = [column for column in free if column.is_named(names) or (part == "messages" and column.kind == "turns")]
    if not fits:
        found = ", ".join(column.name for column in columns)
        raise InputError(f"no telling which column is the {part}; found: {found}; say so with --columns {part}=COLUMN")
    return min(fits, key=lambda column: column.rank(names)).name


def _labelled(columns: Sequence[Column], chosen: Mapping[str, str]) -> Guess:
    by_name = {column.name: column for column in columns}
    free = [column for column in columns if column.name not in chosen.values()]
    labels = sorted((column for column in free if column.may_be_label), key=_label_order)
    label = by_name[chosen["label"]] if "label" in chosen else next(iter(labels), None)
    texts = sorted((column for column in free if column.may_be_text and column is not label), key=_text_order)
    text = by_name[chosen["text"]] if "text" in chosen else next(iter(texts), None)
    if text is None or label is None:
        raise InputError(_not_told(columns, text, label))
    if len(label.values) == 1:
        raise InputError(_one_value(label))
    if label.kind == "fraction":
        raise InputError(f"{_fractions(label)}; accepted: a column of texts or whole numbers")
    listed = _in_order(label.values) if len(label.values) <= MOST_LABELS else ()
    others = tuple(column.name for column in labels if column is not label and column is not text)
    return Guess("text", {"text": text.name, "label": label.name}, listed, others)


def _likeliest_form(columns: Sequence[Column]) -> FormName:
    if any(column.kind == "turns" for column in columns):
        return "messages"
    prompts = [column for column in columns if column.kind == "text" and column.is_named(_PROMPTS)]
    answers = [column for column in columns if column.kind == "text" and column.is_named(_COMPLETIONS)]
    long_answers = [column for column in answers if not column.may_be_label and len(column.values) > 1]
    return "prompt" if prompts and long_answers else "text"


def _check_given(given: Mapping[str, str], columns: Sequence[Column]) -> None:
    parts = [part for form in FORMS.values() for part in form]
    names = [column.name for column in columns]
    for part, name in given.items():
        if part not in parts:
            raise InputError(f"--columns: {part!r} is not one of {', '.join(parts)}{nearest(part, parts)}")
        if name not in names:
            raise InputError(f"--columns: there is no column {name!r}{nearest(name, names)}; found: {', '.join(names)}")


def _not_told(columns: Sequence[Column], text: Column | None, label: Column | None) -> str:
    names = ", ".join(column.name for column in columns)
    single = next((column for column in columns if len(column.values) == 1 and column.is_named(_LABELS)), None)
    if label is None and single is not None:
        return _one_value(single)
    if label is None and text is not None:
        what, how = (
            "the label",
            f"text={text.name},label=COLUMN, or prompt={text.name},completion=COLUMN for free answers",
        )
    elif label is not None:
        what, how = "the text", f"text=COLUMN,label={label.name}"
    else:
        what, how = "the text, and which the label", "text=COLUMN,label=COLUMN"
    unfit = "".join(f"; {_fractions(column)}" for column in columns if column.kind == "fraction" and label is None)
    return f"no telling which column is {what}; found: {names}; say so with --columns {how}{unfit}"


def _one_value(column: Column) -> str:
    return f"column {column.name!r} holds {column.values[0]!r} in every row: there is nothing to tell apart"


def _fractions(column: Column) -> str:
    return f"column {column.name!r} holds numbers with a fraction, which are no labels"


def _text_order(column: Column) -> tuple[int, float]:
    return column.rank(_TEXTS), -column.characters


def _label_order(column: Column) -> tuple[int, int]:
    return column.rank(_LABELS), len(column.values)


def _in_order(values: Sequence[str]) -> tuple[str, ...]:
    return tuple(sorted(values, key=lambda value: (len(value), value) if value.isdigit() else (0, value)))


def _look_at(name: str, records: Sequence[Record], sample: Sequence[Mapping[str, Any]]) -> Column:
    seen = [whole(values[name]) for values in sample if not is_empty(values.get(name))]
    texts = [str(value) for value in seen]
    different: set[str] = set()
    filled = 0
    for record in records:
        value = record.values.get(name)
        if not is_empty(value):
            filled += 1
            if len(different) <= MOST_LABELS:
                different.add(str(whole(value)))
    return Column(
        name=name,
        kind=_kind(seen),
        filled=filled,
        values=tuple(sorted(different)),
        words=fmean(len(text.split()) for text in texts) if texts else 0.0,
        characters=fmean(map(len, texts)) if texts else 0.0,
        examples=tuple(texts[:3]),
    )


def _kind(values: Sequence[Any]) -> Kind:
    if values and all(isinstance(value, list) and value and _is_turn(value[0]) for value in values):
        return "turns"
    if values and all(isinstance(value, int) for value in values):
        return "number"
    if values and all(isinstance(value, int | float) for value in values):
        return "fraction"
    return "text" if values and all(isinstance(value, str) for value in values) else "other"


def _is_turn(value: Any) -> bool:
    return isinstance(value, dict) and {"role", "content"} <= value.keys()
