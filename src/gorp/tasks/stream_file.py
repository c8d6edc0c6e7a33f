"""The YAML file of a stream, validated key by key."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from gorp.errors import InputError, nearest, nearest_choice
from gorp.files import read_yaml, stay_inside
from gorp.tasks.prompts import WHOLE_TEXT
from gorp.tasks.task import Metric

#: A path relative to the stream file's folder, which it does not leave.
Inside = Annotated[str, AfterValidator(stay_inside)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskEntry(_Strict):
    """One task of a stream file; exactly one of ``path``, ``hub`` and ``builtin`` says where its rows are."""

    name: str | None = Field(None, min_length=1)
    path: Inside | None = Field(None, description="a file, or a folder with train.*, test.* and labels.json")
    hub: str | None = Field(None, description="a data set of the datasets hub, NAME or NAME@CONFIG")
    builtin: str | None = Field(None, description="a task of the built-in stream")
    test: Inside | None = Field(None, description="a file of test rows")
    labels: list[str] | None = Field(None, description="in the prompt's order; [] for free answers")
    instruction: str | None = None
    columns: dict[str, str] | None = Field(None, description="the file's column for text, label, prompt, ...")
    skip_incomplete: bool = Field(False, description="leave out rows whose text or answer is empty; else an error")
    passage: str = Field(WHOLE_TEXT, description="regular expression; of a text, its longest group may be cut")
    list_options: bool = Field(True, description="whether the prompt lists the labels")
    metric: Metric = Field("exact_match", description="how answers are scored")

    @field_validator("passage")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as error:
            raise ValueError(f"not a regular expression ({error})") from None
        return pattern

    @model_validator(mode="after")
    def _one_source(self) -> TaskEntry:
        given = [key for key in ("path", "hub", "builtin") if getattr(self, key) is not None]
        if len(given) != 1:
            raise ValueError(f"needs exactly one of path, hub and builtin, has {' and '.join(given) or 'none'}")
        if self.builtin is not None and (others := sorted(self.model_fields_set - {"builtin"})):
            raise ValueError(f"a built-in task is as it is, and takes no {others[0]}")
        return self


class StreamFile(_Strict):
    """A stream: a list of ``tasks``, or a ``benchmark`` by name with the folder of its ``data``.

    Tasks under ``unseen`` are measured and never learnt, besides those that the benchmark has of them.
    """

    name: str | None = Field(None, min_length=1)
    tasks: list[TaskEntry] = []
    benchmark: str | None = None
    unseen: list[TaskEntry] = []
    data: Inside | None = Field(None, description="folder of the benchmark's data; $GORP_DATA if not given")
    train_rows: int | None = Field(None, ge=1)
    test_rows: int | None = Field(None, ge=1)
    validation_rows: int | None = Field(None, ge=0)
    seed: int = Field(0, ge=0, description="of which rows are used; in a run its own counts")
    name_task_in_prompt: bool = False

    @model_validator(mode="after")
    def _tasks_or_benchmark(self) -> StreamFile:
        if bool(self.tasks) == (self.benchmark is not None):
            raise ValueError("needs either tasks, a list that is not empty, or benchmark, a name")
        if self.data is not None and self.benchmark is None:
            raise ValueError("data is the folder of a benchmark's data, and there is no benchmark")
        return self

    @classmethod
    def read(cls, path: Path) -> StreamFile:
        """Read and validate a stream file.

        Raises:
            InputError: it is missing, not UTF-8, not YAML, or a key is wrong; the message names file and line or key.
        """
        content = read_yaml(path, "stream file")
        if content is None:
            raise InputError(f"{path}: is empty; expected keys such as name and tasks")
        if "stream" in content:
            raise InputError(f"{path}: is a run's configuration; accepted: the stream file that its key 'stream' names")
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            problems = error.errors(include_url=False)
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise InputError(f"{path}: {_describe(problems[0])}{more}") from None


def _describe(problem: ErrorDetails) -> str:
    """Return what is wrong, with the path of its key and what would be accepted."""
    location = problem["loc"]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in location).lstrip(".")
    if problem["type"] == "extra_forbidden":
        accepted = list((TaskEntry if location[0] in ("tasks", "unseen") else StreamFile).model_fields)
        return f"unknown key '{key}'{nearest(str(location[-1]), accepted)}; accepted: {', '.join(accepted)}"
    message = problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "value_error":
        return f"key '{key}': {message}" if key else message
    quotes = (
        "; put it in quotes" if problem["type"] == "string_type" and isinstance(problem["input"], bool | int) else ""
    )
    return f"key '{key}': {message}, found {problem['input']!r:.60}{nearest_choice(problem)}{quotes}"
