import json
import shutil
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from gorp import ContinualLearner, evaluation
from gorp.backbones import load_backbone
from gorp.checkpoint import save_tensors
from gorp.errors import GorpError, InputError
from gorp.progress import LineProgress
from gorp.report.record import RunRecord
from gorp.run import run_stream
from gorp.run_config import RunConfig
from gorp.run_setup import load_stream
from gorp.tasks import Example, Task, TaskStream


@pytest.fixture(params=["seq2seq", "causal", "encoder"])
def kind(request):
    return request.param


def settings(tiny_models, tiny_stream, kind="seq2seq", method="gorp", **values):
    return RunConfig.from_mapping(
        {
            "method": method,
            "model": str(tiny_models[kind]),
            "stream": str(tiny_stream),
            "training": {"epochs": 1, "lr": 0.01, "save_every": 2, "batch_size": 6},
            "lora": {"rank": 2},
            "gorp": {"rank": 2, "refresh_every": 2},
            "data": {"train_rows": 12, "validation_rows": 4},
            **values,
        }
    )


def learner(config, folder, method=None):
    backbone = load_backbone(config.model)
    return ContinualLearner(backbone.model, backbone.tokenizer, method, folder, config)


@pytest.mark.parametrize(
    ("kind", "method"),
    [("seq2seq", "gorp"), ("causal", "gorp"), ("encoder", "gorp"), ("seq2seq", "seq-lora"), ("causal", "inc-lora")],
)
def test_a_stream_fills_the_matrix(tiny_models, tiny_stream, tmp_path, kind, method):
    record = run_stream(settings(tiny_models, tiny_stream, kind, method), tmp_path)
    assert record.finished
    assert record.tasks == ["colour", "animal", "act"]
    assert all(score is not None for row in [record.zero_shot, *record.matrix] for score in row)
    assert [stage.steps for stage in record.stages] == [2, 2, 2]
    assert [len(stage.train_loss) for stage in record.stages] == [2, 2, 2]
    assert all(set(stage.seconds) == {"train", "memory", "evaluate"} for stage in record.stages)
    last = next(iter(record.stages[-1].layers.values()))
    assert set(last.drift) == {"colour", "animal"}
    assert RunRecord.load(tmp_path) == record
    assert (tmp_path / "gradient_space.safetensors").exists() == (method == "gorp")
    assert not list(tmp_path.glob("task-*/step-*"))


def test_a_row_that_does_not_fit_is_found_before_anything_is_learnt(tiny_models, tiny_stream, tmp_path, kind):
    config = settings(
        tiny_models, tiny_stream, kind, training={"max_source_length": 64}, evaluation={"each_stage": "new"}
    )
    *first, last = TaskStream.from_yaml(tiny_stream, train_rows=12, validation_rows=4)
    long = replace(last.train[-1], prompt="word " * 100 + last.train[-1].prompt, truncatable=(0, 0))
    tasks = [*first, replace(last, train=[*last.train[:-1], long])]
    with pytest.raises(
        InputError, match=r"task 'act': a prompt takes \d+ tokens .* max_source_length is \d+: raise it"
    ):
        run_stream(config, tmp_path, stream=tasks)
    assert not list(tmp_path.glob("task-*"))


@pytest.mark.parametrize("method", ["gorp", "joint"])
def test_scoring_the_new_task_alone_changes_no_other_figure(tiny_models, tiny_stream, tmp_path, method):
    config = settings(tiny_models, tiny_stream, method=method)
    whole = run_stream(config, tmp_path / "all")
    config.evaluation.each_stage = "new"
    record = run_stream(config, tmp_path / "new")
    assert record.zero_shot_row == [None] * 3
    assert record.matrix[-1] == whole.matrix[-1]
    if method == "gorp":
        assert record.matrix[:2] == [[whole.matrix[0][0], None, None], [None, whole.matrix[1][1], None]]
    figures, expected = record.summary(), whole.summary()
    assert (figures["AP"], figures["BWT"]) == (expected["AP"], expected["BWT"])
    assert figures["FWT"] is figures["forgetting"] is None


