"""A task that makes a run forget trips its budget, in each of the three ways."""

import shutil
import weakref

import pytest
import torch

import gorp.standing
from gorp.backbones import load_backbone
from gorp.errors import BudgetExceeded, GorpError, InputError
from gorp.learner import ContinualLearner
from gorp.report.record import RunRecord
from gorp.rollback import roll_back
from gorp.run import run_stream
from gorp.run_config import RunConfig
from gorp.run_folder import RunFolder
from gorp.run_setup import load_stream


class Killed(BaseException):
    """Nothing in gorp catches this: what is on the disk stays as it is at that instant."""


@pytest.fixture(scope="module")
def settings(forgetful):
    def make(**budget):
        return RunConfig.from_mapping({**forgetful, "budget": {"max_forgetting": 1.0, **budget}})

    return make


@pytest.fixture(scope="module")
def tasks(settings):
    return list(load_stream(settings()))[:2]


@pytest.fixture(scope="module")
def first(settings, tasks, tmp_path_factory):
    """A run that has learnt its first task, the second one announced."""
    folder = tmp_path_factory.mktemp("first") / "run"
    learn_stage, stages = ContinualLearner._learn_stage, []

    def once(self, task, index):
        if stages:
            raise Killed
        stages.append(task.name)
        learn_stage(self, task, index)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ContinualLearner, "_learn_stage", once)
        with pytest.raises(Killed):
            run_stream(settings(), folder, tasks)
    return folder


@pytest.fixture(scope="module")
def stopped(settings, tasks, first, tmp_path_factory):
    """The same with the second task learnt, which breaks the budget."""
    folder = shutil.copytree(first, tmp_path_factory.mktemp("stopped") / "run")
    with pytest.raises(BudgetExceeded, match="task 'animal' cost earlier tasks more points than the 1 allowed: colour"):
        run_stream(settings(), folder, tasks)
    return folder


def test_stop_keeps_the_task_and_learns_no_more_until_the_loss_is_accepted(settings, tasks, stopped, tmp_path):
    run = shutil.copytree(stopped, tmp_path / "run")
    record = RunRecord.load(run)
    loss = record.stages[1].budget.losses["colour"]
    assert loss.points == record.matrix[0][0] - record.matrix[1][0] > 1
    assert loss.low > 1
    assert record.stages[1].budget.overall.points == pytest.approx(loss.points)
    assert RunFolder(run).state.stages == 2
    assert BudgetExceeded.exit_code == 3
    with pytest.raises(BudgetExceeded, match="--accept-breach"):
        run_stream(settings(), run, tasks)
    assert run_stream(settings(max_forgetting=90.0), run, tasks) == record  # the budget of now counts
    accepted = run_stream(settings(), run, tasks, accept_breach=True)
    assert [event.kind for event in accepted.events] == ["learnt", "learnt", "accepted"]
    assert run_stream(settings(), run, tasks).finished


def test_what_was_accepted_does_not_count_again(settings, tasks, stopped, tmp_path):
    run = shutil.copytree(stopped, tmp_path / "run")
    *_, third = load_stream(settings())
    backbone = load_backbone(settings().model)
    learner = ContinualLearner(backbone.model, backbone.tokenizer, run_dir=run, config=settings())
    learner.accept_breach()
    with pytest.raises(BudgetExceeded, match="animal"):
        learner.learn(third)
    losses = learner.folder.record().stages[2].budget.losses
    before, after = (learner.folder.record().matrix[stage][0] for stage in (1, 2))
    assert losses["colour"].points == before - after


def test_nothing_is_accepted_that_is_within_the_budget_or_was_accepted_before(
    settings, tasks, first, stopped, tmp_path
):
    run = shutil.copytree(first, tmp_path / "lenient")
    for _ in range(2):
        record = run_stream(settings(max_forgetting=90), run, tasks, accept_breach=True)
        assert [event.kind for event in record.events] == ["learnt", "learnt"]
    run = shutil.copytree(stopped, tmp_path / "run")
    for _ in range(2):
        record = run_stream(settings(), run, tasks, accept_breach=True)
        assert [event.kind for event in record.events] == ["learnt", "learnt", "accepted"]


def test_a_budget_that_was_given_for_one_task_holds_until_its_loss_is_accepted(settings, tasks, stopped, tmp_path):
    run = shutil.copytree(stopped, tmp_path / "run")
    with pytest.raises(BudgetExceeded, match="the 1 allowed"):
        run_stream(settings(max_forgetting=None), run, tasks)
    assert run_stream(settings(max_forgetting=None), run, tasks, accept_breach=True).finished


