"""A task that is no longer wanted gives back what no other one relies on."""

import os
import shutil
import warnings

import pytest
import torch

from gorp.backbones import load_backbone
from gorp.difference import compare_stages
from gorp.errors import GorpError, InputError
from gorp.learner import ContinualLearner
from gorp.retraction import removable, retract
from gorp.rollback import roll_back
from gorp.run import run_stream
from gorp.run_config import RunConfig
from gorp.run_folder import RunFolder
from gorp.run_retraction import retract_task
from gorp.run_setup import load_stream
from gorp.space import OUTPUT, GradientSpace, LayerSpace, Side

WIDTH, ENERGY = 8, 0.95


def extended(space, name, *directions, output=None):
    """Rows along unit vectors, with these energies."""
    rows = torch.zeros(len(directions), WIDTH)
    for row, (direction, energy) in enumerate(directions):
        rows[row, direction] = energy**0.5
    space.extend(name, rows, ENERGY, output)


def make_space(max_share=1.0, output=False):
    space = GradientSpace(max_share)
    space.layers["layer"] = LayerSpace(Side.empty(WIDTH), Side.empty(WIDTH) if output else None)
    return space


def directions(space, name="layer"):
    """Which unit vectors lie in a space."""
    held = space.layers[name].basis.square().sum(dim=1)
    return [axis for axis, share in enumerate(held.tolist()) if share > 0.5]


def test_what_no_other_task_relies_on_is_given_back():
    space = make_space()
    extended(space, "layer", (0, 0.5), (1, 0.5))
    space.tasks.append("first")
    extended(space, "layer", (1, 0.5), (2, 0.5))  # relies on 1
    space.tasks.append("second")
    done = retract(space, "first", ENERGY, 0.0)["layer"]
    assert (done.wanted["input"], done.freed["input"]) == (2, 1)
    assert directions(space) == [1, 2]
    assert space.layers["layer"].growth == [1, 1]
    assert space.layers["layer"].shares["input"].shape == (2, 2)
    retract(space, "second", ENERGY, 0.0)
    assert directions(space) == []  # what was kept for the second alone goes with it


def test_a_tolerance_gives_back_more_but_never_beyond_it():
    space = make_space()
    extended(space, "layer", (0, 0.5), (1, 0.5))
    space.tasks.append("first")
    extended(space, "layer", (0, 0.03), (1, 0.03), (2, 0.9), (3, 0.04))
    space.tasks.append("second")
    assert directions(space) == [0, 1, 2]
    for tolerance, left in ((0.0, 3), (0.03, 2), (0.06, 1)):
        other, layer = GradientSpace(), space.layers["layer"]
        other.tasks = list(space.tasks)
        side = Side(layer.basis.clone(), layer.energy.clone())
        other.layers = {"layer": LayerSpace(side, growth=list(layer.growth), shares=dict(layer.shares))}
        retract(other, "first", ENERGY, tolerance)
        assert len(directions(other)) == left
        assert float(other.layers["layer"].shares["input"][1].sum()) >= ENERGY - tolerance - 1e-5


def test_earlier_tasks_kept_their_share_without_it():
    space = make_space()
    extended(space, "layer", (0, 0.97), (1, 0.03))
    space.tasks.append("first")
    extended(space, "layer", (1, 1.0))
    space.tasks.append("second")
    retract(space, "second", ENERGY, 0.0)
    assert directions(space) == [0]


def test_layers_that_share_a_side_are_asked_together():
    space = make_space()
    space.layers["other"] = LayerSpace(space.layers["layer"].input)
    extended(space, "layer", (0, 1.0))
    extended(space, "other", (0, 0.5), (1, 0.5))
    space.tasks.append("first")
    extended(space, "layer", (2, 1.0))
    extended(space, "other", (1, 0.5), (2, 0.5))
    space.tasks.append("second")
    done = retract(space, "first", ENERGY, 0.0)
    assert directions(space) == directions(space, "other") == [1, 2]
    assert (done["layer"].freed["input"], done["other"].freed) == (1, {})
    assert [layer.growth for layer in space.layers.values()] == [[0, 1], [1, 0]]


