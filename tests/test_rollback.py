"""Rolling back is exact, can be undone, and may be ended at any instant."""

import os
import shutil
from dataclasses import replace

import pytest
import torch

from gorp.backbones import load_backbone
from gorp.errors import BusyError, GorpError, InputError
from gorp.events import Event, retracted
from gorp.learner import ContinualLearner
from gorp.report.record import RunRecord
from gorp.rollback import roll_back
from gorp.run_folder import RunFolder
from gorp.run_setup import load_stream
from gorp.timeline import has_timeline


class Killed(BaseException):
    """Nothing in gorp catches this: what is on the disk stays as it is at that instant."""


@pytest.fixture(scope="module")
def config(short_run):
    return short_run.model_copy(deep=True)


@pytest.fixture(scope="module")
def tasks(config):
    return list(load_stream(config))


def open_run(folder, config=None):
    backbone = load_backbone((config or RunFolder(folder).config()).model)
    return ContinualLearner(backbone.model, backbone.tokenizer, run_dir=folder, config=config)


def answers(learner, tasks):
    return [learner.learning.evaluator.predict(task.test) for task in tasks]


@pytest.fixture(scope="module")
def days(config, tasks, tmp_path_factory):
    """The run folder after each of two tasks, learnt one by one, with weights and answers of then."""
    folder = tmp_path_factory.mktemp("days")
    learner, found = open_run(folder / "run", config), []
    for number, task in enumerate(tasks[:2]):
        learner.learn(task)
        shutil.copytree(folder / "run", folder / str(number))
        found.append((folder / str(number), learner.method.effective_weights(), answers(learner, tasks)))
    return found


def turn(path, to):
    folder = RunFolder(path)
    with folder.locked():
        roll_back(folder, to)
    return folder


def test_weights_space_record_and_answers_are_those_of_then(days, tasks, tmp_path):
    (earlier, weights, said), (later, _, said_later) = days
    assert said != said_later
    run = shutil.copytree(later, tmp_path / "run")
    turn(run, "colour")
    learner = open_run(run)
    now = learner.method.effective_weights()
    assert now.keys() == weights.keys()
    assert all(torch.equal(weight, now[name]) for name, weight in weights.items())
    assert answers(learner, tasks) == said
    assert RunRecord.load(run).comparable() == RunRecord.load(earlier).comparable()
    for name in ("gradient_space.safetensors", "task-01-colour/after/weights.safetensors"):
        assert (run / name).read_bytes() == (earlier / name).read_bytes()


def test_what_is_learnt_next_is_as_if_the_later_task_had_never_been(days, tasks, tmp_path, assert_same_run):
    runs = [shutil.copytree(path, tmp_path / path.name) for path, *_ in days]
    turn(runs[1], "colour")
    for run in runs:
        open_run(run).learn(tasks[2])
    assert_same_run(runs[1], runs[0])


def test_to_the_base(days, config, tasks, tmp_path, assert_same_run):
    run = shutil.copytree(days[1][0], tmp_path / "run")
    turn(run, "base")
    assert not (run / "gradient_space.safetensors").exists()
    open_run(run).learn(tasks[0])
    fresh = tmp_path / "fresh"
    open_run(fresh, config).learn(tasks[0])
    assert_same_run(run, fresh)


def test_what_was_rolled_back_can_be_put_back_until_something_else_is_learnt(days, tasks, tmp_path, assert_same_run):
    run = shutil.copytree(days[1][0], tmp_path / "run")
    turn(run, "colour")
    turn(run, "colour")  # is where it stands
    turn(run, "base")
    folder = turn(run, "animal")
    assert_same_run(run, days[1][0])
    assert [event.kind for event in folder.state.events] == [
        "learnt",
        "learnt",
        "rolled back",
        "rolled back",
        "put back",
    ]
    turn(run, "colour")
    open_run(run).learn(tasks[2])
    with pytest.raises(InputError, match="no task 'animal' was learnt; accepted: base, colour, act"):
        turn(run, "animal")


def test_what_was_rolled_back_stays_until_the_disk_takes_something_else(
    days, tasks, tmp_path, monkeypatch, assert_same_run
):
    run = shutil.copytree(days[1][0], tmp_path / "run")
    turn(run, "colour")
    ours = open_run(run)

    def full(folder, task):
        raise GorpError("No space left on device")

    monkeypatch.setattr("gorp.run_folder.write_rows", full)
    with pytest.raises(GorpError, match="No space left"):
        ours.learn(tasks[2])
    monkeypatch.undo()
    turn(run, "animal")
    assert_same_run(run, days[1][0])


def content(run):
    """Everything but when something happened."""
    files = {str(path.relative_to(run)): path for path in run.rglob("*") if path.is_file()}
    timed = {"run.lock", "record.json", "state.json", "rolled_back.json"}
    state = RunFolder(run).state
    kept = (state.tasks, state.stages, state.after, [event.kind for event in state.events])
    bytes_ = {name: path.read_bytes() for name, path in files.items() if name not in timed}
    return kept, RunRecord.load(run).comparable(), "rolled_back.json" in files, bytes_


def burning(monkeypatch, left):
    """End the process as it renames a file, or makes it durable, for the ``left``-th time: before it, then after."""
    count = 0

    def counted(operation):
        def call(*args, **settings):
            nonlocal count
            count += 1
            if count == left + 1:
                raise Killed
            result = operation(*args, **settings)
            if count == left:
                count += 1
                raise Killed
            return result

        return call

    for name in ("replace", "fsync", "unlink"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))