def test_what_was_measured_is_held_against_the_settings_of_now(settings, tasks, first, tmp_path):
    run = shutil.copytree(first, tmp_path / "run")
    record = run_stream(settings(max_forgetting=None), run, tasks)
    assert record.stages[1].budget is None
    lost = record.matrix[0][0] - record.matrix[1][0]
    assert run_stream(settings(max_forgetting=lost - 1), run, tasks) == record  # which 40 rows do not tell from it
    with pytest.raises(BudgetExceeded, match="is kept"):
        run_stream(settings(max_forgetting=lost - 1, confidence=0), run, tasks)
    with pytest.raises(BudgetExceeded, match="was taken back"):
        run_stream(settings(on_breach="rollback"), run, tasks)
    with pytest.raises(BudgetExceeded, match="would come to the same"):
        run_stream(settings(), run, tasks)


def test_what_was_taken_back_is_tried_again_once_it_is_put_back(settings, tasks, stopped, tmp_path):
    run = shutil.copytree(stopped, tmp_path / "run")
    with pytest.raises(BudgetExceeded, match="taken back"):
        run_stream(settings(on_breach="rollback"), run, tasks)
    retry = settings(on_breach="retry", retries=1, retry_lr=0.001)
    with pytest.raises(BudgetExceeded, match="'retry' then learns it more gently"):
        run_stream(retry, run, tasks)
    with (folder := RunFolder(run)).locked():
        roll_back(folder, "animal")
    assert run_stream(retry, run, tasks).stages[1].budget.attempt == 1


def test_a_retry_loads_the_model_once_with_no_other_in_memory(settings, tasks, first, tmp_path):
    run, config = shutil.copytree(first, tmp_path / "run"), settings(on_breach="retry", retries=1, retry_lr=0.001)
    alive, loads = [], []

    def load():
        loads.append([model() for model in alive if model() is not None])
        backbone = load_backbone(config.model)
        alive.append(weakref.ref(backbone.model))
        return backbone

    base, reload = load(), lambda: load().model
    learner = ContinualLearner(base.model, base.tokenizer, run_dir=run, config=config, reload=reload)
    del base
    learner.learn_stream(tasks)
    assert learner.record.stages[1].budget.attempt == 1
    assert loads == [[], []]


def test_a_roll_back_for_a_breach_loads_no_model(settings, tasks, first, tmp_path):
    run, loads = shutil.copytree(first, tmp_path / "run"), []
    backbone, config = load_backbone(settings().model), settings(on_breach="rollback")

    def load():
        loads.append(True)
        return load_backbone(config.model).model

    learner = ContinualLearner(backbone.model, backbone.tokenizer, run_dir=run, config=config, reload=load)
    with pytest.raises(BudgetExceeded, match="taken back"):
        learner.learn_stream(tasks)
    assert not loads
    scores = learner.evaluate()
    assert scores == {"colour": learner.folder.record().matrix[0][0]}  # of the model put up anew
    assert len(loads) == 1


def test_ranks_that_write_nothing_know_what_happened(settings, tasks, first, tmp_path, monkeypatch):
    finish_stage = RunFolder.finish_stage
    monkeypatch.setattr(
        RunFolder, "finish_stage", lambda self, record, files: finish_stage(self, record.model_copy(deep=True), files)
    )
    record = run_stream(settings(max_forgetting=None), shutil.copytree(first, tmp_path / "run"), tasks)
    assert [event.kind for event in record.events] == ["learnt", "learnt"]


def test_rollback_takes_the_task_back(settings, tasks, first, stopped, tmp_path):
    run = shutil.copytree(first, tmp_path / "run")
    gently = settings(on_breach="rollback")
    with pytest.raises(BudgetExceeded, match="taken back"):
        run_stream(gently, run, tasks)
    folder = RunFolder(run)
    assert (folder.state.stages, [task.name for task in folder.state.tasks]) == (1, ["colour"])
    assert [event.kind for event in folder.state.events] == ["learnt", "learnt", "rolled back"]
    assert "animal" in folder.record().events[-1].note
    before, after = (RunFolder(path).stage_files(1).weights for path in (first, run))
    assert all(torch.equal(before[name], after[name]) for name in before)
    files = sorted(run.rglob("*"))
    with pytest.raises(BudgetExceeded, match="would come to the same"):  # and is not trained to be told so
        run_stream(gently, run, tasks)
    assert sorted(run.rglob("*")) == files
    with folder.locked():
        roll_back(folder, "animal")
    assert RunRecord.load(run).comparable()["stages"] == RunRecord.load(stopped).comparable()["stages"]


