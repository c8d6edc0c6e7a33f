"""Roll a run back to what it was when a task had just been learnt, or put back what was rolled back: exact, atomic."""

from __future__ import annotations

from dataclasses import replace

from gorp.checksums import verify_folder
from gorp.events import Event, EventKind
from gorp.run_folder import RECORD, RunFolder, by_first_rank
from gorp.run_state import RunState, task_folder
from gorp.timeline import Timeline, find_stage, read_timeline, write_timeline


@by_first_rank
def roll_back(folder: RunFolder, to: str, note: str = "") -> None:
    """Make a run what it was when a task had just been learnt; the later tasks are no longer known.

    They may be put back, by rolling to one of them, until something else is learnt. A task in flight and tasks that
    wait are dropped likewise. To roll to where the run stands undoes what was retracted there, but for a run that was
    just rolled to it: the same again does nothing, so that a roll-back which was ended may be repeated.

    Args:
        folder: the run's, locked by the caller.
        to: the task; ``base`` for the run before its first one.
        note: why.

    Raises:
        InputError: no such task, or what is kept of it is damaged; the message names the file. Nothing is changed then.
    """
    before = folder.state
    assert before is not None
    kept = read_timeline(folder.path)
    whole = kept or Timeline(replace(before, flight=None), folder.record())
    later = {at: space for at, space in whole.state.spaces.items() if at > before.stages}
    whole = replace(whole, state=replace(whole.state, spaces={**before.spaces, **later}))
    stages = find_stage(whole.record, to, folder.path)
    forward = stages > before.stages
    target = _as_it_was(whole.state, stages, with_waiting=forward and stages == whole.state.stages)
    if stages == before.stages and not _just_rolled(before, to):
        target.spaces.pop(stages, None)
    _verify(folder, whole, target)
    if replace(target, events=before.events) == before:
        return
    if whole != kept:
        write_timeline(folder.path, whole)
    whole.record.save(folder.path / RECORD)  # before the state: it is cut to what the state says, never lengthened
    kind: EventKind = "put back" if forward else "rolled back"
    folder.restate(replace(target, events=[*before.events, Event.now(kind, to, stages, note=note)]))


@by_first_rank
def take_back(folder: RunFolder, attempt: int, note: str) -> None:
    """Take back the last stage, to learn its task again in another way; every task stays known.

    Args:
        folder: the run's, locked by the caller.
        attempt: number of the attempt to come.
        note: why.
    """
    state = folder.state
    assert state is not None
    task, stages = state.tasks[state.stages - 1].name, state.stages - 1
    target = replace(_as_it_was(state, stages, with_waiting=True), unseen=state.unseen)
    folder.restate(replace(target, events=[*state.events, Event.now("retried", task, stages, attempt, note)]))


def _as_it_was(state: RunState, stages: int, with_waiting: bool) -> RunState:
    """The state with so many tasks learnt, and no others known but for those that ``with_waiting`` keeps."""
    return replace(
        state,
        stages=stages,
        after=state.stage_folder(stages),
        tasks=state.tasks if with_waiting else state.tasks[:stages],
        unseen=state.unseen if stages else [],
        flight=None,
        spaces={at: space for at, space in state.spaces.items() if at <= stages},
    )


def _just_rolled(state: RunState, to: str) -> bool:
    """Whether the last that happened to the run is that it was rolled to this task."""
    return any(event.kind in ("rolled back", "put back") and event.task == to for event in state.events[-1:])


def _verify(folder: RunFolder, whole: Timeline, target: RunState) -> None:
    """Every file that the run would go on from, or keeps of the tasks learnt until then."""
    learnt = {stage.index for stage in whole.record.stages}
    for position, task in enumerate(target.tasks[: target.stages]):
        verify_folder(folder.path / task_folder(position, task.name))
        if position in learnt:
            verify_folder(folder.path / task_folder(position, task.name) / "after")
    for space in target.spaces.values():
        verify_folder(folder.path / space)
