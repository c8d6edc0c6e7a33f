import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from gorp import checkpoint
from gorp.checksums import verify_folder
from gorp.errors import GorpError, InputError

STATE = {
    "step": 3,
    "rate": 0.1,
    "nothing": None,
    "flag": True,
    "name": "x",
    "pair": (1, torch.arange(3)),
    "state": {0: {"exp_avg": torch.ones(2, 2, dtype=torch.bfloat16)}, 1: {}},
    "groups": [{"params": [0, 1], "betas": (0.9, 0.999)}],
    "empty": torch.zeros(0, 4),
}


def test_nested_states_come_back_as_they_were(tmp_path):
    checkpoint.save_state(tmp_path, "flight", STATE)
    loaded = checkpoint.load_state(tmp_path, "flight")
    assert list(loaded) == list(STATE)
    assert loaded["groups"] == STATE["groups"]
    assert loaded["pair"][0] == 1
    assert torch.equal(loaded["pair"][1], STATE["pair"][1])
    assert torch.equal(loaded["state"][0]["exp_avg"], STATE["state"][0]["exp_avg"])
    assert loaded["empty"].shape == (0, 4)
    assert all(loaded[key] == STATE[key] for key in ("step", "rate", "nothing", "flag", "name"))


def test_what_is_neither_tensor_nor_plain_is_refused(tmp_path):
    with pytest.raises(TypeError, match="not set"):
        checkpoint.save_state(tmp_path, "flight", {"a": {1, 2}})


def test_tensors_that_share_memory_are_saved_apart(tmp_path):
    whole = torch.arange(4.0)
    checkpoint.save_tensors(tmp_path / "x.safetensors", {"a": whole, "b": whole, "c": whole[:2]})
    loaded = checkpoint.load_tensors(tmp_path / "x.safetensors")
    assert torch.equal(loaded["b"], whole)
    assert torch.equal(loaded["c"], whole[:2])


def test_damaged_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"x.safetensors: no such file"):
        checkpoint.load_tensors(tmp_path / "x.safetensors")
    (tmp_path / "x.safetensors").write_bytes(b"\x10garbage")
    with pytest.raises(InputError, match=r"x.safetensors: not a readable safetensors file"):
        checkpoint.load_tensors(tmp_path / "x.safetensors")
    (tmp_path / "x.json").write_text('{"a": 1,\n')
    with pytest.raises(InputError, match=r"x.json:2: not valid JSON"):
        checkpoint.read_json(tmp_path / "x.json")


def test_another_version_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoint, "FORMAT_VERSION", 2)
    checkpoint.save_state(tmp_path, "flight", {})
    monkeypatch.undo()
    with pytest.raises(InputError, match=r"flight.json: key 'format_version' is 2; this gorp reads 1"):
        checkpoint.load_state(tmp_path, "flight")
    with pytest.raises(InputError, match=r"format_version is '2'; this gorp reads '1'"):
        checkpoint.load_tensors(tmp_path / "flight.safetensors")


def test_a_folder_appears_whole(tmp_path):
    unfinished = tmp_path / "unfinished"
    unfinished.mkdir()
    (unfinished / "new").write_text("new")
    final = tmp_path / "final"
    final.mkdir()
    (final / "old").write_text("old")
    checkpoint.publish_folder(unfinished, final)
    assert sorted(path.name for path in final.iterdir()) == ["checksums.json", "new"]
    assert not unfinished.exists()


def old_and_new(tmp_path):
    """A folder, and one that is to take its place."""
    for name in ("final", "unfinished"):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_text(name)
    return tmp_path / "unfinished", tmp_path / "final"


def whole(tmp_path):
    """What is in the folder, its checksums right; nothing is beside it but what was to take its place."""
    verify_folder(tmp_path / "final")
    assert {path.name for path in tmp_path.iterdir()} <= {"final", "unfinished"}
    return [path.name for path in (tmp_path / "final").iterdir() if path.name != "checksums.json"]


@pytest.mark.parametrize("after", [0, 1])
def test_a_folder_is_replaced_or_stays(tmp_path, monkeypatch, after):
    """Where the kernel cannot exchange two names."""
    unfinished, final = old_and_new(tmp_path)
    rename, renamed = os.replace, []

    def replace(*names):
        renamed.append(names)
        if len(renamed) == after + 1:
            raise OSError(16, "Device or resource busy")
        rename(*names)

    monkeypatch.setattr("gorp.files._exchange", lambda *_: False)
    monkeypatch.setattr("os.replace", replace)
    with pytest.raises(GorpError, match="busy"):
        checkpoint.publish_folder(unfinished, final)
    assert whole(tmp_path) == ["final"]
    (unfinished / "checksums.json").unlink()
    checkpoint.publish_folder(unfinished, final)
    assert whole(tmp_path) == ["unfinished"]


def test_a_full_disk_is_an_error_of_ours(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    (tmp_path / "unfinished").mkdir()
    with pytest.raises(GorpError, match=r"cannot write .*final: No space left on device"):
        checkpoint.publish_folder(tmp_path / "unfinished", tmp_path / "final")


def test_random_states_go_on_where_they_were(tmp_path):
    def draw():
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    checkpoint.seed_everything(3, 1)
    np.random.randn()  # leaves half a pair behind
    checkpoint.save_state(tmp_path, "random", checkpoint.random_state())
    first = draw()
    checkpoint.set_random_state(checkpoint.load_state(tmp_path, "random"))
    assert draw() == first
    checkpoint.seed_everything(3, 2)
    assert draw() != first


def test_fingerprints_tell_models_apart():
    torch.manual_seed(0)
    model = torch.nn.Linear(300, 300)
    first = checkpoint.model_fingerprint(model)
    assert first == checkpoint.model_fingerprint(model)
    with torch.no_grad():
        model.weight[0, 0] += 1
    assert first != checkpoint.model_fingerprint(model)
    assert first != checkpoint.model_fingerprint(model.bfloat16())


@pytest.mark.parametrize("error", [InputError("a sketch of an earlier version"), KeyError("a"), RuntimeError("a\n b")])
def test_what_does_not_fit_names_the_run(error):
    said = r"^runs/desk: (a sketch|what is saved of the task in flight does not fit)"
    with pytest.raises(InputError, match=said), checkpoint.fitting(Path("runs/desk"), "task in flight"):
        raise error
