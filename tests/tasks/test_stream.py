"""Streams: sequences with a fingerprint, by name or from a YAML file whose every key is checked."""

import dataclasses
import json

import pytest

from gorp.errors import InputError
from gorp.tasks import Example, Task, TaskStream


def example(text, answer="A"):
    return Example(f"{text}\nAnswer:", answer, (0, len(text)))


def task(name="one", **parts):
    rows = {"train": [example("a")], "validation": [example("b")], "test": [example("c")], **parts}
    return Task(name, **rows, labels=("A", "B"))


@pytest.fixture
def folder(tmp_path):
    for name in ("news", "mail"):
        rows = [{"text": f"{name} {n}", "label": "AB"[n % 2]} for n in range(40)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def write(folder, text):
    path = folder / "desk.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_stream_is_a_sequence():
    stream = TaskStream("s", [task("one"), task("two")])
    assert len(stream) == 2 and stream[1].name == "two" and [t.name for t in stream[:1]] == ["one"]
    assert repr(stream) == "TaskStream('s', ['one', 'two'])"


def test_empty_and_ambiguous_streams_are_errors():
    with pytest.raises(InputError, match="has no tasks"):
        TaskStream("s", [])
    with pytest.raises(InputError, match="two tasks named 'one'"):
        TaskStream("s", [task("one"), task("one")])


def test_the_fingerprint_tells_streams_apart():
    base = TaskStream("s", [task("one"), task("two")]).fingerprint()
    assert base == TaskStream("another name", [task("one"), task("two")]).fingerprint()
    assert base != TaskStream("s", [task("two"), task("one")]).fingerprint()
    assert base != TaskStream("s", [task("one")]).fingerprint()
    changes = [
        {"train": [example("other")]},
        {"train": [example("a", "B")]},
        {"validation": []},
        {"test": [example("c"), example("d")]},
        {"train": [], "validation": [example("a"), example("b")]},
        {"train": [dataclasses.replace(example("a"), truncatable=(0, 0))]},
        {"train": [dataclasses.replace(example("a"), references=("B",))]},
        {"train": [dataclasses.replace(example("a"), messages=(("user", "a"),))]},
    ]
    seen = {TaskStream("s", [task("one", **change), task("two")]).fingerprint() for change in changes}
    assert len(seen) == len(changes) and base not in seen


def test_a_yaml_file_of_tasks(folder):
    path = write(
        folder,
        """
        name: help-desk
        train_rows: 10
        tasks:
          - {name: topic, path: news.jsonl, labels: [B, A], instruction: "Which?"}
          - {path: mail.jsonl, test: news.jsonl}
        """,
    )
    stream = TaskStream.from_yaml(path)
    assert (stream.name, [t.name for t in stream]) == ("help-desk", ["topic", "mail"])
    assert stream[0].train[0].prompt.startswith("Which?\nOption: B, A \nnews ")
    assert (len(stream[0].train), len(stream[0].test), len(stream[1].test)) == (10, 8, 40)


def test_arguments_win_over_the_file(folder):
    path = write(folder, "seed: 1\ntrain_rows: 10\ntasks: [{path: news.jsonl}]")
    stream = TaskStream.from_yaml(path, train_rows=6, test_rows=4, validation_rows=2, name_task_in_prompt=True)
    assert stream.name == "desk"
    assert (len(stream[0].train), len(stream[0].validation), len(stream[0].test)) == (6, 2, 4)
    assert stream[0].train[0].prompt.startswith("Task:news\nDataset:news\n")
    assert TaskStream.from_yaml(path).fingerprint() != TaskStream.from_yaml(path, seed=2).fingerprint()


def test_a_yaml_file_that_names_a_benchmark(folder, monkeypatch):
    for name in ("dbpedia", "amazon", "yahoo", "agnews"):
        (folder / "rows" / name).mkdir(parents=True)
        (folder / "rows" / name / "train.jsonl").write_text((folder / "news.jsonl").read_text())
    monkeypatch.delenv("GORP_DATA", raising=False)
    path = write(folder, "benchmark: standard-cl/2\ndata: rows\ntest_rows: 2")
    stream = TaskStream.from_yaml(path)
    assert (stream.name, [t.name for t in stream]) == ("standard-cl/2", ["dbpedia", "amazon", "agnews", "yahoo"])
    assert len(stream[0].test) == 2


def test_names_of_streams():
    with pytest.raises(
        InputError, match=r"no stream 'long/7' \(did you mean 'long/\d'\?\); accepted: builtin, standard-cl/1"
    ):
        TaskStream.from_name("long/7")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", ": is empty; expected keys such as name and tasks"),
        ("[1]", ": expected keys and values, found list"),
        ("name: a\ntasks: [{path: news.jsonl", ":2: not valid YAML"),
        ("stream: a.yaml", ": is a run's configuration; accepted: the stream file that its key 'stream' names"),
        ("name: a", ": needs either tasks, a list that is not empty, or benchmark, a name"),
        ("tasks: []", ": needs either tasks"),
        ("tasks: [{path: news.jsonl}]\nbenchmark: long/4", ": needs either tasks"),
        (
            "task: [{path: news.jsonl}]",
            ": unknown key 'task' (did you mean 'tasks'?); accepted: name, tasks, benchmark",
        ),
        (
            "tasks: [{path: news.jsonl, lables: [A]}]",
            ": unknown key 'tasks[0].lables' (did you mean 'labels'?); accepted: name,",
        ),
        ("tasks: [{name: a}]", ": key 'tasks[0]': needs exactly one of path, hub and builtin, has none"),
        (
            "tasks: [{path: a, hub: b}]",
            ": key 'tasks[0]': needs exactly one of path, hub and builtin, has path and hub",
        ),
        (
            "tasks: [{path: a, labels: [yes, no]}]",
            ": key 'tasks[0].labels[0]': Input should be a valid string, found True; put it in quotes (and 1 more)",
        ),
        (
            "tasks: [{builtin: topic, labels: [x]}]",
            ": key 'tasks[0]': a built-in task is as it is, and takes no labels",
        ),
        (
            "tasks: [{path: news.jsonl}]\ndata: here",
            ": data is the folder of a benchmark's data, and there is no benchmark",
        ),
        ("tasks: [{path: ../a.jsonl}]", ": key 'tasks[0].path': '../a.jsonl' leaves the folder of the file"),
        ("tasks: [{path: a, test: /a.jsonl}]", ": key 'tasks[0].test': '/a.jsonl' leaves the folder"),
        ("unseen: [{path: a/../../b}]\ntasks: [{path: a}]", ": key 'unseen[0].path': 'a/../../b' leaves the folder"),
        ("benchmark: long/4\ndata: 'C:\\data'", r": key 'data': 'C:\\data' leaves the folder"),
        ("tasks: [{path: a, passage: '('}]", ": key 'tasks[0].passage': not a regular expression"),
        (
            "train_rows: 0\ntasks: [{path: news.jsonl}]",
            ": key 'train_rows': Input should be greater than or equal to 1, found 0",
        ),
    ],
)
def test_what_is_wrong_with_a_stream_file_is_named(folder, text, message):
    path = write(folder, text)
    with pytest.raises(InputError) as error:
        TaskStream.from_yaml(path)
    assert str(error.value).startswith(f"{path}{message}")


