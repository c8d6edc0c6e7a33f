"""The built-in stream, and the docstrings that it is cut from."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

import pytest

from gorp.errors import GorpError, InputError
from gorp.tasks import TaskStream, docstrings
from gorp.tasks.builtin import builtin_stream
from gorp.tasks.task import Example


@pytest.fixture(scope="module")
def stream() -> TaskStream:
    """The whole stream; the first test run of a machine takes seconds to fill the user's cache."""
    return builtin_stream()


def passage(example: Example) -> str:
    return example.prompt[slice(*example.truncatable)]


def test_five_tasks_of_400_50_and_100_rows(stream: TaskStream) -> None:
    assert [task.name for task in stream] == ["topic", "library", "section", "optional", "parameter"]
    assert {(len(task.train), len(task.validation), len(task.test)) for task in stream} == {(400, 50, 100)}


def test_no_text_is_used_twice(stream: TaskStream) -> None:
    texts = [passage(row) for task in stream for part in (task.train, task.validation, task.test) for row in part]
    assert len(set(texts)) == len(texts) == 5 * 550


def test_labels_are_equally_frequent_in_every_part(stream: TaskStream) -> None:
    for task in stream:
        if not task.labels:
            continue
        for part in (task.train, task.validation, task.test):
            counts = Counter(row.answer for row in part)
            assert set(counts) == set(task.labels)
            assert max(counts.values()) - min(counts.values()) <= (2 if part is task.validation else 0)


def test_no_free_answer_is_frequent(stream: TaskStream) -> None:
    (task,) = (task for task in stream if not task.labels)
    for part in (task.train, task.validation, task.test):
        assert max(Counter(row.answer for row in part).values()) <= 0.08 * len(part)
        assert all(row.answer in passage(row) for row in part)


def test_label_sets_differ(stream: TaskStream) -> None:
    labels = [label for task in stream for label in task.labels]
    assert len(set(labels)) == len(labels)


def test_prompts_list_the_options_and_end_with_the_cue(stream: TaskStream) -> None:
    for task in stream:
        row = task.train[0]
        assert row.prompt.endswith("\nAnswer:")
        assert (f"Option: {', '.join(task.labels)} \n" in row.prompt) == bool(task.labels)
        assert len(passage(row)) <= 260


def test_the_same_rows_every_time(stream: TaskStream) -> None:
    again = builtin_stream()
    assert [task.fingerprint() for task in again] == [task.fingerprint() for task in stream]


def test_another_seed_draws_other_training_rows_only(stream: TaskStream) -> None:
    other = builtin_stream(seed=1)
    for one, two in zip(stream, other, strict=True):
        assert one.train != two.train
        assert one.test == two.test
        assert one.validation == two.validation


def test_fewer_rows_and_too_many() -> None:
    small = builtin_stream(train_rows=10, test_rows=5, validation_rows=5)
    assert {(len(task.train), len(task.validation), len(task.test)) for task in small} == {(10, 5, 5)}
    with pytest.raises(InputError, match="rows too few: ask for fewer"):
        builtin_stream(train_rows=100_000)


def test_a_row_is_for_test_or_for_validation_whatever_is_asked_for(stream: TaskStream) -> None:
    """Settings chosen on validation rows of a smaller or larger stream have seen no test row."""
    sizes = [(5, 60), (20, 20), (100, 50), (110, 5)]
    streams = [builtin_stream(10, test, validation) for test, validation in sizes]
    for task, *others in zip(stream, *streams, strict=True):
        test = {row.prompt for other in others for row in other.test}
        validation = {row.prompt for other in others for row in other.validation}
        assert not test & validation
        for other, (test_rows, validation_rows) in zip(others, sizes, strict=True):
            assert (len(other.test), len(other.validation)) == (test_rows, validation_rows)
            assert other.test[:100] == task.test[:test_rows]
            assert other.validation[:50] == task.validation[:validation_rows]


def test_docstrings_know_where_they_stand() -> None:
    found = {d.name: d for d in docstrings.extract("networkx.utils") if d.module == "networkx.utils.union_find"}
    union = found["UnionFind.union"]
    assert (union.package, union.signature) == ("networkx", "union()")
    assert union.text.startswith("Find the sets containing the objects")


def test_sections_are_split_at_headings() -> None:
    parts = docstrings.sections("Does it.\n\nParameters\n----------\nx : int\n\nReturns\n-------\nint\n")
    assert parts == {"": "Does it.", "Parameters": "x : int", "Returns": "int"}


def test_a_cache_is_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = docstrings.load(["networkx.utils"], tmp_path)
    monkeypatch.setattr(
        docstrings, "extract", lambda package: pytest.fail("read the sources although there is a cache")
    )
    assert docstrings.load(["networkx.utils"], tmp_path) == first


@pytest.mark.parametrize(
    "damage", [lambda b: b[: len(b) // 2], lambda b: b"", lambda b: gzip.compress(b"0" * 64 + b"\n[]")]
)
def test_a_damaged_cache_is_made_again(tmp_path: Path, damage: object) -> None:
    assert callable(damage)
    first = docstrings.load(["networkx.utils"], tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(damage(whole))
    assert docstrings.load(["networkx.utils"], tmp_path) == first
    assert [path.name for path in tmp_path.iterdir()] == [file.name]
    assert gzip.decompress(file.read_bytes()) == gzip.decompress(whole)


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    assert docstrings.load(["networkx.utils"], tmp_path / "file")


def test_a_missing_library_is_named() -> None:
    with pytest.raises(GorpError, match="no_such_library, which is not installed"):
        docstrings.load(["no_such_library"])
