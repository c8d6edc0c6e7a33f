"""Which files of a folder are tasks, and which are the test rows of one."""

import pytest

from gorp.errors import InputError
from gorp.tasks.discover import find_data


def found(folder, *files):
    for file in files:
        (folder / file).parent.mkdir(exist_ok=True)
        (folder / file).write_text("x")
    return {
        data.name: tuple(file.relative_to(folder).as_posix() for file in data.files()) for data in find_data(folder)
    }


def test_a_file_is_a_task_and_other_files_are_none(tmp_path):
    assert found(tmp_path, "b.csv", "a.jsonl.gz", "notes.txt", "labels.json", ".hidden.csv") == {
        "a": ("a.jsonl.gz",),
        "b": ("b.csv",),
    }
    assert [data.name for data in find_data(tmp_path / "b.csv")] == ["b"]


def test_train_and_test_files_are_one_task(tmp_path):
    assert found(tmp_path, "a-train.csv", "a-test.csv", "b.csv", "b_dev.csv", "c_test.csv", "d-train.csv", "d.csv") == {
        "a": ("a-train.csv", "a-test.csv"),
        "b": ("b.csv", "b_dev.csv"),
        "c_test": ("c_test.csv",),
        "d": ("d-train.csv",),
        "d.csv": ("d.csv",),
    }


def test_folders_with_train_files_are_tasks(tmp_path):
    assert found(tmp_path, "a/train.csv", "a/test.csv", "b/rows.csv", "c.csv") == {
        "a": ("a/train.csv", "a/test.csv"),
        "c": ("c.csv",),
    }
    assert [data.name for data in find_data(tmp_path / "a")] == ["a"]


def test_no_two_tasks_have_one_name(tmp_path):
    assert found(
        tmp_path, "b/train.csv", "b.csv", "c/train.csv", "c-train.csv", "c-test.csv", "d_test.csv", "d_test-train.csv"
    ) == {
        "b": ("b/train.csv",),
        "b.csv": ("b.csv",),
        "c": ("c/train.csv",),
        "c-train.csv": ("c-train.csv", "c-test.csv"),
        "d_test": ("d_test-train.csv",),
        "d_test.csv": ("d_test.csv",),
    }


def test_nothing_to_read_is_an_error(tmp_path):
    with pytest.raises(InputError, match="no such file or folder"):
        find_data(tmp_path / "none")
    with pytest.raises(InputError, match=r"holds no file of rows; accepted: .jsonl,.*; found: nothing"):
        find_data(tmp_path)
    (tmp_path / "notes.txt").write_text("x")
    with pytest.raises(InputError, match=r"found: notes.txt"):
        find_data(tmp_path)
    with pytest.raises(InputError, match=r"notes.txt: not a file that can be read; accepted: .*\.csv"):
        find_data(tmp_path / "notes.txt")
