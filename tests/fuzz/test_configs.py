"""Run configurations, experiments and stream files that may be anything."""

import json

import pytest
import yaml
from fuzzing import VALUES, attempt, changed, damaged, fuzzed, listing
from hypothesis import given
from hypothesis import strategies as st

from gorp.compare.experiment import Experiment
from gorp.run_config import RunConfig
from gorp.run_setup import load_stream, settle_options
from gorp.tasks import TaskStream

CONFIG = {
    "method": "replay",
    "model": "t5-tiny",
    "stream": "stream.yaml",
    "seed": 1,
    "report_to": [],
    "training": {"epochs": 2, "lr": 0.001, "schedule": "linear", "precision": "fp32", "group_by_length": True},
    "data": {"train_rows": 4, "validation_rows": 1, "name_task_in_prompt": True},
    "evaluation": {"split": "test", "answers": "generated"},
    "lora": {"rank": 4, "targets": ["q"]},
    "gorp": {"variant": "exact", "lora_targets": ["q"], "rank": 2, "energy": 0.9, "damping": 0.0, "memory": "features"},
    "options": {"capacity": 3},
}
EXPERIMENT = {
    "about": "what?",
    "base": {"model": "t5-tiny", "training": {"epochs": 1}},
    "cells": {"gorp": {"grid": {"training.lr": [0.1, 0.2]}}, "joint": {"method": "joint", "streams": ["a", "b/c"]}},
    "streams": ["stream.yaml"],
    "seeds": [0, 1],
    "tuning": {"data": {"train_rows": 5}},
    "against": "gorp",
}
STREAM = {
    "name": "desk",
    "validation_rows": 2,
    "seed": 0,
    "tasks": [
        {"name": "topic", "path": "rows.jsonl", "labels": ["x", "y"], "instruction": "Which?", "list_options": True},
        {"path": "rows.csv", "columns": {"text": "text"}, "metric": "exact_match", "test": "rows.jsonl"},
        {"path": "folder"},
    ],
    "unseen": [{"name": "other", "path": "rows.jsonl", "labels": []}],
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder of data, beside it a file that nothing in it may reach."""
    home = tmp_path_factory.mktemp("configs") / "home"
    (home / "folder").mkdir(parents=True)
    rows = [{"text": f"text {number}", "label": "xy"[number % 2]} for number in range(20)]
    for path in (home / "rows.jsonl", home / "folder" / "train.jsonl", home.parent / "secret.jsonl"):
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (home / "folder" / "labels.json").write_text('["x", "y"]')
    (home / "rows.csv").write_text("text,label\n" + "".join(f"{row['text']},{row['label']}\n" for row in rows))
    for name, valid in (("stream", STREAM), ("config", CONFIG), ("experiment", EXPERIMENT)):
        (home / f"{name}.yaml").write_text(yaml.safe_dump(valid))
    assert len(load_stream(RunConfig.from_yaml(home / "config.yaml"))) == 3  # near the valid, that is
    assert len(Experiment.read(home / "experiment.yaml").plan()) == 6
    return home


def texts(valid):
    """YAML near a valid file, and far from it."""
    whole = st.one_of(changed(valid), changed(valid), VALUES)
    dumped = whole.map(lambda content: yaml.safe_dump(content, sort_keys=False).encode())
    as_json = whole.map(lambda content: json.dumps(content).encode())
    return st.one_of(dumped, as_json, damaged(yaml.safe_dump(valid).encode()))


@fuzzed(0.125, few=60)
@given(text=texts(CONFIG))
def test_run_configurations(home, text):
    file = home / "config.yaml"
    file.write_bytes(text)
    before = listing(home.parent, without=file)

    def read():
        config = settle_options(RunConfig.from_yaml(file))
        assert RunConfig.from_mapping(yaml.safe_load(config.to_yaml())) == config
        return config

    config = attempt(read, None, "config.yaml", "key 'options")
    if config is not None and config.stream != "builtin":
        attempt(lambda: load_stream(config), None, "stream", "needs its data", "rows", "folder")
    assert listing(home.parent, without=file) == before


@fuzzed(0.1, few=40)
@given(text=texts(EXPERIMENT))
def test_experiments(home, text):
    file = home / "experiment.yaml"
    file.write_bytes(text)

    def read():
        experiment = Experiment.read(file)
        for cell in experiment.plan()[:6]:
            assert (home / "cells" / cell.key).resolve().is_relative_to(home / "cells")
            experiment.config(cell)
            experiment.config(cell, tuning=True)

    attempt(read, None, "experiment")


@fuzzed(0.125, few=60)
@given(text=texts(STREAM))
def test_stream_files(home, text):
    file = home / "desk.yaml"
    file.write_bytes(text)

    def read():
        stream = TaskStream.from_yaml(file)
        return stream, stream.fingerprint()

    named = ("desk", "rows", "folder", "stream", str(home), "columns: ", "hub:", "built-in task", "GORP_DATA")
    attempt(read, None, *named)
