"""Cells on a Ray cluster of two nodes on this machine: spread, given back, killed with who asked for them, resumed."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from gorp.cli.main import main
from gorp.compare.experiment import Experiment
from gorp.compare.fleet import Job, run_jobs
from gorp.compare.results import CellResult, read_results
from gorp.errors import InputError
from gorp.run import run_stream
from gorp.run_config import RunConfig

pytest.importorskip("ray", reason="needs pip install gorp-cl[ray]")

from ray.cluster_utils import Cluster

from gorp.compare.ray_launcher import open_ray

SOURCES = str(Path(__file__).parents[2] / "src")

# Stands for `python -m gorp.compare.cell FOLDER` where it is on the path, and does what the next line of script says.
PLAYER = """
import os, sys, time
from pathlib import Path

if sys.orig_argv[1:3] == ["-m", "gorp.compare.cell"]:
    folder = Path(sys.orig_argv[3])
    with (folder / "attempts").open("a") as file:
        print(os.getpid(), os.environ["RAY_RAYLET_PID"], file=file)
    number = len((folder / "attempts").read_text().splitlines())
    act, *rest = (folder / "script").read_text().splitlines()[number - 1].split()
    print(*(os.environ[name] for name in ("GORP_DATA", "OMP_NUM_THREADS")), os.getcwd(), flush=True)
    while act == "meet" and not (folder.parent / rest[0] / "attempts").exists():
        time.sleep(0.05)
    if act == "endless":
        os.read(0, 1)
        os._exit(75)
    if act == "exit":
        os._exit(int(rest[0]))
    (folder / "result.json").write_text((folder / "told.json").read_text())
    os._exit(0)
