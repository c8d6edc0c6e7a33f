"""A task from a file, a folder in either benchmark layout, or the hub."""

import gzip
import json

import datasets
import pytest

from gorp.errors import InputError
from gorp.tasks import Limits, read_task

LABELS = ["World", "Sports", "Business"]


def rows(count, start=0):
    return [{"text": f"text {n}", "label": LABELS[n % 3]} for n in range(start, start + count)]


def write_lines(path, values):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.writelines(json.dumps(value) + "\n" for value in values)
    return path


def texts(examples):
    return {example.prompt for example in examples}


@pytest.fixture
def folder(tmp_path):
    """The layout of the benchmark rows: packed JSON lines and labels."""
    write_lines(tmp_path / "train.jsonl.gz", rows(60))
    write_lines(tmp_path / "test.jsonl.gz", rows(30, start=60))
    (tmp_path / "labels.json").write_text(json.dumps(LABELS))
    return tmp_path


def test_a_folder(folder):
    task = read_task(folder, name="news", instruction="Which topic?\n")
    assert (task.name, task.labels) == ("news", tuple(LABELS))
    assert (len(task.train), len(task.validation), len(task.test)) == (54, 6, 30)
    assert task.test[0].prompt == "Which topic?\nOption: World, Sports, Business \ntext 60\nAnswer:"
    assert task.test[0].answer == "World"


def test_validation_comes_from_train_and_never_from_test(folder):
    task = read_task(folder, limits=Limits(validation_rows=20))
    everything = read_task(folder, limits=Limits(validation_rows=0))
    assert len(task.validation) == 20
    assert texts(task.validation) | texts(task.train) == texts(everything.train)
    assert not texts(task.validation) & texts(task.test)
    assert everything.validation == []


def test_validation_does_not_depend_on_the_seed_or_the_limits(folder):
    first = read_task(folder, limits=Limits(validation_rows=9, seed=0))
    second = read_task(
        folder, limits=Limits(validation_rows=9, seed=1, train_rows=12, test_rows=6), name_task_in_prompt=True
    )
    assert [row.prompt[-20:] for row in first.validation] == [row.prompt[-20:] for row in second.validation]
    assert len(read_task(folder, limits=Limits(validation_rows=1000)).validation) == 30  # half of train is left


def test_limits_are_balanced_and_seeded(folder):
    task = read_task(folder, limits=Limits(train_rows=30, test_rows=9, seed=3))
    for examples, each in ((task.train, 10), (task.test, 3)):
        assert [[row.answer for row in examples].count(label) for label in LABELS] == [each] * 3
    again = read_task(folder, limits=Limits(train_rows=30, test_rows=9, seed=3))
    other = read_task(folder, limits=Limits(train_rows=30, test_rows=9, seed=4))
    assert again == task
    assert texts(other.train) != texts(task.train)


def test_the_task_is_named_in_the_prompt_only_when_asked(folder):
    assert "Dataset:" not in read_task(folder, name="agnews", kind="TC").train[0].prompt
    named = read_task(folder, name="agnews", kind="TC", name_task_in_prompt=True)
    assert named.train[0].prompt.startswith("Task:TC\nDataset:agnews\nOption: ")


def test_cl_benchmark_layout(tmp_path):
    for name, values in (("train", rows(30)), ("dev", rows(9, start=30)), ("test", rows(9, start=30))):
        (tmp_path / f"{name}.json").write_text(
            json.dumps([{"sentence": r["text"], "label": r["label"]} for r in values])
        )
    (tmp_path / "labels.json").write_text(json.dumps(LABELS))
    task = read_task(tmp_path)
    assert (len(task.train), len(task.validation), len(task.test)) == (27, 3, 9)
    (tmp_path / "test.json").unlink()
    assert read_task(tmp_path).test == task.test  # upstream, dev and test are the same file


def test_super_natural_instructions_layout(tmp_path):
    for name, first in (("train", 0), ("test", 20)):
        instances = [{"id": str(n), "input": f"in {n}", "output": [f"out {n}", "or"]} for n in range(first, first + 20)]
        (tmp_path / f"{name}.json").write_text(json.dumps({"Definition": ["Answer it."], "Instances": instances}))
    (tmp_path / "labels.json").write_text("[]")
    task = read_task(tmp_path)
    assert task.labels == ()
    assert task.test[0].prompt == "Answer it.\nin 20\nAnswer:"
    assert (task.test[0].answer, task.test[0].references) == ("out 20", ("or",))


