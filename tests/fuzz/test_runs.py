"""Run folders, in the middle of a task and between tasks, of whose files one may be anything."""

import copy
import json
import shutil

import pytest
from fuzzing import attempt, changed, damaged, fuzzed, listing, other_tensors, unsealed
from hypothesis import given
from hypothesis import strategies as st

from gorp.backbones import load_backbone
from gorp.learner import ContinualLearner
from gorp.run_config import RunConfig
from gorp.run_folder import RunFolder
from gorp.tasks import TaskStream

FILES = (
    "state.json",
    "record.json",
    "config.yaml",
    "task-01-colour/test.jsonl",
    "task-01-colour/after/weights.safetensors",
    "task-01-colour/after/gradient_space.safetensors",
    "task-02-animal/step-000001/flight.json",
    "task-02-animal/step-000001/flight.safetensors",
)


class _CrashError(Exception):
    """A crash."""


@pytest.fixture(scope="module")
def backbone(tiny_models):
    return load_backbone(str(tiny_models["causal"]))


@pytest.fixture(scope="module")
def run(tmp_path_factory, backbone, tiny_stream):
    """A run that has learnt one task and stopped in the middle of the second."""
    home = tmp_path_factory.mktemp("runs")
    settings = {"model": None, "stream": None, "training": {"epochs": 1, "batch_size": 8, "save_every": 1}}
    config = RunConfig.from_mapping({**settings, "gorp": {"rank": 2}})
    learner = ContinualLearner(copy.deepcopy(backbone.model), backbone.tokenizer, run_dir=home / "valid", config=config)
    tasks = TaskStream.from_yaml(tiny_stream)
    save = learner.folder.save_flight

    def save_and_stop(task, step, content):
        save(task, step, content)
        if task == 1:
            raise _CrashError

    learner.folder.save_flight = save_and_stop
    with pytest.raises(_CrashError):
        learner.learn_stream(tasks)
    assert all((home / "valid" / name).exists() for name in FILES)
    shutil.copytree(home / "valid", home / "unsealed")
    unseal(home / "unsealed")
    return home


def unseal(folder):
    """Take away all checksums, as an earlier version or someone who means it would: what they hide is to be seen."""
    for path in folder.rglob("checksums.json"):
        path.unlink()
    for name in ("state.json", "record.json"):
        content = json.loads((folder / name).read_text())
        del content["checksum"]
        (folder / name).write_text(json.dumps(content))
    for path in folder.rglob("gradient_space.safetensors"):
        path.write_bytes(unsealed(path.read_bytes()))


def broken(run, data):
    """A copy of the run with one file changed, damaged, or gone."""
    folder = run / "run"
    shutil.rmtree(folder, ignore_errors=True)
    whole = run / data.draw(st.sampled_from(["unsealed", "unsealed", "unsealed", "valid"]))
    shutil.copytree(whole, folder)
    name = data.draw(st.sampled_from(FILES))
    content = (whole / name).read_bytes()
    if name.endswith(".json") and data.draw(st.booleans()):
        content = json.dumps(data.draw(changed(json.loads(content), most=2))).encode()
    elif name.endswith(".safetensors") and data.draw(st.booleans()):
        content = data.draw(other_tensors(content))
    elif data.draw(st.integers(0, 19)):
        content = data.draw(damaged(content, most=2))
    else:
        content = None
    (folder / name).unlink() if content is None else (folder / name).write_bytes(content)
    return folder


@fuzzed(0.05, few=10)
@given(data=st.data())
def test_run_folders(run, backbone, data):
    folder = broken(run, data)
    before = listing(run, without=folder)

    def go_on():
        RunFolder.of_run(folder)
        learner = ContinualLearner(copy.deepcopy(backbone.model), backbone.tokenizer, run_dir=folder)
        learner.record.summary()
        with RunFolder.of_run(folder).locked():
            learner._take_up_flight(learner.method.optimizer())

    attempt(go_on, folder, str(folder), "config", "key '")
    assert listing(run, without=folder) == before
