"""Cells are processes: they are run side by side, resumed after any end, and kept apart."""

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from gorp.cli.main import main
from gorp.compare import COMPARES, LOCK
from gorp.compare.comparison import Comparison
from gorp.compare.experiment import Experiment
from gorp.compare.fleet import raise_for_failures
from gorp.compare.launchers import LocalLauncher
from gorp.compare.results import CellResult, Tuning, keep, read_results, stream_name, without_paths
from gorp.errors import GorpError, InputError
from gorp.files import locked
from gorp.preemption import Stopped
from gorp.report.record import Matrix
from gorp.run import run_stream

SOURCES = str(Path(__file__).parents[2] / "src")


@pytest.fixture
def file(tiny_models, tiny_stream, tmp_path):
    path = tmp_path / "mine.yaml"
    experiment = {
        "base": {
            "model": str(tiny_models["causal"]),
            "stream": str(tiny_stream),
            "training": {"epochs": 1, "batch_size": 4},
            "lora": {"rank": 2},
            "data": {"train_rows": 8, "test_rows": 3, "validation_rows": 4},
        },
        "cells": {
            "seq": {"method": "seq-lora", "grid": {"training.lr": [1e-3, 1e-2]}},
            "fixed": {"method": "seq-lora"},
            "wrong": {"method": "seq-lora", "lora": {"targets": ["nothing"]}},
        },
        "tuning": {"data": {"train_rows": 4}},
        "against": "seq",
    }
    path.write_text(yaml.safe_dump(experiment))
    return path


