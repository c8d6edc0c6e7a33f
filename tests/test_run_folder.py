import json
import os
import shutil
from dataclasses import replace

import pytest
import torch

from gorp.errors import GorpError, InputError
from gorp.report.record import RunRecord, Stage
from gorp.run_config import RunConfig
from gorp.run_folder import RunFolder, task_folder
from gorp.space import GradientSpace
from gorp.stage_files import StageFiles
from gorp.tasks import Example, Task

ROW = Example("p\u2028é\0 Answer:", "a", (0, 1), ("b",), (("user", "hello"),))
TASKS = [Task("one", [ROW], [], [ROW, replace(ROW, options=("a",))], ("a", "b")), Task("t/w o", [], [ROW], [ROW])]
FILES = StageFiles({"w": torch.ones(2)}, {"m": torch.zeros(1)}, GradientSpace(), {"layer": torch.ones(3, 2)})


def new_record(**fields):
    return RunRecord(name="x", method="gorp", model="m", stream="s", tasks=[], **fields)


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with folder.locked():
        folder.start("base", RunConfig(), new_record())
    return folder


def add_tasks(folder):
    record = folder.record()
    record.tasks = ["one", "t/w o"]
    record.zero_shot = [1.0, None]
    folder.add_tasks(TASKS, record)


def finish_stage(folder, index=0):
    record = folder.record()
    record.stages = [*record.stages, Stage(index=index, task="x", scores=[1.0, 2.0])]
    folder.finish_stage(record, FILES)


def test_a_run_is_read_back(folder):
    add_tasks(folder)
    folder.save_flight(0, 5, {"step": 5})
    finish_stage(folder)
    again = RunFolder.of_run(folder.path)
    assert again.state == folder.state
    assert again.config() == RunConfig()
    assert [(task.name, task.validation, task.test, task.labels) for task in again.tasks()] == [
        (task.name, task.validation, task.test, task.labels) for task in TASKS
    ]
    assert again.flight() is None
    files = again.stage_files()
    assert torch.equal(files.weights["w"], torch.ones(2))
    assert files.space is not None
    assert torch.equal(again.inputs()["one"]["layer"], torch.ones(3, 2))
    assert len(again.record().stages) == 1
    assert (folder.path / "gradient_space.safetensors").exists()
    assert [path.name for path in (folder.path / "task-01-one").iterdir() if path.is_dir()] == ["after"]


def test_a_later_flight_replaces_the_earlier(folder):
    add_tasks(folder)
    folder.save_flight(0, 5, {"step": 5})
    folder.save_flight(0, 10, {"step": 10, "t": torch.ones(1)})
    assert RunFolder(folder.path).flight()["step"] == 10
    assert [path.name for path in (folder.path / "task-01-one").glob("step-*")] == ["step-000010"]


def test_the_record_never_says_more_than_the_state(folder):
    add_tasks(folder)
    state = (folder.path / "state.json").read_text()
    finish_stage(folder)
    (folder.path / "state.json").write_text(state)
    assert RunFolder(folder.path).record().stages == []
    assert RunFolder(folder.path).record().tasks == ["one", "t/w o"]


def test_files_that_a_crash_left_without_a_name_are_removed(folder):
    add_tasks(folder)
    for name in (".state.json.x1.tmp", "task-01-one/.test.jsonl.x2.tmp", ".gradient_space.safetensors.tmp"):
        (folder.path / name).write_text("")
    with folder.locked():
        assert not list(folder.path.rglob("*.tmp"))


def test_only_one_process_works_on_a_run(folder):
    with (
        folder.locked(),
        pytest.raises(GorpError, match=r"process \d+ works on this run"),
        RunFolder(folder.path).locked(),
    ):
        pass
    (folder.path / "run.lock").write_text("999999\n")  # left by a process that died
    with folder.locked():
        pass


def test_a_run_that_went_on_elsewhere_is_noticed(folder):
    other = RunFolder(folder.path)
    add_tasks(folder)
    with pytest.raises(GorpError, match="another process has gone on with this run"), other.locked():
        pass


def test_a_full_disk_keeps_what_was_saved(folder, monkeypatch):
    add_tasks(folder)
    folder.save_flight(0, 5, {"step": 5})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("gorp.tensor_file.save_file", full)
    with pytest.raises(GorpError, match=r"step-000010: .*No space left on device"):
        folder.save_flight(0, 10, {"step": 10, "t": torch.ones(1)})
    monkeypatch.undo()
    assert RunFolder(folder.path).flight() == {"step": 5}


def test_files_are_for_whom_the_umask_says(folder):
    add_tasks(folder)
    folder.save_flight(0, 5, {"t": torch.ones(1)})
    before = os.umask(0o027)
    try:
        folder.save_flight(0, 10, {"t": torch.ones(1)})
    finally:
        os.umask(before)
    assert {file.stat().st_mode & 0o777 for file in folder.path.glob("*/step-*/*")} == {0o640}