@pytest.mark.parametrize("moves", [["colour"], ["base"], ["colour", "animal"]])
def test_a_kill_at_any_instant_leaves_the_old_run_or_the_new_one(days, tmp_path, monkeypatch, moves):
    start = shutil.copytree(days[1][0], tmp_path / "start")
    for to in moves[:-1]:
        turn(start, to)
    new = shutil.copytree(start, tmp_path / "new")
    turn(new, moves[-1])
    both = {content(path)[0][1] for path in (start, new)}
    for instant in range(1, 60):
        run = shutil.copytree(start, tmp_path / f"killed-{instant}")
        with monkeypatch.context() as patch:
            burning(patch, instant)
            try:
                turn(run, moves[-1])
                break
            except Killed:
                pass
        folder = RunFolder(run)
        assert folder.state.stages in both
        assert len(folder.record().stages) == folder.state.stages
        turn(run, moves[-1])
        found, expected = content(run), content(new)
        assert (found[0][:3], found[1], found[3]) == (expected[0][:3], expected[1], expected[3])
    assert instant > 8


def test_the_way_back_that_a_crash_left_goes_once_there_is_nothing_to_put_back(days, tmp_path, monkeypatch):
    """Before the state says that the run is rolled back, and after it says that all is put back."""
    run = shutil.copytree(days[1][0], tmp_path / "run")
    for to in ("colour", "animal"):
        with monkeypatch.context() as patch:
            patch.setattr(RunFolder, "restate", lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                turn(run, to)
        with RunFolder(run).locked():
            assert (run / "rolled_back.json").exists() == (to == "animal")
        turn(run, "colour")
    with monkeypatch.context() as patch:
        patch.setattr("gorp.run_folder.drop_idle_timeline", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            turn(run, "animal")
    assert (run / "rolled_back.json").exists()
    turn(run, "animal")
    assert not (run / "rolled_back.json").exists()


def test_a_kill_as_something_else_is_learnt_leaves_no_half_of_what_was_rolled_back(days, tasks, tmp_path, monkeypatch):
    start = shutil.copytree(days[1][0], tmp_path / "start")
    turn(start, "colour")
    whole = {path for path in start.glob("task-02-animal/**/*") if path.is_file()}
    left = set()
    for instant in range(1, 40):
        run = shutil.copytree(start, tmp_path / f"killed-{instant}")
        folder, done = RunFolder(run), False
        with monkeypatch.context() as patch:
            burning(patch, instant)
            try:
                folder.add_tasks([tasks[2]], folder.record())
                done = True
            except Killed:
                pass
        files = {start / path.relative_to(run) for path in run.glob("task-02-animal/**/*") if path.is_file()}
        left.add(len(files))
        assert not has_timeline(run) or files == whole
        with (again := RunFolder(run)).locked():
            assert not done or again.state.tasks[1].name == "act"
        if not has_timeline(run):
            assert not (run / "task-02-animal").exists()
        if done:
            break
    assert {0, len(whole)} <= left
    assert instant > 8


def test_base_is_no_name_for_a_task(config, tasks, tmp_path):
    with pytest.raises(InputError, match=r"task 'base'.*accepted: any other name"):
        open_run(tmp_path / "run", config).learn(replace(tasks[0], name="base"))


@pytest.mark.parametrize(
    "file", ["after/weights.safetensors", "after/inputs.safetensors", "after/scores.safetensors", "test.jsonl"]
)
def test_damage_is_named_and_nothing_changes(days, tmp_path, file):
    run = shutil.copytree(days[1][0], tmp_path / "run")
    path = run / "task-01-colour" / file
    before = content(run)[0]
    intact = path.read_bytes()
    path.write_bytes(intact[:-1] + bytes([intact[-1] ^ 1]))
    with pytest.raises(InputError, match=f"task-01-colour/{file}: is damaged"):
        turn(run, "colour")
    path.unlink()
    with pytest.raises(InputError, match=f"task-01-colour/{file}: no such file"):
        turn(run, "colour")
    assert content(run)[0] == before
    turn(run, "base")  # needs nothing of it


def test_only_one_process_at_a_time(days, tmp_path):
    run = shutil.copytree(days[1][0], tmp_path / "run")
    first, second = RunFolder(run), RunFolder(run)
    with first.locked():
        with pytest.raises(BusyError, match="works on this run"), second.locked():
            pass
        roll_back(first, "colour")
    with pytest.raises(GorpError, match="another process has gone on"), second.locked():
        pass


def test_a_damaged_way_back_is_named(days, tmp_path):
    run = shutil.copytree(days[1][0], tmp_path / "run")
    turn(run, "colour")
    path = run / "rolled_back.json"
    path.write_text(path.read_text().replace('"animal"', '"animol"', 1))
    with pytest.raises(InputError, match=r"rolled_back.json: is damaged"):
        turn(run, "animal")


def test_retractions_are_undone_where_the_run_stands_alone():
    def follow(*happened):
        return retracted([Event(kind, task, stages, "") for kind, task, stages in happened])

    learnt = [("learnt", "a", 1), ("learnt", "b", 2), ("retracted", "a", 2)]
    assert follow(*learnt) == ["a"]
    assert follow(*learnt, ("rolled back", "b", 2)) == []
    assert follow(*learnt, ("learnt", "c", 3), ("rolled back", "b", 2)) == ["a"]
    assert follow(*learnt, ("learnt", "c", 3), ("rolled back", "a", 1)) == []