@pytest.mark.parametrize("method", ["gorp", "prog-prompt"])
def test_answers_are_chosen_among_the_options(tiny_models, tiny_stream, tmp_path, kind, method, monkeypatch):
    seen = []
    score = evaluation.exact_match
    monkeypatch.setattr(
        evaluation, "exact_match", lambda *scored: seen.extend(zip(*scored, strict=True)) or score(*scored)
    )
    config = settings(tiny_models, tiny_stream, kind, method=method, evaluation={"answers": "options"})
    assert run_stream(config, tmp_path).finished
    assert seen
    assert all(answer in example.options for answer, example in seen)


def test_gorp_does_not_leak(tiny_models, tiny_stream, tmp_path, kind):
    record = run_stream(settings(tiny_models, tiny_stream, kind), tmp_path)
    meters = [meter for stage in record.stages[1:] for meter in stage.layers.values()]
    assert any(meter.leak is not None for meter in meters)
    assert all(meter.leak <= meter.leak_bound for meter in meters if meter.leak is not None)


def test_joint_learns_in_one_stage(tiny_models, tiny_stream, tmp_path):
    record = run_stream(settings(tiny_models, tiny_stream, method="joint"), tmp_path)
    assert record.finished
    assert [stage.index for stage in record.stages] == [2]
    assert record.stages[0].steps == 6
    assert record.matrix[:2] == [[None] * 3] * 2
    assert None not in record.matrix[2]
    again = learner(settings(tiny_models, tiny_stream, method="joint"), tmp_path)
    with pytest.raises(InputError, match="learns all tasks at once"):
        again.learn(TaskStream.from_yaml(tiny_stream)[0])
    with pytest.raises(InputError, match="a finished run cannot learn more"):
        again.learn_stream([*load_stream(again.config), Task("new", [], [], [])])


def test_a_finished_run_is_left_as_it_is(tiny_models, tiny_stream, tmp_path):
    config = settings(tiny_models, tiny_stream, method="seq-lora")
    record = run_stream(config, tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != "run.lock"}
    assert run_stream(config, tmp_path) == record
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.name != "run.lock"} == before


def test_a_loop_over_learn_is_a_run(tiny_models, tiny_stream, tmp_path):
    """Tasks not announced beforehand: what came before a task is measured when it comes."""
    config = settings(tiny_models, tiny_stream)
    tasks = TaskStream.from_yaml(tiny_stream, train_rows=12, validation_rows=4)
    one_by_one = learner(config, tmp_path / "loop")
    for task in tasks:
        one_by_one.learn(task)
    at_once = run_stream(config, tmp_path / "stream", stream=tasks)
    looped, streamed = one_by_one.record.matrix, at_once.matrix
    for stage in range(3):
        known = min(3, stage + 2)  # the next task was measured before it was learnt
        assert looped[stage][:known] == streamed[stage][:known]
    assert one_by_one.record.zero_shot_row == [at_once.zero_shot[0], None, None]
    assert looped[0][2] is None
    assert one_by_one.record.finished
    assert one_by_one.record.summary()["BWT"] == at_once.summary()["BWT"]


def test_learning_on_another_day_needs_nothing_but_the_folder(tiny_models, tiny_stream, tmp_path, kind):
    config = settings(tiny_models, tiny_stream, kind)
    tasks = TaskStream.from_yaml(tiny_stream, train_rows=12, validation_rows=4)
    together = learner(config, tmp_path / "together")
    for task in tasks:
        together.learn(task)
    for task in tasks:
        backbone = load_backbone(config.model)
        given = config if task is tasks[0] else None
        day = ContinualLearner(backbone.model, backbone.tokenizer, run_dir=tmp_path / "days", config=given)
        day.learn(task)
    assert day.record.comparable() == together.record.comparable()
    weights = [learner.method.effective_weights() for learner in (together, day)]
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())
    assert day.evaluate() == dict(zip(day.record.tasks, day.record.matrix[-1], strict=True))
    assert set(day.evaluate(["act"], "validation")) == {"act"}
    leaks = [meter for stage in day.record.stages for meter in stage.layers.values() if meter.leak is not None]
    assert leaks
    assert all(meter.leak <= meter.leak_bound for meter in leaks)


def test_two_runs_are_the_same_and_two_seeds_are_not(tiny_models, tiny_stream, tmp_path):
    config = settings(tiny_models, tiny_stream)
    tasks = load_stream(config)[:2]
    first, second = (run_stream(config, tmp_path / name, tasks) for name in "ab")
    assert first.comparable() == second.comparable()
    other = run_stream(config.model_copy(update={"seed": 1}), tmp_path / "c", tasks[:1])
    assert [stage.train_loss for stage in other.stages] != [stage.train_loss for stage in first.stages[:1]]


