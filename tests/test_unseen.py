"""Tasks that are measured and never learnt: they change nothing, and are what the run began with."""

import json
from dataclasses import replace

import pytest

from gorp import ContinualLearner
from gorp.backbones import load_backbone
from gorp.errors import InputError
from gorp.report.record import RunRecord
from gorp.run import run_stream
from gorp.tasks import TaskStream


@pytest.fixture
def config(short_run):
    return short_run.model_copy(deep=True)


@pytest.fixture
def tasks(tiny_stream):
    return TaskStream.from_yaml(tiny_stream, train_rows=12, test_rows=6, validation_rows=4)


def test_they_are_measured_at_every_stage_and_change_nothing(config, tasks, tmp_path):
    colour, animal, act = tasks
    alone = run_stream(config, tmp_path / "alone", TaskStream("s", [colour, animal]))
    record = run_stream(config, tmp_path / "run", TaskStream("s", [colour, animal], unseen=[act]))
    assert record.tasks == ["colour", "animal"] and record.matrix == alone.matrix
    assert [stage.train_loss for stage in record.stages] == [stage.train_loss for stage in alone.stages]
    of_three = run_stream(config, tmp_path / "all", tasks)  # there, `act` is measured before it is learnt
    assert record.unseen_zero_shot == {"act": of_three.zero_shot[2]}
    assert record.scored_rows == {task.name: len(task.test) for task in tasks}
    assert record.unseen_matrix == [[row[2]] for row in of_three.matrix[:2]]
    assert record.summary()["unseen"] == of_three.matrix[1][2]
    assert "unseen" not in alone.summary()
    assert RunRecord.load(tmp_path / "run") == record


def test_the_run_remembers_them(config, tasks, tmp_path):
    colour, animal, act = tasks
    record = run_stream(config, tmp_path, TaskStream("s", [colour], unseen=[act]))
    learner = ContinualLearner.of_run(tmp_path)
    assert learner.evaluate() == {"colour": record.matrix[-1][0], "act": record.stages[-1].unseen["act"]}
    learner.learn(animal)
    assert learner.record.tasks == ["colour", "animal"]
    assert list(learner.record.stages[-1].unseen) == ["act"]
    with pytest.raises(InputError, match="task 'act' is measured in this run and never learnt; rename it"):
        learner.learn(act)


def test_the_folder_of_another_list_is_refused_and_not_touched(config, tasks, tmp_path):
    colour, animal, act = tasks
    run_stream(config, tmp_path, TaskStream("s", [colour], unseen=[animal]))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other_rows = replace(animal, test=animal.test[:5])
    for unseen, message in (
        ([], "whose unseen tasks are animal, not none"),
        ([act], "animal, not act"),
        ([animal, act], "animal, not animal, act"),
        ([other_rows], "the same ones with other rows"),
    ):
        with pytest.raises(InputError, match=message):
            run_stream(config, tmp_path, TaskStream("s", [colour], unseen=unseen))
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert run_stream(config, tmp_path, TaskStream("s", [colour], unseen=[animal])).finished


def test_a_run_from_before_there_were_such_tasks_goes_on(config, tasks, tmp_path):
    whole = run_stream(config, tmp_path / "whole", tasks[:2])
    run_stream(config, tmp_path / "old", tasks[:1])
    state, record = (json.loads((tmp_path / "old" / name).read_text()) for name in ("state.json", "record.json"))
    del state["unseen"], state["tasks"][0]["metric"], state["checksum"]
    del record["unseen_zero_shot"], record["scored_by"], record["stages"][0]["unseen"], record["checksum"]
    del record["scored_rows"]
    (tmp_path / "old" / "state.json").write_text(json.dumps(state))
    (tmp_path / "old" / "record.json").write_text(json.dumps(record))
    again = run_stream(config, tmp_path / "old", tasks[:2])
    assert [stage.train_loss for stage in again.stages] == [stage.train_loss for stage in whole.stages]
    assert again.matrix[1] == whole.matrix[1]
    assert again.scored_rows == whole.scored_rows


def test_a_task_keeps_its_metric(config, tasks, tmp_path):
    backbone = load_backbone(config.model)
    learner = ContinualLearner(backbone.model, backbone.tokenizer, run_dir=tmp_path, config=config)
    two_words = [replace(row, answer=f"{row.answer} cat") for row in tasks[0].test]
    learner.learning.evaluator.predict = lambda examples, on_step: [row.answer.split()[0] for row in examples]
    learner.learn(replace(tasks[0], test=two_words, metric="rouge_l"))
    assert learner.record.matrix == [[pytest.approx(200 / 3)]]
    assert learner.record.scored_by == {"colour": "rouge_l"}
    assert learner.evaluate() == {"colour": learner.record.matrix[0][0]}
    assert [task.metric for task in learner.folder.tasks()] == ["rouge_l"]
    with pytest.raises(InputError, match="task 'colour' of this run had other rows"):
        learner.learn(replace(tasks[0], test=two_words))


def test_a_stream_file_lists_them(tiny_stream, tmp_path):
    (tmp_path / "elsewhere").symlink_to(tiny_stream.parent)  # a path may not leave the folder, a link in it may
    text = tiny_stream.read_text().replace("path: ", "path: elsewhere/").replace("test: ", "test: elsewhere/")
    first, *others = text.split("  - ")[1:]
    path = tmp_path / "stream.yaml"
    path.write_text(f"tasks:\n  - {first}unseen:\n" + "".join(f"  - {other}" for other in others))
    stream = TaskStream.from_yaml(path)
    assert [task.name for task in stream] == ["colour"]
    assert [task.name for task in stream.unseen] == ["animal", "act"]
    assert stream.fingerprint() != TaskStream("stream", stream).fingerprint()
    for right, wrong, message in (
        ("name: act", "name: colour", "two tasks named 'colour'"),
        (
            "name: animal",
            "nome: animal",
            r"unknown key 'unseen\[0\].nome' \(did you mean 'name'\?\); accepted: name",
        ),
        ("name: animal", "metric: rouge", r"key 'unseen\[0\].metric': Input should be 'exact_match' or 'rouge_l'"),
    ):
        broken = tmp_path / "broken.yaml"
        broken.write_text(path.read_text().replace(right, wrong))
        with pytest.raises(InputError, match=message):
            TaskStream.from_yaml(broken)
