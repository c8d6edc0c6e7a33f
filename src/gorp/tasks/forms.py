"""From records to rows: the three forms a row may have, ``text`` + ``label``, ``prompt`` + ``completion``,
``messages``."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from gorp.errors import InputError, nearest
from gorp.tasks.prompts import Template, messages_example, prompt_example
from gorp.tasks.readers import Record
from gorp.tasks.task import Example

FormName = Literal["text", "prompt", "messages"]

#: The columns of each form, and other names they go by in public data sets.
FORMS: dict[FormName, tuple[str, ...]] = {
    "text": ("text", "label"),
    "prompt": ("prompt", "completion"),
    "messages": ("messages",),
}
_ALIASES = {"text": ("sentence", "input"), "label": ("output",)}
ACCEPTED = "text and label; prompt and completion; or messages"

#: More different labels than this are taken for free answers that were not declared as such.
MOST_LABELS = 100


@dataclass(frozen=True)
class Row:
    """A record understood: what is asked (``text``, the prompt, or the joined turns), what is the answer."""

    where: str
    form: FormName
    text: str
    answer: str
    references: tuple[str, ...] = ()
    turns: tuple[tuple[str, str], ...] = ()

    def example(self, template: Template) -> Example:
        """Return the example; the template is for rows of the form ``text``, the others bring their prompt along."""
        if self.form == "prompt":
            return prompt_example(self.text, self.answer)
        if self.form == "messages":
            return messages_example(self.turns, self.answer)
        return template.example(self.text, self.answer, self.references)


def to_rows(
    records: Sequence[Record],
    columns: Mapping[str, str] | None = None,
    no_answer: Collection[str] = (),
    skip_incomplete: bool = False,
) -> list[Row]:
    """Understand records; ``columns`` maps the names of ``FORMS`` to those used in the file.

    Records whose answer is one of ``no_answer`` are left out; with ``skip_incomplete`` so are those in which what is
    asked or its answer is empty.

    Raises:
        InputError: a column is missing or a value is empty or of the wrong kind; the message names file and line.
    """
    renamed = dict(columns or {})
    known = [column for form in FORMS.values() for column in form]
    for column in renamed:
        if column not in known:
            raise InputError(f"columns: {column!r} is not one of {', '.join(known)}{nearest(column, known)}")
    layouts: dict[tuple[str, ...], _Layout] = {}
    rows = []
    for record in records:
        keys = tuple(record.values)
        if keys not in layouts:
            layouts[keys] = _layout(record, renamed)
        form, found = layouts[keys]
        if skip_incomplete and any(is_empty(record.values[column]) for column in found):
            continue
        if not no_answer or not _is_one_of(record.values[found[-1]], no_answer):
            rows.append(_to_row(record, form, found))
    return rows


def is_empty(value: Any) -> bool:
    """Whether a cell holds nothing: null, not a number, a text without a character that is seen, or a list of such."""
    if isinstance(value, list):
        return all(map(is_empty, value))
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def whole(value: Any) -> Any:
    """A cell's value, a whole number as one: a column of them with gaps comes as 1.0, 2.0 from many a program."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def check_labels(rows: Sequence[Row], labels: Sequence[str] | None) -> tuple[str, ...]:
    """Return the labels of a task: those given, or where ``None``, those that occur, sorted.

    Rows of other forms than ``text`` have free answers unless labels are given.

    Raises:
        InputError: a row's label is not among those given, or too many differ for labels that were not given.
    """
    if labels:
        for row in rows:
            if row.answer not in labels:
                raise InputError(
                    f"{row.where}: label {row.answer!r} is not one of {', '.join(labels)}{nearest(row.answer, labels)}"
                )
        return tuple(labels)
    if labels is not None or any(row.form != "text" for row in rows):
        return ()
    found = sorted({row.answer for row in rows})
    if len(found) > MOST_LABELS:
        raise InputError(
            f"{rows[0].where.rpartition(':')[0] or rows[0].where}: {len(found)} different labels; "
            "for free answers say so with an empty list of labels, else list the labels"
        )
    return tuple(found)


#: The form of a record and the columns of its parts, in the order of ``FORMS``.
_Layout = tuple[FormName, tuple[str, ...]]