def test_bf16_weights_report_the_stored_leak(tiny_models, tiny_stream, tmp_path):
    backbone = load_backbone(str(tiny_models["causal"]), dtype="bfloat16")
    config = settings(tiny_models, tiny_stream, "causal")
    ours = ContinualLearner(backbone.model, backbone.tokenizer, run_dir=tmp_path, config=config)
    for task in TaskStream.from_yaml(tiny_stream, train_rows=12, validation_rows=4)[:2]:
        ours.learn(task)
    meters = [meter for meter in ours.record.stages[1].layers.values() if meter.leak is not None]
    assert all(meter.leak <= meter.leak_bound for meter in meters)
    assert any(meter.stored_leak > meter.leak for meter in meters)


def test_any_seed_will_do(tiny_models, tiny_stream, tmp_path):
    config = settings(tiny_models, tiny_stream, method="seq-lora", seed=10**12)
    tasks = TaskStream.from_yaml(tiny_stream, train_rows=8, test_rows=3, validation_rows=1)
    assert run_stream(config, tmp_path, tasks[:1]).finished


def test_foreign_runs_are_refused_and_not_touched(tiny_models, tiny_stream, tmp_path):
    config = settings(tiny_models, tiny_stream, method="seq-lora")
    tasks = TaskStream.from_yaml(tiny_stream, train_rows=12, validation_rows=4)
    run_stream(config, tmp_path, tasks[:2])
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def refused(message, change=None, stream=tasks, model=None):
        with pytest.raises(InputError, match=message):
            run_stream(RunConfig.from_mapping({**config.model_dump(), **(change or {})}), tmp_path, stream)

    other = [Task("other", [], [], [Example("a", "b", (0, 0))]), Task("more", [], [], [])]
    refused("run of another stream", stream=other)
    refused("run of another stream", stream=tasks[::-1])
    refused("task 'colour' of this run had other rows", stream=TaskStream.from_yaml(tiny_stream, train_rows=9))
    refused("run of another base model", {"model": str(tiny_models["causal"])})
    refused("is a run with method = 'seq-lora', not 'inc-lora'", {"method": "inc-lora"})
    refused("is a run with training.lr = 0.01, not 0.5", {"training": {**config.training.model_dump(), "lr": 0.5}})
    state = json.loads((tmp_path / "state.json").read_text())
    weights = tmp_path / state["after"] / "weights.safetensors"
    weights.write_bytes(b"broken")
    refused("weights.safetensors: is damaged, or was changed")
    checksums = weights.with_name("checksums.json")
    checksums.unlink()  # as in the folder of an earlier version
    tensors = safetensors.torch.load(before[weights])
    first = next(iter(tensors))
    for other, said in (
        ({**tensors, "no.such": torch.zeros(1)}, "ValueError: tensor 'no.such' is missing, or is none of the model's"),
        ({name: tensors[name] for name in tensors if name != first}, f"ValueError: tensor '{first}' is missing"),
        ({**tensors, first: torch.zeros(1)}, "RuntimeError: .*size mismatch"),
    ):
        save_tensors(weights, other)
        refused(f"saved of the last finished task does not fit the run .{said}")
    weights.write_bytes(before[weights])
    checksums.write_bytes(before[checksums])
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert run_stream(config, tmp_path, tasks).finished  # and can still go on


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("tokenizer.json", '"cat"', '"cow"', r"another base model \(another vocabulary\)"),
        ("config.json", "1e-06", "1e-05", r"another base model \(layer_norm_epsilon = 1e-06, not 1e-05\)"),
    ],
)
def test_a_model_is_its_tokenizer_and_settings_too(tiny_models, tiny_stream, tmp_path, file, old, new, message):
    model = shutil.copytree(tiny_models["seq2seq"], tmp_path / "model")
    config = settings({"seq2seq": model}, tiny_stream, "seq2seq", "seq-lora")
    tasks = TaskStream.from_yaml(tiny_stream, train_rows=4, test_rows=2)
    run_stream(config, tmp_path / "run", tasks[:1])
    text = (model / file).read_text()
    assert old in text
    (model / file).write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message):
        run_stream(config, tmp_path / "run", tasks[:1])
    (model / file).write_text(text)
    state = json.loads((tmp_path / "run" / "state.json").read_text())
    del (
        state["model_settings"]["layer_norm_epsilon"],
        state["checksum"],
    )  # as of a version that did not know the setting yet
    (tmp_path / "run" / "state.json").write_text(json.dumps(state))
    assert run_stream(config, tmp_path / "run", tasks[:1]).finished