def test_the_output_side_too():
    space = make_space(output=True)
    for task, axis in (("first", 0), ("second", 1)):
        extended(space, "layer", (axis, 1.0), output=torch.eye(WIDTH)[axis][None])
        space.tasks.append(task)
    done = retract(space, "first", ENERGY, 0.0)["layer"]
    assert done.freed == {"input": 1, "output": 1}
    assert space.layers["layer"].side(OUTPUT).rank == 1


def test_a_full_layer_learns_again_once_columns_protect_whoever_stays():
    space = make_space(max_share=0.26)  # two columns
    extended(space, "layer", (0, 0.5), (1, 0.5))
    space.tasks.append("first")
    extended(space, "layer", (2, 1.0))  # refused: the layer is frozen instead
    space.tasks.append("second")
    assert space.layers["layer"].frozen
    kept = retract(space, "first", ENERGY, 0.0)["layer"]
    assert not kept.learns_again
    assert space.layers["layer"].frozen  # for the second task's sake
    assert directions(space) == [0, 1]
    freed = retract(space, "second", ENERGY, 0.0)["layer"]
    assert freed.learns_again
    assert directions(space) == []


def test_a_full_layer_keeps_the_columns_that_it_needs_to_learn_again():
    space = make_space(max_share=0.51)  # four columns
    space.layers["other"] = LayerSpace(space.layers["layer"].input)
    for task, full, other in (
        ("first", [(0, 1.0)], [(0, 1.0)]),
        ("second", [(0, 0.5), (1, 0.5)], [(1, 1.0)]),  # there it relies on 0 that the first task brought
        ("third", [(axis, 0.25) for axis in range(2, 6)], [(2, 1.0)]),
    ):
        extended(space, "layer", *full)
        extended(space, "other", *other)
        space.tasks.append(task)
    assert [layer.frozen for layer in space.layers.values()] == [True, False]
    retract(space, "first", ENERGY, 0.0)
    assert retract(space, "third", ENERGY, 0.0)["layer"].learns_again
    assert directions(space) == [0, 1]  # else the second task would be written over


def test_columns_of_whom_nobody_knows_stay():
    tables = [torch.tensor([[torch.nan, torch.nan], [0.0, 1.0]])]
    assert not removable(tables, torch.tensor([-1, 1]), [0], 0.9).any()
    space = make_space()
    extended(space, "layer", (0, 1.0))
    space.tasks.append("first")
    space.layers["layer"].shares = {}
    with pytest.raises(InputError, match="earlier version"):
        retract(space, "first", ENERGY, 0.0)
    with pytest.raises(InputError, match=r"no task 'frist' is protected \(did you mean 'first'\?\); accepted: first"):
        retract(space, "frist", ENERGY, 0.0)


def test_what_tasks_rely_on_is_saved_with_the_space(tmp_path):
    space = make_space(output=True)
    extended(space, "layer", (0, 1.0), output=torch.eye(WIDTH)[:1])
    space.tasks.append("first")
    space.retracted.append("first")
    space.save(tmp_path / "space.safetensors")
    again = GradientSpace.load(tmp_path / "space.safetensors")
    assert again.retracted == ["first"]
    for side, shares in space.layers["layer"].shares.items():
        assert torch.equal(again.layers["layer"].shares[side], shares)


@pytest.fixture(scope="module")
def tasks(config):
    return list(load_stream(config))


@pytest.fixture(scope="module")
def config(short_run):
    return short_run.model_copy(deep=True)


@pytest.fixture(scope="module")
def run(config, tasks, tmp_path_factory):
    """A run that has learnt two tasks."""
    folder = tmp_path_factory.mktemp("retracted") / "run"
    run_stream(config, folder, tasks[:2])
    return folder


def retracted(path, task="animal"):
    folder = RunFolder(path)
    with folder.locked():
        return retract_task(folder, task, 0.01)


def open_run(path):
    backbone = load_backbone(RunFolder(path).config().model)
    return ContinualLearner(backbone.model, backbone.tokenizer, run_dir=path)


