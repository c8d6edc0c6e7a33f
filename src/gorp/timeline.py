"""``rolled_back.json``: a run before it was rolled back, which may be put back until something else is learnt.

Weights and rows of what was rolled back stay in their folders meanwhile; only ``state.json`` does not name them.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from pydantic import ValidationError

from gorp.checkpoint import FORMAT_VERSION, check_version, write_json
from gorp.checksums import sealed, unsealed
from gorp.errors import InputError, first_problem, nearest
from gorp.files import read_json
from gorp.report.record import RunRecord
from gorp.run_state import RunState, state_of
from gorp.tasks.task import BASE

TIMELINE = "rolled_back.json"


@dataclass(frozen=True)
class Timeline:
    """State and record of a run before it was rolled back; its folders are those of the run."""

    state: RunState
    record: RunRecord


def find_stage(record: RunRecord, name: str, run: Path) -> int:
    """How many tasks were learnt at the end of a stage, by the task that it ended with; ``base`` is before the first.

    Raises:
        InputError: there is no such stage in the record.
    """
    stages = {BASE: 0, **record.stages_by_task}
    if name not in stages:
        raise InputError(f"{run}: no task {name!r} was learnt{nearest(name, stages)}; accepted: {', '.join(stages)}")
    return stages[name]


def has_timeline(run: Path) -> bool:
    """Whether there is something to put back."""
    return (run / TIMELINE).exists()


def read_timeline(run: Path) -> Timeline | None:
    """What `write_timeline` wrote in a run folder; None if there is none.

    Raises:
        InputError: it is damaged, or of another format version.
    """
    path = run / TIMELINE
    if not path.exists():
        return None
    content = unsealed(path, read_json(path))
    check_version(path, content)
    try:
        return Timeline(state_of(content["state"]), RunRecord.model_validate(content["record"]))
    except KeyError as key:
        raise InputError(f"{path}: key {key} is missing; the file is damaged") from None
    except ValidationError as error:
        raise InputError(f"{path}: {first_problem(error)}; the file is damaged") from None


def write_timeline(run: Path, timeline: Timeline) -> None:
    """Write it, atomically and durably.

    Raises:
        GorpError: the file cannot be written.
    """
    record = json.loads(timeline.record.model_dump_json())
    content = {"format_version": FORMAT_VERSION, "state": asdict(timeline.state), "record": record}
    write_json(run / TIMELINE, sealed(content))


def drop_idle_timeline(run: Path, state: RunState) -> None:
    """Remove it if the run stands where it stood then, so that there is nothing to put back; a crash leaves such."""
    timeline = read_timeline(run)
    if timeline is not None and (timeline.state.tasks, timeline.state.stages) == (state.tasks, state.stages):
        (run / TIMELINE).unlink()


def forget_timeline(run: Path) -> bool:
    """Let nothing be put back any more, for something else is about to be learnt; whether there was anything."""
    there = has_timeline(run)
    (run / TIMELINE).unlink(missing_ok=True)
    return there
