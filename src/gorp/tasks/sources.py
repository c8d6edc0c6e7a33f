"""Where a task's rows come from: one file, a folder with train and test files, or a data set of the ``datasets``
hub."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from gorp.errors import InputError
from gorp.tasks.forms import Row, check_labels, named_labels, to_rows
from gorp.tasks.prompts import WHOLE_TEXT, Template
from gorp.tasks.readers import SUFFIXES, Record, read_json, read_records, task_name
from gorp.tasks.splits import TEST_SHARE, Limits, default_validation_rows, hold_out, limit
from gorp.tasks.task import Example, Metric, Task, check_metric

HUB = "hub:"

#: File names, without suffix, of a folder's parts. In ``CL_Benchmark`` dev and test are the same file, so dev
#: validates nothing.
_STEMS = {"train": ("train",), "validation": ("validation", "valid"), "test": ("test", "dev")}


@dataclass(frozen=True)
class Source:
    """The rows of a task as they were found; ``None`` for a part, the labels or the instruction that are not there."""

    place: str
    train: list[Row]
    validation: list[Row] | None = None
    test: list[Row] | None = None
    labels: tuple[str, ...] | None = None
    instruction: str = ""


class _Reading(NamedTuple):
    """How records are understood, as `to_rows` has it."""

    columns: Mapping[str, str] | None
    no_answer: Collection[str]
    skip_incomplete: bool


def read_task(
    path: str | Path,
    *,
    name: str | None = None,
    labels: Sequence[str] | None = None,
    instruction: str | None = None,
    columns: Mapping[str, str] | None = None,
    test: str | Path | None = None,
    passage: str = WHOLE_TEXT,
    list_options: bool = True,
    kind: str | None = None,
    name_task_in_prompt: bool = False,
    text_cue: str = "",
    answer_cue: str = "Answer:",
    metric: str = "exact_match",
    no_answer: Collection[str] = (),
    skip_incomplete: bool = False,
    limits: Limits | None = None,
) -> Task:
    """Read a task from a file, a folder or ``hub:NAME``.

    Args:
        path: a JSONL, JSON, CSV or Parquet file (``.gz`` too); a folder with ``train.*``, ``test.*`` and, where the
            answers are labels, ``labels.json``; or ``hub:NAME`` or ``hub:NAME@CONFIG`` for a data set of the
            ``datasets`` hub.
        name: of the task; by default that of the file or folder.
        labels: the answers there are, in the prompt's order; ``[]`` for free answers; ``None`` for those of
            ``labels.json`` or, failing that, those that occur.
        instruction: what the prompt begins with.
        columns: the file's column for any of text, label, prompt, completion, messages.
        test: a file of test rows; without it and without a test file in the folder, a fifth of the rows is split off.
        passage: regular expression for what of a text may be cut, see ``prompts.Template``.
        list_options: whether the prompt lists the labels.
        kind: what ``Task:`` says in the prompt if ``name_task_in_prompt``; by default the name.
        text_cue, answer_cue: what the prompt says before the text and before the answer.
        metric: how answers are scored, ``exact_match`` or ``rouge_l``.
        no_answer: answers that stand for none; rows that have one are left out.
        skip_incomplete: leave out rows whose text or answer is empty, which are an error otherwise.
        limits: how many rows are used.

    Raises:
        InputError: anything wrong with the input; the message names the file, line or key.
    """
    scored_by = check_metric(metric)
    reading = _Reading(columns, no_answer, skip_incomplete)
    source = _read(str(path), reading)
    if test is not None:
        source = replace(source, test=_rows(Path(test), reading))
    name = name or task_name(Path(source.place))
    wanted = source.labels if labels is None else labels
    found = check_labels([*source.train, *(source.validation or ()), *(source.test or ())], wanted)
    header = f"Task:{kind or name}\nDataset:{name}\n" if name_task_in_prompt else ""
    template = Template(
        instruction=source.instruction if instruction is None else instruction,
        labels=found if list_options else (),
        passage=passage,
        header=header,
        text_cue=text_cue,
        answer_cue=answer_cue,
    )
    return _assemble(name, source, found, template, scored_by, limits or Limits())


def read_examples(
    path: str | Path, labels: Sequence[str] | None = None, put: Callable[[str], Example] | None = None
) -> list[Example]:
    """Every row of a file, a folder or ``hub:NAME``, of whichever part, to be scored and not learnt from.

    Args:
        path: as of `read_task`.
        labels: as of `read_task`.
        put: makes a text a prompt, for rows of the form ``text``; by default as `read_task` does.

    Raises:
        InputError: anything wrong with the input; the message names the file, line or key.
    """
    source = _read(str(path), _Reading(None, (), False))
    rows = [*source.train, *(source.validation or ()), *(source.test or ())]
    found = check_labels(rows, source.labels if labels is None else labels)
    template = Template(instruction=source.instruction, labels=found)
    examples = [
        replace(put(row.text), answer=row.answer, references=row.references)
        if put is not None and row.form == "text"
        else row.example(template)
        for row in rows
    ]
    return [replace(example, options=found) for example in examples]


def _assemble(
    name: str, source: Source, labels: tuple[str, ...], template: Template, metric: Metric, limits: Limits
) -> Task:
    train, validation, test = source.train, source.validation, source.test
    if test is None:
        train, test = hold_out(train, max(1, int(len(train) * TEST_SHARE)), _text, "test")
    if validation is None:
        wanted = default_validation_rows(len(train)) if limits.validation_rows is None else limits.validation_rows
        train, validation = hold_out(train, min(wanted, len(train) // 2), _text, "validation")
    if not train or not test:
        raise InputError(f"{source.place}: {len(source.train)} rows are too few to learn from some and test on others")

    def chosen(rows: list[Row], count: int | None) -> list[Row]:
        return limit(rows, count, _text, _answer if labels else _text, limits.seed)

    return Task(
        name=name,
        train=[row.example(template) for row in chosen(train, limits.train_rows)],
        validation=[row.example(template) for row in chosen(validation, limits.validation_rows)],
        test=[row.example(template) for row in chosen(test, limits.test_rows)],
        labels=labels,
        metric=metric,
    )


def _read(path: str, reading: _Reading) -> Source:
    if path.startswith(HUB):
        return _read_hub(path, reading)
    if Path(path).is_dir():
        return _read_folder(Path(path), reading)
    return Source(path, _rows(Path(path), reading))


def _read_folder(folder: Path, reading: _Reading) -> Source:
    files = folder_parts(folder)
    train = files.get("train")
    if train is None:
        listing = ", ".join(sorted(entry.name for entry in folder.iterdir())[:8]) or "nothing"
        raise InputError(
            f"{folder}: holds no train file; accepted: train with one of {', '.join(SUFFIXES)}, beside it test and "
            f"labels.json; found: {listing}"
        )
    labels = folder / "labels.json"
    parts = {part: _rows(file, reading) for part, file in files.items()}
    return Source(
        place=str(folder),
        train=parts["train"],
        validation=parts.get("validation"),
        test=parts.get("test"),
        labels=_read_labels(labels) if labels.exists() else None,
        instruction=_definition(train),
    )


def folder_parts(folder: Path) -> dict[str, Path]:
    """The files of a task's folder by part: ``train``, ``validation``, ``test``, as far as they are there."""
    candidates = {
        part: (folder / f"{stem}{end}" for stem in stems for end in SUFFIXES) for part, stems in _STEMS.items()
    }
    found = {part: next((file for file in files if file.is_file()), None) for part, files in candidates.items()}
    return {part: file for part, file in found.items() if file is not None}