def test_retry_learns_more_gently_until_the_budget_holds(settings, tasks, first, tmp_path):
    run = shutil.copytree(first, tmp_path / "run")
    record = run_stream(settings(on_breach="retry", retries=3, retry_lr=0.05), run, tasks)
    verdict = record.stages[1].budget
    assert verdict.attempt >= 1
    assert verdict.settings["training.lr"] == pytest.approx(0.03 * 0.05**verdict.attempt)
    assert not verdict.breaches()
    assert record.finished
    kinds = [event.kind for event in record.events]
    assert kinds == ["learnt", "learnt", *["retried", "learnt"] * verdict.attempt]


def test_retry_gives_up_and_takes_the_task_back(settings, tasks, first, tmp_path):
    run = shutil.copytree(first, tmp_path / "run")
    with pytest.raises(BudgetExceeded, match="in 2 attempts"):
        run_stream(settings(on_breach="retry", retries=1, retry_lr=0.9), run, tasks)
    assert RunFolder(run).state.stages == 1


@pytest.mark.parametrize("on_breach", ["stop", "rollback", "retry"])
def test_a_kill_before_the_budget_is_looked_at_changes_nothing(settings, tasks, stopped, tmp_path, on_breach):
    """The stage is finished, and the process gone before anything came of it."""
    run = shutil.copytree(stopped, tmp_path / "run")
    config = settings(on_breach=on_breach, retries=1, retry_lr=0.001)
    if on_breach == "retry":
        assert run_stream(config, run, tasks).stages[1].budget.attempt == 1
        return
    with pytest.raises(BudgetExceeded, match=r"kept" if on_breach == "stop" else "taken back"):
        run_stream(config, run, tasks)
    assert RunFolder(run).state.stages == (2 if on_breach == "stop" else 1)


def test_a_retry_that_is_killed_goes_on_as_the_same_attempt(
    settings, tasks, first, tmp_path, monkeypatch, assert_same_run
):
    config = settings(on_breach="retry", retries=1, retry_lr=0.001)
    whole = shutil.copytree(first, tmp_path / "whole")
    run_stream(config, whole, tasks)
    run, put_up = shutil.copytree(first, tmp_path / "run"), ContinualLearner.put_up

    def killed(self, model=None, space=None):
        if model is None:
            raise Killed
        put_up(self, model, space)

    monkeypatch.setattr(ContinualLearner, "put_up", killed)
    with pytest.raises(Killed):
        run_stream(config, run, tasks)
    monkeypatch.undo()
    run_stream(config, run, tasks)
    assert_same_run(run, whole)


def test_a_learner_without_reload_cannot_go_on_from_what_was_taken_back(settings, tasks, first, tmp_path):
    run = shutil.copytree(first, tmp_path / "run")
    backbone = load_backbone(settings().model)
    with pytest.raises(InputError, match="reload"):
        ContinualLearner(backbone.model, backbone.tokenizer, run_dir=run, config=settings(on_breach="retry"))
    learner = ContinualLearner(backbone.model, backbone.tokenizer, run_dir=run, config=settings(on_breach="rollback"))
    with pytest.raises(BudgetExceeded, match="taken back"):
        learner.learn_stream(tasks)
    with pytest.raises(GorpError, match="make a new learner"):
        learner.evaluate()


def test_a_budget_needs_every_score():
    with pytest.raises(InputError, match="each_stage"):
        RunConfig.from_mapping({"budget": {"max_forgetting": 1}, "evaluation": {"each_stage": "new"}})


def test_stages_of_an_earlier_version_are_held_against_their_scores(settings, tasks, first, tmp_path):
    run = shutil.copytree(first, tmp_path / "run")
    after = run / "task-01-colour" / "after"
    (after / "scores.safetensors").unlink()
    (after / "checksums.json").unlink()
    with pytest.raises(BudgetExceeded, match="colour"):
        run_stream(settings(), run, tasks)


def test_the_learner_looks_at_the_budget_once_a_stage(settings, tasks, first, tmp_path, monkeypatch):
    run, calls = shutil.copytree(first, tmp_path / "run"), []
    monkeypatch.setattr(
        gorp.standing, "settle", lambda folder, judge, budget: calls.append(folder.state.stages) or False
    )
    run_stream(settings(), run, tasks)
    assert calls == [1, 2]