def test_one_file_is_split_by_text(tmp_path):
    path = write_lines(tmp_path / "news.jsonl", rows(100))
    task = read_task(path)
    assert task.name == "news"
    assert task.labels == tuple(sorted(LABELS))
    assert (len(task.train), len(task.validation), len(task.test)) == (72, 8, 20)
    parts = [texts(part) for part in (task.train, task.validation, task.test)]
    assert len(set.union(*parts)) == 100
    write_lines(path, rows(100)[::-1])
    assert texts(read_task(path).test) == parts[2]


def test_a_test_file_of_its_own(tmp_path):
    train = write_lines(tmp_path / "a.jsonl", rows(20))
    test = write_lines(tmp_path / "b.jsonl", rows(5, start=50))
    task = read_task(train, test=test)
    assert [row.prompt for row in task.test] == [
        f"Option: {', '.join(sorted(LABELS))} \ntext {n}\nAnswer:" for n in range(50, 55)
    ]


def test_ready_prompts_and_conversations(tmp_path):
    path = write_lines(tmp_path / "a.jsonl", [{"prompt": f"p{n}", "completion": "c"} for n in range(10)])
    task = read_task(path, instruction="unused")
    assert task.labels == () and task.train[0].prompt.startswith("p")
    turns = [[{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": "a"}] for n in range(10)]
    path = write_lines(tmp_path / "b.jsonl", [{"messages": messages} for messages in turns])
    example = read_task(path).train[0]
    assert example.messages[0][0] == "user" and example.prompt == f"user: {example.messages[0][1]}\nassistant:"


def test_what_is_wrong_with_a_folder_is_named(folder):
    (folder / "labels.json").write_text('["World", "Sports"]')
    with pytest.raises(InputError, match=r"train\.jsonl\.gz:3: label 'Business' is not one of World, Sports"):
        read_task(folder)
    (folder / "labels.json").write_text('{"World": 0}')
    with pytest.raises(InputError, match=r"labels\.json: expected a JSON list of labels"):
        read_task(folder)
    (folder / "train.jsonl.gz").unlink()
    with pytest.raises(InputError, match=r"holds no train file; accepted: .*labels\.json; found: labels\.json, test"):
        read_task(folder)


def test_a_label_outside_the_list_in_test_is_an_error_too(folder):
    write_lines(folder / "test.jsonl.gz", [{"text": "t", "label": "Nowhere"}])
    with pytest.raises(InputError, match=r"test\.jsonl\.gz:1: label 'Nowhere'"):
        read_task(folder)


def test_too_few_rows(tmp_path):
    with pytest.raises(InputError, match="1 rows are too few"):
        read_task(write_lines(tmp_path / "a.jsonl", rows(1)))


def hub(monkeypatch, **splits):
    def load(name, config):
        if name != "org/news":
            raise FileNotFoundError(f"no {name}")
        features = datasets.Features({"text": datasets.Value("string"), "label": datasets.ClassLabel(names=LABELS)})
        return datasets.DatasetDict(
            {split: datasets.Dataset.from_list(values, features=features) for split, values in splits.items()}
        )

    monkeypatch.setattr(datasets, "load_dataset", load)


def numbered(count, start=0):
    return [{"text": f"text {n}", "label": n % 3} for n in range(start, start + count)]


def test_the_hub(monkeypatch):
    hub(monkeypatch, train=numbered(30), test=numbered(6, 30))
    task = read_task("hub:org/news", name="news")
    assert task.labels == tuple(LABELS)
    assert (len(task.train), len(task.validation), len(task.test)) == (27, 3, 6)
    assert task.test[1].answer == "Sports"


def test_unlabelled_hub_tests_give_way_to_validation(monkeypatch):
    hub(monkeypatch, train=numbered(30), validation=numbered(5, 30), test=[{"text": "x", "label": -1}])
    task = read_task("hub:org/news", name="news")
    assert (len(task.train), len(task.validation), len(task.test)) == (27, 3, 5)


def test_the_hubs_errors_are_ours(monkeypatch):
    hub(monkeypatch, test=numbered(5))
    with pytest.raises(InputError, match="hub:org/nws: could not be loaded with the datasets library"):
        read_task("hub:org/nws")
    with pytest.raises(InputError, match="hub:org/news: has no split 'train'; it has: test"):
        read_task("hub:org/news")