def _read_hub(path: str, reading: _Reading) -> Source:
    name, _, config = path.removeprefix(HUB).partition("@")
    try:
        import datasets

        found = datasets.load_dataset(name, config or None)
    except Exception as error:  # whatever the hub, the network or a loading script raises
        raise InputError(f"{path}: could not be loaded with the datasets library ({error})") from error
    if "train" not in found:
        raise InputError(f"{path}: has no split 'train'; it has: {', '.join(map(str, found))}")
    label_column = (reading.columns or {}).get("label", "label")
    names = getattr(found["train"].features.get(label_column), "names", None)

    def rows(split: str) -> list[Row] | None:
        if split not in found:
            return None
        records = [Record(f"{path}, {split} row {n}", dict(values)) for n, values in enumerate(found[split], start=1)]
        understood = to_rows(records, *reading)
        return named_labels(understood, names) if names else understood

    train, validation, test = rows("train"), rows("validation"), rows("test")
    if test is not None and names and any(row.answer not in names for row in test):
        test = None  # published without its labels, as GLUE is: what is left is tested on
    if test is None:
        validation, test = None, validation
    return Source(path, train or [], validation, test, tuple(names) if names else None)


def _rows(path: Path, reading: _Reading) -> list[Row]:
    return to_rows(read_records(path), *reading)


def _read_labels(path: Path) -> tuple[str, ...]:
    labels = read_json(path)
    if not isinstance(labels, list) or not all(isinstance(label, str) and label for label in labels):
        raise InputError(f"{path}: expected a JSON list of labels, or [] for free answers, found {labels!r:.60}")
    return tuple(labels)


def _definition(train: Path) -> str:
    """Return the definition that a Super-NaturalInstructions file begins with, else nothing."""
    content: Any = read_json(train) if train.suffix == ".json" else None
    definition = content.get("Definition", "") if isinstance(content, dict) else ""
    return str(definition[0] if isinstance(definition, list) and definition else definition or "")


def _text(row: Row) -> str:
    return row.text


def _answer(row: Row) -> str:
    return row.answer
