"""The two files that somebody begins with: a stream of their tasks, and the settings of a run, every line explained."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import yaml

from gorp.errors import command_line
from gorp.tasks.draft import Draft

STREAM_FILE = "stream.yaml"
_COMMENT_AT = 44


def stream_path(config: Path, data: Path) -> Path:
    """Where the stream file goes: beside the configuration if the data lies below it, else beside the data.

    A stream file names no path outside of its own folder.
    """
    home = data if data.is_dir() else data.parent
    below = home.resolve().is_relative_to(config.parent.resolve())
    return (config.parent if below else home) / STREAM_FILE


def stream_text(name: str, drafts: Sequence[Draft], path: Path) -> str:
    """The stream file of drafted tasks; ``path`` is where it goes, from which its paths start."""
    tasks = [f"\n{_task(draft, path.parent)}" for draft in drafts]
    return f"""\
# Tasks, in the order in which they are learnt. Change what you like; look at the outcome with:
#   gorp data {_relative(path, Path.cwd())} --show 1
{_line(f"name: {_value(name)}", "of the stream, as reports show it")}
tasks:{"".join(tasks)}"""


def config_text(stream: Path, drafts: Sequence[Draft], path: Path, model: str) -> str:
    """The run configuration for a stream, with only what a first run may want to change; ``path`` is where it goes."""
    answer_words = max(draft.longest_answer for draft in drafts)
    settings = [
        _line(f"model: {_value(model)}", _MODEL if model == "t5-tiny" else "what is taught: a folder, or a hub id"),
        _line(f"stream: {_value(_relative(stream, path.parent))}", "the tasks, in a file of their own"),
        _line("method: gorp", "how: `gorp list methods` has the others; seq-lora protects nothing"),
        _line("seed: 0", "another number is another draw of everything random"),
        "data:",
        _line("  train_rows: 1000", "rows of each task that are learnt, at most; null for all of them"),
        _line("  test_rows: 300", "rows of each task that are scored, at most; null for all of them"),
        "training:",
        _line("  epochs: 3", "times that each row is seen; more learn more, and take longer"),
        _line("  batch_size: 8", "rows at once; less if memory runs out"),
        _line("  lr: 3.0e-3", "size of steps; a third of it if a task is not learnt, or the model is large"),
        _line("  full_rank_lr: 1.0e-2", "the same for layers that learn whole; lower it along with lr"),
        _line("  schedule: linear", "steps get smaller towards the end of each task"),
        _line("  warmup: 0.05", "over this share of a task's steps they first grow"),
        _line(f"  max_source_length: {_source_tokens(drafts)}", "tokens of a prompt; longer texts are cut"),
        _line(f"  max_target_length: {max(50, 2 * answer_words)}", "tokens of an answer, at most"),
        "gorp:",
        _line("  memory: weighted_features", "what the protection is made of: inputs, by how much they matter"),
        _line("  energy: 0.98", "how much of each task is protected; less leaves later tasks more room"),
        _line("  damping: 0.33", "smaller steps where little is new; 0 learns more, and forgets more"),
    ]
    return "\n".join(
        [
            "# Settings of a run. Learn all tasks with:",
            f"#   {command_line('gorp', 'run', _relative(path, Path.cwd()))}",
            "# Settings that are not here have a default; docs/choosing.md says which matter.",
            *settings,
            "",
        ]
    )


_MODEL = "built in, small, for a first try; then a folder or hub id, such as google/flan-t5-base"
_YES_OR_NO = {"yes", "no", "true", "false"}
_LENGTHS = (128, 256, 512)


def _task(draft: Draft, home: Path) -> str:
    data, guess = draft.data, draft.guess
    renamed = {part: column for part, column in guess.columns.items() if part != column}
    lines = [
        _line(f"  - name: {_value(data.name)}", "of the task, as reports show it"),
        _line(f"    path: {_value(_relative(data.path, home))}", "where its rows are, seen from this file"),
    ]
    if data.test is not None:
        lines.append(_line(f"    test: {_value(_relative(data.test, home))}", "the rows it is scored on"))
    elif len(data.files()) == 1:
        lines.append("    # No file of test rows: a fifth of the rows is kept to score on, and a tenth to validate.")
    if renamed:
        lines.append(_line(f"    columns: {_value(renamed)}", "which columns of the file are meant"))
    if draft.labels is not None:
        why = "the answers there are, as the prompt lists them" if draft.labels else "answers are free texts"
        lines.append(_line(f"    labels: {_value(draft.labels)}", why))
    if guess.form == "text":
        lines.append(_line(f"    instruction: {_value(_instruction(draft))}", "what every prompt begins with"))
    if draft.incomplete:
        lines.append(_line("    skip_incomplete: true", f"{draft.incomplete} rows without text or answer are left out"))
    return "\n".join(lines) + "\n"


def _instruction(draft: Draft) -> str:
    column = draft.guess.columns["label"]
    what = "label" if column.isdigit() else column.replace("_", " ").replace("-", " ").lower().removeprefix("is ")
    if draft.guess.labels and _YES_OR_NO.issuperset(label.lower() for label in draft.guess.labels):
        return f"Is the text {what}? Choose one from the option.\n"
    if draft.guess.labels:
        return f"Which {what} fits the text? Choose one from the option.\n"
    return f"What is the {what} of the text?\n"


def _source_tokens(drafts: Sequence[Draft]) -> int:
    longest = max(
        2 * (draft.longest_words + sum(len(label.split()) for label in draft.guess.labels)) + 32 for draft in drafts
    )
    return next((length for length in _LENGTHS if longest <= length), _LENGTHS[-1])


def _line(setting: str, comment: str) -> str:
    return f"{setting:{_COMMENT_AT}}  # {comment}"


def _value(value: object) -> str:
    """A value as YAML in one line; a text with a line break in double quotes."""
    style = '"' if isinstance(value, str) and "\n" in value else None
    text: str = yaml.safe_dump(
        value, default_flow_style=True, default_style=style, width=float("inf"), allow_unicode=True, sort_keys=False
    )
    return text.removesuffix("\n").removesuffix("\n...")


def _relative(path: Path, home: Path) -> str:
    """The path seen from a folder, where it lies below it; else whole."""
    here, there = home.resolve(), path.resolve()
    return os.path.relpath(there, here) if there.is_relative_to(here) else str(there)