def test_strange_names_make_plain_folders():
    assert task_folder(0, "a/../b c") == "task-01-a_.._b_c"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"state.json:1: not valid JSON"),
        (json.dumps({"format_version": 9}), r"state.json: key 'format_version' is 9; this gorp reads 1"),
        (json.dumps({"format_version": 1, "tasks": []}), r"state.json: key 'base_model': Field required"),
    ],
)
def test_a_damaged_state_is_named(folder, content, message):
    (folder.path / "state.json").write_text(content)
    with pytest.raises(InputError, match=message):
        RunFolder(folder.path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("after", "../elsewhere"),
        ("after", "task-01-one/../../elsewhere/after"),
        ("after", "/etc/after"),
        ("flight", ".."),
        ("flight", "task-01-one/step-000001/../../.."),
        ("stages", 3),
        ("stages", -1),
        ("tasks", [{"name": "one", "fingerprint": "x", "labels": "ab"}]),
        ("tasks", [{"name": "one", "fingerprint": "x", "labels": [], "metric": "luck"}]),
        ("unseen", {}),
    ],
)
def test_a_state_that_leads_elsewhere_or_contradicts_itself_is_refused(folder, key, value):
    add_tasks(folder)
    path = folder.path / "state.json"
    state = json.loads(path.read_text())
    del state["checksum"]  # as in a folder of an earlier version
    path.write_text(json.dumps({**state, key: value}))
    with pytest.raises(InputError, match=rf"state.json: (key '{key}.*'|stages is 3, of 2 tasks).*the file is damaged"):
        RunFolder(folder.path)


@pytest.mark.parametrize("name", ["run.lock", ".gradient_space.safetensors.tmp", "task-03-x", "task-01-one/step-1"])
def test_a_link_leads_nothing_out_of_the_folder(folder, name, tmp_path):
    add_tasks(folder)
    finish_stage(folder)
    outside = tmp_path / "outside"
    (outside / "step-1").mkdir(parents=True)
    (folder.path / "run.lock").unlink()
    (folder.path / "gradient_space.safetensors").unlink()
    (folder.path / name).symlink_to(outside if "task" in name else outside / "file")
    with pytest.raises(InputError, match=f"{name}: is a link"), RunFolder(folder.path).locked():
        pass
    assert [path.name for path in outside.iterdir()] == ["step-1"]


def test_damaged_rows_are_named(folder):
    add_tasks(folder)
    path = folder.path / "task-01-one" / "test.jsonl"
    path.write_text(path.read_text() + "{}\n")
    path.with_name("checksums.json").unlink()
    with pytest.raises(InputError, match=r"test.jsonl:3: not a row of a run"):
        folder.tasks()


def test_no_run_is_named(tmp_path):
    with pytest.raises(InputError, match="no run here"):
        RunFolder.of_run(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file; a run needs a folder"):
        RunFolder(tmp_path / "file")


def flip_a_bit(path, byte):
    content = bytearray(path.read_bytes())
    content[byte] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(
    ("name", "read"),
    [
        ("config.yaml", RunFolder.config),
        ("record.json", RunFolder.record),
        ("task-01-one/test.jsonl", RunFolder.tasks),
        ("task-01-one/step-000005/flight.json", RunFolder.flight),
        ("task-01-one/step-000005/flight.safetensors", RunFolder.flight),
        ("task-01-one/step-000005/checksums.json", RunFolder.flight),
        ("task-01-one/after/weights.safetensors", RunFolder.stage_files),
        ("task-01-one/after/method.safetensors", RunFolder.stage_files),
        ("task-01-one/after/gradient_space.safetensors", RunFolder.stage_files),
        ("task-01-one/after/inputs.safetensors", RunFolder.inputs),
    ],
)
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_flipped_bit_is_noticed_in_every_file_of_a_run(folder, name, read, share):
    add_tasks(folder)
    folder.save_flight(0, 5, {"step": 5, "t": torch.ones(3)})
    if "after" in name:
        finish_stage(folder)
    path = folder.path / name
    read(RunFolder(folder.path))
    flip_a_bit(path, int(share * path.stat().st_size))
    with pytest.raises(InputError, match=path.name.replace(".", r"\.")) as error:
        read(RunFolder(folder.path))
    assert str(path.parent) in str(error.value)


@pytest.mark.parametrize("byte", [5, 40, 200, -5])
def test_a_flipped_bit_is_noticed_in_the_state(folder, byte):
    add_tasks(folder)
    flip_a_bit(folder.path / "state.json", byte)
    with pytest.raises(InputError, match=r"state\.json"):
        RunFolder(folder.path)


def test_a_damaged_flight_may_be_deleted(folder):
    add_tasks(folder)
    folder.save_flight(0, 5, {"step": 5})
    flight = folder.path / "task-01-one" / "step-000005"
    (flight / "flight.json").write_text("")
    with pytest.raises(InputError, match=r"flight\.json: is damaged.*or delete .*step-000005: its task then begins"):
        folder.flight()
    shutil.rmtree(flight)
    assert folder.flight() is None


@pytest.mark.parametrize(
    ("name", "read"),
    [("gradient_space.safetensors", RunFolder.stage_files), ("inputs.safetensors", RunFolder.inputs)],
)
def test_a_file_of_a_stage_that_is_gone_is_missed(folder, name, read):
    add_tasks(folder)
    finish_stage(folder)
    (folder.path / "task-01-one" / "after" / name).unlink()
    with pytest.raises(InputError, match=f"after/{name}: no such file"):
        read(folder)


def test_files_without_checksums_are_read(folder):
    add_tasks(folder)
    finish_stage(folder)
    for path in folder.path.rglob("checksums.json"):
        path.unlink()
    for name in ("state.json", "record.json"):
        content = json.loads((folder.path / name).read_text())
        del content["checksum"]
        (folder.path / name).write_text(json.dumps(content))
    again = RunFolder(folder.path)
    assert (again.config(), again.record(), len(again.tasks())) == (folder.config(), folder.record(), 2)
    assert again.stage_files() is not None