@pytest.fixture(autouse=True)
def sources_of_this_checkout(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", SOURCES)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.mark.slow
def test_a_failure_stays_with_its_cell_and_settings_are_chosen_on_validation_rows(file, tmp_path):
    comparison = Comparison(Experiment.read(file), tmp_path / "out", only=["seq", "wrong"])
    changes = []
    comparison.run(LocalLauncher(2), on_change=lambda job: changes.append(job and (job.key, job.state)))
    with pytest.raises(GorpError, match=r"1 of 4 cells failed \(wrong/.*/0: .*'nothing' matches no linear layer"):
        raise_for_failures(comparison.jobs)
    ((key, result),) = read_results(tmp_path / "out" / "results.json").items()
    assert key.startswith("seq/") and result.cell == "seq"
    assert result.config["evaluation"]["split"] == "test"
    assert [choice for choice, _ in result.tuning.tried] == [{"training.lr": 1e-3}, {"training.lr": 1e-2}]
    best = max(result.tuning.tried, key=lambda tried: tried[1])
    assert result.tuning.chosen == best[0] and result.config["training"]["lr"] == best[0]["training.lr"]
    assert result.tuning.conditions == {"data.train_rows": 4, "evaluation.split": "validation"}
    for tried in (tmp_path / "out" / "tuning" / "seq").glob("*/result.json"):
        config = json.loads(tried.read_text())["config"]
        assert config["evaluation"]["split"] == "validation" and config["data"]["train_rows"] == 4
    assert result.peak_memory_bytes > 10**8 and result.seconds["train"] > 0 and result.environment["torch"]
    states = [state for job, state in filter(None, changes) if job.startswith("wrong/")]
    assert states == ["waiting", "running", "failed"], "bad input is not tried again"
    for setting, message in (
        ("training.epochs=2", "was run with training.epochs = 1, not 2"),
        ("model=t5-tiny", "not 't5-tiny'"),
    ):
        others = Comparison(Experiment.read(file), tmp_path / "out", [setting], only=["seq"]).jobs
        assert all(job.state == "failed" and message in job.note for job in others)
    for setting, message in (
        ("options.share=1", r"unknown key 'options\.share'"),
        ("training.lr=1", r"--set training\.lr=1: is what a grid chooses"),
    ):
        with pytest.raises(InputError, match=message):
            Comparison(Experiment.read(file), tmp_path / "out", [setting], only=["seq"])


@pytest.mark.slow
def test_what_is_kept_elsewhere_is_not_run_again(file, tmp_path):
    experiment = Experiment.read(file)
    first = Comparison(experiment, tmp_path / "first", only=["seq", "fixed"])
    first.run(LocalLauncher(2))
    kept = read_results(tmp_path / "first" / "results.json")
    assert len(kept) == 2
    for result in kept.values():  # as of a version that did not have the setting yet
        del result.config["training"]["weight_decay"]
    again = Comparison(experiment, tmp_path / "again", only=["seq", "fixed"], kept=kept)
    found = {}
    again.run(
        LocalLauncher(),
        on_change=lambda job: pytest.fail(f"{job} was run") if job and job.attempts else None,
        on_result=found.update,
    )
    assert found == {}, "what was only read is not written back"
    assert read_results(tmp_path / "again" / "results.json") == kept
    other = Comparison(experiment, tmp_path / "other", ["training.epochs=2"], only=["seq", "fixed"], kept=kept)
    assert len(other.jobs) == 2, "with other settings the grid is tried anew"
    tuned = experiment.model_copy(update={"tuning": {"data": {"train_rows": 5}}})
    assert len(Comparison(tuned, tmp_path / "tuned", only=["seq"], kept=kept).jobs) == 2, "or tried otherwise"
    grid = {"seq": {**experiment.cells["seq"], "grid": {"training.lr": [1e-4, 1e-3, 1e-2]}}}
    wider = Experiment.model_validate({**experiment.model_dump(), "cells": {**experiment.cells, **grid}})
    extended = Comparison(wider, tmp_path / "wider", only=["seq"], kept=kept)
    assert [job.key for job in extended.jobs] == ['tuning seq {"training.lr": 0.0001}'], "only what is new is tried"
    extended.run(LocalLauncher(), on_result=found.update)
    ((_, result),) = found.items()
    assert [choice["training.lr"] for choice, _ in result.tuning.tried] == [1e-4, 1e-3, 1e-2]
    for change in ({"training.lr": 1e-3, "gorp.energy": 0.5}, {"training.lr": 1e-3, "lora.rank": 1}):
        (fixed,) = [result for result in kept.values() if result.cell == "fixed"]
        (cell,) = experiment.plan(["fixed"])
        config = experiment.config(cell, [f"{key}={value}" for key, value in change.items()])
        assert fixed.was_made_with(config) == ("lora.rank" not in change), "what it does not read is no setting of it"
    gone = fixed.model_copy(update={"config": {**fixed.config, "gone": 1}})
    assert not gone.was_made_with(experiment.config(cell))


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_ended_with_its_children_it_goes_on(file, tmp_path, number):
    out = tmp_path / "out"
    command = [sys.executable, "-m", "gorp", "compare", str(file), "--out", str(out), "--only", "fixed"]
    started = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    while not list(out.glob("cells/fixed/*/0/state.json")):
        assert started.poll() is None, started.stderr.read()
        time.sleep(0.05)
    with pytest.raises(GorpError, match=rf"process {started.pid} compares there"), locked(out / LOCK, COMPARES):
        pass
    children = _children(started.pid)
    os.kill(started.pid, number)
    _, said = started.communicate()
    if number == signal.SIGTERM:
        assert (started.returncode, said.splitlines()[-1]) == (0, f"gorp: {Stopped(number)}")
        (log,) = out.glob("cells/fixed/*/0/cell.log")
        assert log.read_text().splitlines()[-1] == f"gorp: {Stopped(number)}"
    deadline = time.monotonic() + 20
    while any(Path(f"/proc/{child}/cmdline").exists() for child in children) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(Path(f"/proc/{child}/cmdline").exists() for child in children)
    again = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert again.returncode == 0, again.stderr
    (resumed,) = read_results(out / "results.json").values()
    experiment = Experiment.read(file)
    (cell,) = experiment.plan(["fixed"])
    assert resumed.matrix == run_stream(experiment.config(cell), tmp_path / "whole").matrix
    assert (out / "comparison.html").exists() and "page: " in again.stdout


def finished(experiment: Experiment, name: str, settings: Sequence[str] = (), **changes: Any) -> CellResult:
    """A result of a cell that nobody ran."""
    (cell,) = experiment.plan([name])
    config = experiment.config(cell, settings)
    matrix: Matrix = [[60.0, 0.0], [50.0, 70.0]]
    return CellResult(
        cell=name, method=config.method, stream=stream_name(cell.stream), seed=0, tasks=["colour", "animal"],
        zero_shot=[0.0, 0.0], matrix=matrix, summary={"AP": 60.0, "BWT": -10.0},
        config=without_paths(config.model_dump(mode="json")), environment={}, **changes,
    )  # fmt: skip


def test_results_of_other_settings_are_left_out_and_named(file, tmp_path, capsys):
    experiment, out = Experiment.read(file), tmp_path / "out"
    tuning = Tuning(tried=[({"training.lr": 1e-3}, 1.0), ({"training.lr": 1e-2}, 2.0)], chosen={"training.lr": 1e-2})
    fixed, seq = finished(experiment, "fixed"), finished(experiment, "seq", ["training.lr=1e-2"], tuning=tuning)
    keys = {cell.name: cell.key for cell in experiment.plan()}
    gone = fixed.model_copy(update={"cell": "gone"})
    keep(out / "results.json", {keys["fixed"]: fixed, keys["seq"]: seq, "gone/builtin/0": gone})
    assert Comparison(experiment, out).results() == ({keys["fixed"]: fixed, keys["seq"]: seq}, [])
    assert Comparison(experiment, out, ["training.epochs=2"]).results() == ({}, [keys["fixed"], keys["seq"]])
    file.write_text(file.read_text().replace("0.01", "0.02"))
    assert Comparison(Experiment.read(file), out).results() == ({keys["fixed"]: fixed}, [keys["seq"]])
    (out / "cells" / keys["fixed"]).mkdir(parents=True)
    (out / "cells" / keys["fixed"] / "result.json").write_text(fixed.model_dump_json())
    with pytest.raises(SystemExit) as ended:
        main(["compare", str(file), "--out", str(out), "--only", "fixed"])
    assert not ended.value.code
    said = capsys.readouterr()
    assert f"left out, for they were run with other settings: {keys['seq']}" in said.err and " seq " not in said.out


def test_of_a_grid_the_choice_that_is_made_now_is_shown(file, tmp_path):
    """Also where what a grid had chosen is given, and where a grown grid chooses otherwise."""
    experiment, out = Experiment.read(file), tmp_path / "out"
    tuning = Tuning(tried=[({"training.lr": 1e-3}, 2.0), ({"training.lr": 1e-2}, 1.0)], chosen={"training.lr": 1e-3})
    result, (cell,) = finished(experiment, "seq", ["training.lr=1e-3"], tuning=tuning), experiment.plan(["seq"])
    keep(out / "results.json", {cell.key: result})
    comparison = Comparison(experiment, out, only=["seq"])
    assert comparison.results() == ({cell.key: result}, [])
    for job, score in zip(comparison.tuning_jobs["seq"], (1.0, 2.0), strict=True):
        job.state, job.result = "done", result.model_copy(update={"summary": {"AP": score}})
    assert comparison.results() == ({}, [cell.key])
    given = {**experiment.cells, "seq": {"method": "seq-lora", "training": {"lr": 1e-3}}}
    fixed = experiment.model_copy(update={"cells": given})
    fixed.__dict__.pop("_keys", None)
    assert Comparison(fixed, out, only=["seq"]).results() == ({cell.key: result}, [])


def test_results_that_cannot_stand_beside_others_stay_with_their_cell(file, tmp_path):
    experiment, out = Experiment.read(file), tmp_path / "out"
    (cell,) = experiment.plan(["fixed"])
    mine = finished(experiment, "fixed")
    other = mine.model_copy(update={"cell": "gone", "tasks": ["another"], "matrix": [[1.0]], "zero_shot": [None]})
    keep(out / "results.json", {"gone/t/0": other})
    comparison = Comparison(experiment, out, only=["fixed"], kept={cell.key: mine})
    comparison.run(LocalLauncher())
    with pytest.raises(
        GorpError, match=r"1 of 1 cells failed .* with other tasks; remove one of them.* stands in .*cells"
    ):
        raise_for_failures(comparison.jobs)
    assert list(read_results(out / "results.json")) == ["gone/t/0"]


def test_a_finished_cell_of_other_settings_is_not_taken_for_this_one(file, tmp_path):
    experiment = Experiment.read(file)
    (cell,) = experiment.plan(["fixed"])
    folder = tmp_path / "out" / "cells" / cell.key
    folder.mkdir(parents=True)
    (folder / "result.json").write_text(finished(experiment, "fixed").model_dump_json())
    comparison = Comparison(experiment, tmp_path / "out", ["training.epochs=2"], only=["fixed"])
    comparison.run(LocalLauncher())
    with pytest.raises(GorpError, match=r"result\.json: is of a run with other settings"):
        raise_for_failures(comparison.jobs)


def test_what_one_choice_gives_is_set_nowhere_else(file, tmp_path):
    file.write_text(file.read_text().replace("- 0.01", ""))
    with pytest.raises(InputError, match=r"--set training\.lr=1: is what a grid chooses"):
        Comparison(Experiment.read(file), tmp_path / "out", ["training.lr=1"])
    comparison = Comparison(Experiment.read(file), tmp_path / "out", only=["seq"])
    assert comparison.configs["seq"].training.lr == 1e-3 and not comparison.tuning_jobs


def test_a_choice_of_long_lists_has_a_folder(file, tmp_path):
    content = yaml.safe_load(file.read_text())
    many = [[f"layer.{number}.attention.{side}" for number in range(40)] for side in ("q", "k")]
    content["cells"]["seq"]["grid"] = {"lora.targets": many}
    file.write_text(yaml.safe_dump(content))
    folders = [job.folder.name for job in Comparison(Experiment.read(file), tmp_path, only=["seq"]).jobs]
    assert len(set(folders)) == 2 and max(map(len, folders)) < 200
    content["cells"]["seq"]["grid"] = {"lora.targets": [["q_proj"], ["*q_proj*"], ["q|proj"]]}
    file.write_text(yaml.safe_dump(content))
    folders = [job.folder.name for job in Comparison(Experiment.read(file), tmp_path, only=["seq"]).jobs]
    assert len(set(folders)) == 3


def test_where_no_try_has_a_score_the_other_cells_go_on(file, tmp_path):
    experiment = Experiment.read(file)
    (cell,) = experiment.plan(["fixed"])
    comparison = Comparison(experiment, tmp_path, only=["seq", "fixed"], kept={cell.key: finished(experiment, "fixed")})
    for job, score in zip(comparison.tuning_jobs["seq"], (None, math.nan), strict=True):
        unscored = finished(experiment, "seq").model_copy(update={"summary": {"AP": score}})
        job.state, job.result = "done", unscored
    comparison.run(LocalLauncher())
    assert list(read_results(tmp_path / "results.json")) == [cell.key]
    with pytest.raises(GorpError, match=r"2 of 3 cells failed .*no task has validation rows to choose by"):
        raise_for_failures(comparison.jobs)


def test_the_cell_to_compare_with_is_one_of_the_cells(file, tmp_path, capsys):
    experiment = Experiment.read(file)
    (cell,) = experiment.plan(["fixed"])
    keep(tmp_path / "kept.json", {cell.key: finished(experiment, "fixed")})
    for arguments, message in (
        (
            [str(file), "--against", "sek"],
            r"--against sek: no such cell \(did you mean 'seq'\?\); accepted: fixed, seq,",
        ),
        ([str(tmp_path / "kept.json"), "--against", "seq"], r"--against seq: no such cell; accepted: fixed"),
        ([str(tmp_path / "kept.json"), "--seeds", "9"], r"--seeds: is for an experiment's cells"),
        ([str(tmp_path / "kept.json"), "--set", "a=1", "--workers", "2"], r"--workers: is for an experiment's cells"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["compare", *arguments, "--out", str(tmp_path / "out")])
        assert ended.value.code == InputError.exit_code
        assert re.search(message, " ".join(capsys.readouterr().err.split()))


def test_what_is_for_ray_is_refused_without_it(file, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "gorp.compare.ray_launcher", raising=False)
    for options, message in (
        (["--launcher", "ray"], r"--launcher ray needs ray \(.*\): pip install gorp-cl\[ray\]"),
        (["--gpus-per-cell", "0.5"], r"--gpus-per-cell 0\.5: is for cells on Ray; add --launcher ray"),
        (["--address", "here:1"], r"--address here:1: is for cells on Ray"),
    ):
        with pytest.raises(SystemExit) as ended:
            main(["compare", str(file), "--out", str(tmp_path / "out"), *options])
        assert ended.value.code == InputError.exit_code
        assert re.search(message, " ".join(capsys.readouterr().err.split()))


def _children(parent: int) -> list[int]:
    found = []
    for status in Path("/proc").glob("[0-9]*/stat"):
        fields = status.read_text().rpartition(")")[2].split()
        if int(fields[1]) == parent:
            found.append(int(status.parent.name))
    return found