def test_bad_targets_leave_no_folder(tiny_models, tiny_stream, tmp_path):
    config = settings(tiny_models, tiny_stream, gorp={"lora_targets": ["nothing"]})
    with pytest.raises(InputError, match="'nothing' matches no linear layer"):
        run_stream(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_unknown_tasks_and_splits_are_named(tiny_models, tiny_stream, tmp_path):
    ours = learner(settings(tiny_models, tiny_stream, method="seq-lora"), tmp_path)
    ours.learn(TaskStream.from_yaml(tiny_stream)[0])
    with pytest.raises(InputError, match=r"no task 'color' in this run \(did you mean 'colour'\?\); tasks: colour"):
        ours.evaluate(["color"])
    with pytest.raises(InputError, match="unknown split 'dev'"):
        ours.evaluate(split="dev")


def begun(config, folder, tasks):
    """The learner of a run that stopped as it began the first of its tasks."""
    ours = learner(config, folder)
    ours.method.begin_task = lambda task, index: (_ for _ in ()).throw(GorpError("stopped"))
    with pytest.raises(GorpError, match="stopped"):
        ours.learn_stream(tasks)
    return learner(config, folder)


def test_a_task_that_was_begun_comes_first(tiny_models, tiny_stream, tmp_path):
    tasks = TaskStream.from_yaml(tiny_stream)
    again = begun(settings(tiny_models, tiny_stream, method="seq-lora"), tmp_path, tasks[:1])
    with pytest.raises(InputError, match="task 'colour' was begun in this run and comes next"):
        again.learn(tasks[1])


def test_a_task_that_is_refused_is_not_remembered(tiny_models, tiny_stream, tmp_path):
    """Or neither it nor the one that waits could ever be given alone."""
    tasks = TaskStream.from_yaml(tiny_stream)
    again = begun(settings(tiny_models, tiny_stream, method="seq-lora"), tmp_path, tasks[:2])
    with pytest.raises(InputError, match=f"task 'colour' was begun .* gorp rollback {tmp_path} --to base"):
        again.learn(tasks[2])
    assert [task.name for task in again.tasks] == ["colour", "animal"]
    again.learn(tasks[0])
    assert again.learnt == 1
    with pytest.raises(InputError, match="task 'animal' was begun"):
        again.learn(tasks[2])
    again.learn(tasks[1])
    again.learn(tasks[2])
    assert again.record.tasks == ["colour", "animal", "act"]


def test_answers_that_are_cut_are_warned_of_once(tiny_models, tiny_stream, tmp_path, capsys):
    training = {"epochs": 1, "max_target_length": 3, "batch_size": 2}
    config = settings(tiny_models, tiny_stream, method="seq-lora", training=training)
    rows = [Example("a", answer, (0, 0)) for answer in ("red", "red green", "red green blue", "red red red red")]
    for _ in range(2):
        run_stream(config, tmp_path, [Task("free", rows, [], rows)], progress=LineProgress())
    assert (
        capsys.readouterr().err.count(
            "task 'free': 2 of 4 answers take more than training.max_target_length = 3 tokens, up to 5"
        )
        == 1
    )


def test_a_stream_goes_on_with_its_own_run_alone(tiny_models, tiny_stream, tmp_path):
    config = settings(tiny_models, tiny_stream, method="seq-lora")
    tasks = TaskStream.from_yaml(tiny_stream)
    run_stream(config, tmp_path, tasks[:1])
    for other in (tasks[1:2], tasks[::-1], [tasks[2], tasks[0]]):
        with pytest.raises(InputError, match=r"is the run of another stream \(colour\)"):
            run_stream(config, tmp_path, other)
    assert run_stream(config, tmp_path, tasks[:2]).tasks == ["colour", "animal"]