def test_unreadable_stream_files(folder):
    with pytest.raises(InputError, match=r"none\.yaml: no such stream file"):
        TaskStream.from_yaml(folder / "none.yaml")
    (folder / "latin.yaml").write_bytes(b"name: caf\xe9\n")
    with pytest.raises(InputError, match=r"latin\.yaml: byte 9 is not UTF-8"):
        TaskStream.from_yaml(folder / "latin.yaml")
    with pytest.raises(InputError, match=r"cannot be read"):
        TaskStream.from_yaml(folder)


def test_missing_data_of_a_task_is_named(folder):
    with pytest.raises(InputError, match=r"gone\.jsonl: no such file"):
        TaskStream.from_yaml(write(folder, "tasks: [{path: gone.jsonl}]"))
    with pytest.raises(InputError, match=r"news\.jsonl:2: label 'B' is not one of A, C"):
        TaskStream.from_yaml(write(folder, "tasks: [{path: news.jsonl, labels: [A, C]}]"))


def test_built_in_tasks_come_from_the_built_in_stream(folder, monkeypatch):
    made = []

    def builtin_stream(**wanted):
        made.append(wanted)
        return TaskStream("builtin", [task("library"), task("topic")])

    monkeypatch.setattr("gorp.tasks.builtin.builtin_stream", builtin_stream)
    assert [t.name for t in TaskStream.from_name("builtin", train_rows=7)] == ["library", "topic"]
    assert made == [{"train_rows": 7, "seed": 0}]
    assert TaskStream.from_yaml(write(folder, "tasks: [{builtin: topic}]"))[0].name == "topic"
    with pytest.raises(
        InputError, match=r"no built-in task 'topics' \(did you mean 'topic'\?\); accepted: library, topic"
    ):
        TaskStream.from_yaml(write(folder, "tasks: [{builtin: topics}]"))