def learn(path, task):
    learner = open_run(path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        learner.learn(task)
    return learner


def test_a_run_gives_back_room_that_later_tasks_learn_in(run, tasks, tmp_path):
    path = shutil.copytree(run, tmp_path / "run")
    before = RunFolder(path).stage_files()
    done = retracted(path)
    after = RunFolder(path).stage_files()
    assert all(torch.equal(weight, after.weights[name]) for name, weight in before.weights.items())
    freed = [layer.freed["input"] for layer in done.layers.values()]
    assert sum(freed) == sum(layer.wanted["input"] for layer in done.layers.values()) > 0  # nobody came after it
    assert set(done.before) == {"colour"}
    first = RunFolder(path).stage_files(1).space
    assert all(torch.equal(after.space.layers[name].basis, layer.basis) for name, layer in first.layers.items())
    learner = learn(path, tasks[2])
    meters = learner.record.stages[2].layers.values()
    assert all(meter.leak <= meter.leak_bound for meter in meters if meter.leak is not None)
    assert learner.record.retracted == ["animal"]
    assert learner.method.space.retracted == ["animal"]
    moved = [layer.basis.shape[1] for layer in before.space.layers.values()]
    assert [meter.rank for meter in meters] != moved


def test_layers_that_learn_again_or_in_more_directions_begin_anew(config, tasks, tmp_path):
    gorp = {"rank": 8, "max_share": 1.0, "energy": 0.999, "memory": "features"}
    path, settings = tmp_path / "run", config.model_dump()
    run_stream(RunConfig.from_mapping({**settings, "gorp": {**settings["gorp"], **gorp}}), path, tasks[:2])
    weights = RunFolder(path).stage_files().weights
    directions = {name: core.shape[1] for name, core in weights.items() if name.endswith("core")}
    done = retracted(path)
    learner = open_run(path)
    cores = {name: core.shape[1] for name, core in learner.method.weights().items() if name.endswith("core")}
    grown = {before for name, before in directions.items() if cores[name] > before}
    assert min(grown) == 0 < max(grown)  # frozen ones, and some that were nearly full
    learner.evaluate()
    before = learner.method.effective_weights()
    learner.learn(tasks[2])
    again = [name for name, layer in done.layers.items() if layer.learns_again]
    moved = learner.method.effective_weights()
    assert any(not torch.equal(before[name], moved[name]) for name in again)
    meters = learner.record.stages[2].layers.values()
    assert all(meter.leak <= meter.leak_bound for meter in meters if meter.leak is not None)
    assert compare_stages(RunFolder(path), "colour", "act").layers.keys() == before.keys()  # of all three sizes


def test_rolling_to_where_the_run_stands_undoes_it(run, tmp_path, assert_same_run):
    path = shutil.copytree(run, tmp_path / "run")
    retracted(path)
    assert (path / "task-02-animal" / "retracted-01").exists()
    folder = RunFolder(path)
    assert folder.record().retracted == ["animal"]
    with folder.locked():
        roll_back(folder, "animal")
    assert folder.record().retracted == []
    space = RunFolder(path).stage_files().space
    assert space.retracted == []
    assert (path / "gradient_space.safetensors").read_bytes() == (run / "gradient_space.safetensors").read_bytes()


def test_the_same_again_does_nothing_until_something_else_happens(run, tasks, tmp_path):
    path = shutil.copytree(run, tmp_path / "run")
    first = retracted(path)
    before = (path / "state.json").read_bytes()
    again = retracted(path)
    assert (again.repeated, again.layers, again.after) == (True, {}, first.after)
    assert again.note == "its directions were given back before"
    assert (path / "state.json").read_bytes() == before
    learn(path, tasks[2])
    with pytest.raises(InputError, match="no task 'animal' is protected"):
        retracted(path)


def test_a_later_task_that_is_rolled_back_leaves_it_retracted(run, tasks, tmp_path):
    path = shutil.copytree(run, tmp_path / "run")
    retracted(path)
    learn(path, tasks[2])
    folder = RunFolder(path)
    with folder.locked():
        for _ in range(2):  # the second time as whoever cannot know whether the first one came to its end
            roll_back(folder, "animal")
    assert RunFolder(path).stage_files().space.retracted == folder.record().retracted == ["animal"]


def test_a_task_that_is_put_back_and_rolled_back_again_leaves_it_retracted(run, tmp_path):
    path = shutil.copytree(run, tmp_path / "run")
    folder = RunFolder(path)
    with folder.locked():
        roll_back(folder, "colour")
        retract_task(folder, "colour")
        for to, withdrawn in (("animal", []), ("colour", ["colour"])):
            roll_back(folder, to)
            assert folder.stage_files().space.retracted == folder.record().retracted == withdrawn


@pytest.mark.parametrize(
    "turns",
    [[("colour", []), ("animal", ["animal"])], [("animal", []), ("colour", []), ("animal", [])]],
    ids=["kept by the next one", "undone where the run stands, for good"],
)
def test_what_was_retracted_after_a_roll_back(run, tasks, tmp_path, turns):
    path = shutil.copytree(run, tmp_path / "run")
    learn(path, tasks[2])
    with (folder := RunFolder(path)).locked():
        roll_back(folder, "animal")
        retract_task(folder, "animal")
        for to, withdrawn in turns:
            roll_back(folder, to)
            assert folder.stage_files().space.retracted == folder.record().retracted == withdrawn


def test_a_damaged_space_is_not_rolled_back_to(run, tasks, tmp_path):
    path = shutil.copytree(run, tmp_path / "run")
    retracted(path)
    learn(path, tasks[2])
    damaged = path / "task-02-animal" / "retracted-01" / "gradient_space.safetensors"
    content = damaged.read_bytes()
    damaged.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with (folder := RunFolder(path)).locked(), pytest.raises(InputError, match=r"retracted-01.*is damaged"):
        roll_back(folder, "animal")
    assert folder.state.stages == 3


def test_a_model_in_memory_does_not_learn_in_the_space_of_before(run, tasks, tmp_path):
    learner = open_run(shutil.copytree(run, tmp_path / "run"))
    with learner.folder.locked():
        retract_task(learner.folder, "animal")
    with pytest.raises(GorpError, match="make a new learner"):
        learner.learn(tasks[2])


def test_a_kill_at_any_instant_leaves_the_old_space_or_the_new_one(run, tmp_path, monkeypatch):
    class Killed(BaseException):
        pass

    whole = shutil.copytree(run, tmp_path / "whole")
    retracted(whole)
    for instant in range(1, 60):
        path, count = shutil.copytree(run, tmp_path / f"killed-{instant}"), 0

        def counted(operation, instant=instant):
            def call(*args):
                nonlocal count
                count += 1
                if count == instant:
                    raise Killed
                return operation(*args)

            return call

        with monkeypatch.context() as patch:
            for name in ("replace", "fsync", "rename"):
                patch.setattr(os, name, counted(getattr(os, name)))
            try:
                retracted(path)
                break
            except Killed:
                pass
        folder = RunFolder(path)
        space = folder.stage_files().space
        assert space.retracted == folder.record().retracted
        if not space.retracted:
            retracted(path)
        with (again := RunFolder(path)).locked():
            pass
        assert (path / "gradient_space.safetensors").exists()
        new = GradientSpace.load(path / "gradient_space.safetensors")
        assert new.retracted == ["animal"]
        assert again.record().retracted == ["animal"]
    assert instant > 5


def test_what_cannot_be_retracted_is_told(run, tiny_models, forgetful, tmp_path):
    path = shutil.copytree(run, tmp_path / "run")
    (path / "task-02-animal" / "after" / "gradient_space.safetensors").unlink()
    with pytest.raises(InputError, match=r"gradient_space.safetensors: no such file"):
        retracted(path)
    folder = RunFolder(shutil.copytree(run, tmp_path / "flying"))
    folder.state.tasks.append(folder.state.tasks[0])
    folder.save_flight(2, 1, {"step": 1})
    with pytest.raises(InputError, match="a task is in flight"):
        retract_task(folder, "animal")