"""


@pytest.fixture(scope="module")
def cluster():
    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        head = {"num_cpus": 1, "include_dashboard": False, "include_log_monitor": False, "_system_config": quick}
        started = Cluster(initialize_head=True, head_node_args=head)
        started.add_node(num_cpus=1)
        yield started
        started.shutdown()


@pytest.fixture(autouse=True)
def sources_of_this_checkout(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", SOURCES)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


@pytest.fixture
def play(tmp_path, monkeypatch, results):
    """Makes jobs whose cells play a script: what each does in its first attempt, its second, ..."""
    (tmp_path / "player").mkdir()
    (tmp_path / "player" / "sitecustomize.py").write_text(PLAYER)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "player"), SOURCES]))
    monkeypatch.setenv("GORP_DATA", "/where/data/is")

    def make(**scripts):
        jobs = [Job(name, RunConfig(), tmp_path / "cells" / name) for name in scripts]
        for job in jobs:
            job.folder.mkdir(parents=True)
            (job.folder / "script").write_text("\n".join(scripts[job.key]))
            (job.folder / "told.json").write_text(results["gorp/two-1/0"].model_dump_json())
        return jobs

    return make


def attempts(job):
    """By attempt: the number of the cell's process, and of its node's."""
    path = job.folder / "attempts"
    return [tuple(map(int, line.split())) for line in path.read_text().splitlines()] if path.exists() else []


def runs(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def wait_until(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def number(node):
    return node.all_processes["raylet"][0].process.pid


def test_cells_are_spread_and_what_fails_is_tried_again(cluster, play, monkeypatch):
    jobs = play(one=["meet two"], two=["meet one"], unlucky=["exit 1", "finish"], wrong=["exit 2"])
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    with open_ray() as launcher:
        assert launcher.room() == 2
        run_jobs(jobs, launcher)
    assert {node for job in jobs[:2] for _, node in attempts(job)} == {
        number(node) for node in cluster.list_all_nodes()
    }
    assert [(job.state, job.attempts, job.losses) for job in jobs] == [
        ("done", 1, 0),
        ("done", 1, 0),
        ("done", 2, 0),
        ("failed", 1, 0),
    ]
    assert jobs[3].note == f"/where/data/is 1 {os.getcwd()}"
    assert not list(jobs[0].folder.glob(".*")), "no token is left"


def test_a_node_that_dies_gives_its_cell_back(cluster, play):
    nodes = {number(node): node for node in (cluster.add_node(num_cpus=1, num_gpus=1) for _ in range(2))}
    (job,) = play(moved=["endless", "finish"])

    def kill_its_node(changed):
        if changed is None and len(nodes) == 2 and attempts(job):
            ((_, on),) = attempts(job)
            cluster.remove_node(nodes.pop(on), allow_graceful=False)

    try:
        with open_ray(cluster.address) as launcher:
            assert launcher.room() == 2, "a cell takes a GPU where there are any"
            run_jobs([job], launcher, retries=0, on_change=kill_its_node)
            assert launcher.room() == 1
    finally:
        for node in nodes.values():
            cluster.remove_node(node)
    assert (job.state, job.attempts, job.losses) == ("done", 2, 1)
    (lost, first), (_, second) = attempts(job)
    assert second in nodes and first not in nodes
    assert not runs(lost), "it does not go on behind the other's back"
    assert "Error: " in (job.folder / "cell.log").read_text().splitlines()[1], "why is told in its log"


@pytest.mark.slow
def test_cells_end_with_the_loop_that_is_interrupted(cluster, play):
    jobs = play(one=["endless"], two=["endless"], three=["finish"])

    def interrupt(job):
        if job is None and all(attempts(job) for job in jobs[:2]):
            raise KeyboardInterrupt

    with open_ray(cluster.address, workers=9) as launcher, pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, launcher, on_change=interrupt)
    assert [job.state for job in jobs] == ["running", "running", "waiting"]
    assert not any(runs(process) for job in jobs for process, _ in attempts(job))


def test_a_folder_that_a_node_does_not_see_is_refused(cluster, play, monkeypatch):
    with open_ray(cluster.address, workers=1) as launcher:
        assert launcher.room() == 1
        jobs = play(one=["finish"])
        monkeypatch.setattr(Path, "touch", lambda path: None)
        with pytest.raises(InputError, match=r"node .* does not see .*/one: --out must be in a file system that all"):
            run_jobs(jobs, launcher)
    assert not attempts(jobs[0])


def test_a_cluster_without_room_for_a_cell_is_refused(cluster):
    with (
        pytest.raises(InputError, match=r"no node has 2 CPUs and 0\.5 GPUs for a cell; .*: 1 and 0; 1 and 0$"),
        open_ray(cluster.address, cpus=2, gpus=0.5),
    ):
        pass


@pytest.mark.slow
def test_without_an_address_this_machine_is_the_cluster(play):
    (job,) = play(one=["finish"])
    with open_ray() as launcher:
        assert launcher.room() == os.cpu_count()
        run_jobs([job], launcher)
    assert job.state == "done"


def test_an_address_where_no_cluster_answers_is_named():
    for address in ("127.0.0.1:9", "[::1]:9", "127.0.0.1:99999", "nonsense"):
        with (
            pytest.raises(InputError, match=rf"--address {re.escape(address)}: no Ray cluster answers \("),
            open_ray(address),
        ):
            pass


@pytest.fixture
def experiment(tiny_models, tiny_stream, tmp_path):
    path = tmp_path / "mine.yaml"
    base = {
        "method": "seq-lora",
        "model": str(tiny_models["causal"]),
        "stream": str(tiny_stream),
        "training": {"epochs": 1, "batch_size": 4},
        "data": {"train_rows": 8, "test_rows": 3, "validation_rows": 4},
    }
    path.write_text(yaml.safe_dump({"base": base, "cells": {"small": {"lora": {"rank": 2}}, "large": {}}}))
    return path


@pytest.mark.slow
def test_a_comparison_goes_on_after_a_kill_and_equals_a_whole_run(cluster, experiment, tmp_path, capsys):
    out = tmp_path / "out"
    command = ["compare", str(experiment), "--launcher", "ray", "--address", cluster.address, "--out", str(out)]
    started = subprocess.Popen([sys.executable, "-m", "gorp", *command], stderr=subprocess.PIPE, text=True)
    while not list(out.glob("cells/*/*/0/state.json")):
        assert started.poll() is None, started.stderr.read()
        time.sleep(0.05)
    with pytest.raises(SystemExit) as ended:
        main(command)
    assert ended.value.code == 1
    assert f"process {started.pid} compares there; wait for it" in " ".join(capsys.readouterr().err.split())
    assert cells_in(out)
    os.kill(started.pid, signal.SIGKILL)
    started.communicate()
    wait_until(lambda: not cells_in(out))
    with pytest.raises(SystemExit) as ended:
        main([*command, "--quiet"])
    assert not ended.value.code
    found, declared = read_results(out / "results.json"), Experiment.read(experiment)
    assert [cell.key for cell in declared.plan()] == list(found)
    for cell in declared.plan():
        record = run_stream(declared.config(cell), tmp_path / "whole" / cell.name)
        assert kept(found[cell.key]) == kept(CellResult.of(record, cell.name, None))


def kept(result):
    """What was found, but for what time, memory, place and name make differ."""
    values = json.loads(result.model_dump_json(exclude={"seconds", "peak_memory_bytes", "environment"}))
    return {**values, "config": {**values["config"], "name": None}}


def cells_in(folder):
    """The processes of cells in a folder."""
    lines = (read(path) for path in Path("/proc").glob("[0-9]*/cmdline"))
    return [line for line in lines if "gorp.compare.cell" in line and str(folder) in line]


def read(path):
    try:
        return path.read_text()
    except OSError:  # it has ended since
        return ""
