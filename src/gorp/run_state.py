"""What ``state.json`` of a run says: which tasks there are, and which folders hold what was last saved."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from gorp.checkpoint import FORMAT_VERSION, check_version, write_json
from gorp.checksums import sealed, unsealed
from gorp.errors import InputError, first_problem
from gorp.events import Event
from gorp.files import read_json
from gorp.tasks import Task
from gorp.tasks.task import Metric

_TASK_FOLDER = "^task-[0-9]+-[A-Za-z0-9._-]*"


@dataclass
class KnownTask:
    """A task of the run: its name, the labels it answers with, its metric, and the fingerprint of all its rows."""

    name: str
    fingerprint: str
    labels: tuple[str, ...]
    metric: Metric = "exact_match"

    @classmethod
    def of(cls, task: Task) -> KnownTask:
        """What is kept of a task in ``state.json``."""
        return cls(task.name, task.fingerprint(), tuple(task.labels), task.metric)


@dataclass
class RunState:
    """What ``state.json`` says.

    Attributes:
        base_model: fingerprint of the base model.
        tasks: every task known, learnt or still to come.
        stages: tasks learnt.
        after: folder of the last finished stage, relative to the run folder and within it; None before the first.
        flight: folder of the training in flight, likewise.
        unseen: every task that is measured and never learnt.
        model_settings: of the base model and its tokenizer.
        spaces: folders of gradient spaces that stand in for those of finished stages, likewise, by the tasks learnt.
        events: what happened to the run so far.

    Raises:
        ValueError: more tasks are learnt than known.
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid", protected_namespaces=())

    base_model: str
    tasks: list[KnownTask] = field(default_factory=list)
    stages: Annotated[int, Field(ge=0)] = 0
    after: Annotated[str, Field(pattern=rf"{_TASK_FOLDER}/after$")] | None = None
    flight: Annotated[str, Field(pattern=rf"{_TASK_FOLDER}/step-[0-9]+$")] | None = None
    unseen: list[KnownTask] = field(default_factory=list)
    model_settings: dict[str, Any] = field(default_factory=dict)
    spaces: dict[int, Annotated[str, Field(pattern=rf"{_TASK_FOLDER}/retracted-[0-9]+$")]] = field(default_factory=dict)
    events: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.stages > len(self.tasks):
            raise ValueError(f"stages is {self.stages}, of {len(self.tasks)} tasks")

    @property
    def space(self) -> str | None:
        """Folder of the gradient space in force, relative to the run folder; None before the first stage."""
        return self.spaces.get(self.stages, self.after)

    @property
    def folders(self) -> set[str | None]:
        """Every folder that the state names, relative to the run folder."""
        known = {task_folder(position, task.name) for position, task in enumerate(self.tasks)}
        unseen = {task_folder(position, task.name, "unseen") for position, task in enumerate(self.unseen)}
        after = {self.stage_folder(stages) for stages in range(1, self.stages + 1)}
        return {*known, *unseen, *after, *self.spaces.values(), self.flight}

    def stage_folder(self, stages: int) -> str | None:
        """Folder of the stage that made it so many tasks, relative to the run folder; None for 0."""
        return f"{task_folder(stages - 1, self.tasks[stages - 1].name)}/after" if stages else None


def task_folder(position: int, name: str, kind: str = "task") -> str:
    """``task-01-NAME`` for position 0; characters that a file system may refuse become ``_``."""
    return f"{kind}-{position + 1:02d}-{re.sub(r'[^A-Za-z0-9._-]', '_', name)}"


_STATE = TypeAdapter(RunState)


def state_of(content: dict[str, Any]) -> RunState:
    """The state that plain values tell.

    Raises:
        ValidationError: a key is missing, unknown, or wrong.
    """
    return _STATE.validate_python(content)


def read_state(path: Path) -> RunState:
    """Read what `write_state` wrote.

    Raises:
        InputError: the file is damaged, or of another format version.
    """
    content = unsealed(path, read_json(path))
    check_version(path, content)
    try:
        return state_of({key: value for key, value in content.items() if key != "format_version"})
    except ValidationError as error:
        raise InputError(f"{path}: {first_problem(error)}; the file is damaged") from None


def write_state(path: Path, state: RunState) -> None:
    """Write a state, atomically and durably.

    Raises:
        GorpError: the file cannot be written; what stood there before is untouched.
    """
    write_json(path, sealed({"format_version": FORMAT_VERSION, **asdict(state)}))