def _to_row(record: Record, form: FormName, columns: tuple[str, ...]) -> Row:
    if form == "messages":
        return _conversation(record, record.values[columns[0]])
    asked, answered = columns
    text, answers = record.values[asked], _answers(record, record.values[answered])
    if form == "text":
        answers = tuple(answer.strip() for answer in answers)
    if not isinstance(text, str) or not text.strip():
        raise InputError(f"{record.where}: column {asked!r} must be a text that is not empty, found {text!r}")
    return Row(record.where, form, text, answers[0], (*answers[1:], *_more_references(record, answers[0])))


def _layout(record: Record, columns: Mapping[str, str]) -> _Layout:
    """Return the form whose columns a record has, and those columns."""
    candidates = [form for form, names in FORMS.items() if set(columns) <= set(names)]
    missing: list[str] = []
    for form in candidates:
        found = [_column(record, name, columns) for name in FORMS[form]]
        there = tuple(column for column in found if column is not None)
        if len(there) == len(found):
            return form, there
        if there or columns:
            missing += [
                columns.get(name, name) for name, column in zip(FORMS[form], found, strict=True) if column is None
            ]
    present = [str(column) for column in record.values]
    if len(missing) == 1:
        wanted = f"column {missing[0]!r} is missing{nearest(missing[0], present)}"
    else:
        named = ", ".join(f"{name}{nearest(name, present)}" for name in missing)
        wanted = f"missing columns: {named}" if missing else "no known columns"
    raise InputError(f"{record.where}: {wanted}; found: {', '.join(present) or 'none'}; accepted: {ACCEPTED}")


def _column(record: Record, name: str, columns: Mapping[str, str]) -> str | None:
    """Return the record's column that holds ``name``, if it has one."""
    names = (columns[name],) if name in columns else (name, *_ALIASES.get(name, ()))
    return next((candidate for candidate in names if candidate in record.values), None)


def _answers(record: Record, value: Any) -> tuple[str, ...]:
    """Return the answers of a cell: a text, a whole number, a yes/no, or a list of texts whose first is trained on."""
    answers = [whole(answer) for answer in (value if isinstance(value, list) and value else [value])]
    if any(isinstance(answer, float) and not is_empty(answer) for answer in answers):
        raise InputError(f"{record.where}: the answer {value!r} is no whole number; accepted: a text or a whole number")
    if not all(isinstance(answer, str | int) and str(answer).strip() for answer in answers):
        raise InputError(f"{record.where}: the answer must be a text that is not empty, found {value!r}")
    return tuple(str(answer) for answer in answers)


def _is_one_of(answer: Any, no_answer: Collection[str]) -> bool:
    first = answer[0] if isinstance(answer, list) and answer else answer
    return isinstance(first, str) and first.strip() in no_answer


def _more_references(record: Record, answer: str) -> tuple[str, ...]:
    """Return the other accepted answers of a row with a list of them under ``labels``."""
    listed = record.values.get("labels")
    return tuple(other for other in map(str, map(whole, listed)) if other != answer) if isinstance(listed, list) else ()


def _conversation(record: Record, messages: Any) -> Row:
    turns = []
    for message in messages if isinstance(messages, list) else ():
        if not isinstance(message, dict) or not {"role", "content"} <= message.keys():
            raise InputError(f"{record.where}: a message needs 'role' and 'content', found {message!r:.80}")
        turns.append((str(message["role"]), _said(record, message["content"])))
    if len(turns) < 2 or turns[-1][0] != "assistant" or not turns[-1][1].strip():
        raise InputError(f"{record.where}: messages must be a list of turns whose last is the assistant's answer")
    text = "\n".join(content for _, content in turns[:-1])
    return Row(record.where, "messages", text, turns[-1][1], turns=tuple(turns[:-1]))


def _said(record: Record, content: Any) -> str:
    """What a message says: a text, nothing, or the texts of its parts."""
    parts = content if isinstance(content, list) else [{"type": "text", "text": content or ""}]
    texts = [part.get("text") for part in parts if isinstance(part, dict) and part.get("type") == "text"]
    said = [text for text in texts if isinstance(text, str)]
    if len(said) < len(parts):
        raise InputError(
            f"{record.where}: the content of a message must be a text, or parts of text, found {content!r:.80}"
        )
    return "".join(said)


def named_labels(rows: Sequence[Row], names: Sequence[str]) -> list[Row]:
    """Return rows whose numbered labels (0, 1, ...) are replaced by ``names``."""
    return [replace(row, answer=names[int(row.answer)]) if row.answer.isdigit() else row for row in rows]
