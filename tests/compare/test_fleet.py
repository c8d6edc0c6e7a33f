"""The loop over cells: what is tried again, what is given back, what is stopped. No process is started."""

import subprocess
import sys
import time
from types import SimpleNamespace

import pytest

from gorp.compare import fleet, launchers
from gorp.compare.cell import GIVEN_BACK, RESULT
from gorp.compare.display import open_display
from gorp.compare.fleet import Job, run_jobs
from gorp.compare.launchers import LOG, LocalLauncher
from gorp.errors import GorpError, InputError
from gorp.preemption import Stopped
from gorp.run_config import RunConfig


class Scripted:
    """Starts nothing: the cells in a folder end with the codes given for it, in turn; they never end after the last."""

    def __init__(self, result, room=2, **codes):
        self.result, self.most, self.codes, self.running, self.stopped = result, room, codes, [], []

    def room(self):
        return self.most

    def start(self, folder):
        assert len(self.running) < self.most
        self.running.append(folder.name)
        with (folder / LOG).open("a") as log:
            print(f"words of {folder.name}", file=log)
        return Process(self, folder)


class Process:
    def __init__(self, launcher, folder):
        self.launcher, self.folder = launcher, folder

    def poll(self):
        codes = self.launcher.codes[self.folder.name]
        if not codes:
            return None
        code = codes.pop(0)
        if isinstance(code, Exception):
            raise code
        self.launcher.running.remove(self.folder.name)
        if code == 0 and self.launcher.result is not None:
            (self.folder / RESULT).write_text(self.launcher.result.model_dump_json())
        return code

    def stop(self):
        self.launcher.stopped.append(self.folder.name)

    def wait(self):
        assert self.folder.name in self.launcher.stopped


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(fleet, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(fleet, "_FIRST_PAUSE", 0.0)


@pytest.fixture
def result(results):
    return results["gorp/two-1/0"]


def jobs_in(folder, *names):
    return [Job(name, RunConfig(), folder / name) for name in names]


def test_what_fails_is_tried_again_and_bad_input_is_not(tmp_path, result):
    jobs = jobs_in(tmp_path, "good", "unlucky", "hopeless", "wrong")
    run_jobs(jobs, Scripted(result, good=[0], unlucky=[1, 0], hopeless=[1, -9], wrong=[2]))
    assert [(job.state, job.attempts) for job in jobs] == [("done", 1), ("done", 2), ("failed", 2), ("failed", 1)]
    assert jobs[2].note == "ended by signal 9; last line: words of hopeless"
    assert jobs[3].note == "words of wrong"


def test_what_is_given_back_keeps_its_retries_until_the_fifth_time(tmp_path, result, capsys):
    jobs = jobs_in(tmp_path, "moved", "cursed")
    codes = {"moved": [GIVEN_BACK, 1, GIVEN_BACK, GIVEN_BACK, GIVEN_BACK, 0], "cursed": [GIVEN_BACK] * 9}
    with open_display(jobs) as on_change:
        run_jobs(jobs, Scripted(result, **codes), on_change=on_change)
    assert [(job.state, job.attempts, job.losses) for job in jobs] == [("done", 6, 4), ("failed", 5, 5)]
    assert jobs[1].note == "given back; last line: words of cursed"
    told = capsys.readouterr().err.splitlines()
    assert "0/2 moved: waiting: given back; last line: words of moved" in told
    assert told[-1].startswith("2/2 moved: AP ")


def test_what_is_given_back_pauses_while_others_go_on(tmp_path, result, monkeypatch):
    now = [0.0]
    monkeypatch.setattr(fleet, "time", SimpleNamespace(monotonic=lambda: now[0], sleep=lambda seconds: None))
    monkeypatch.setattr(fleet, "_FIRST_PAUSE", 4.0)
    started = []

    def on_change(job):
        if job is None:
            now[0] += 1
        elif job.state == "running":
            started.append((job.key, now[0]))

    jobs = jobs_in(tmp_path, "moved", "other")
    run_jobs(jobs, Scripted(result, room=1, moved=[GIVEN_BACK, GIVEN_BACK, 0], other=[0]), on_change=on_change)
    assert started == [("moved", 0), ("other", 1), ("moved", 4), ("moved", 12)]


def test_room_that_shrinks_and_grows_is_kept_to(tmp_path, result):
    launcher = Scripted(result, room=0, one=[0], two=[0])
    jobs = jobs_in(tmp_path, "one", "two")
    seen = []

    def on_change(job):
        if job is None:
            seen.append([job.state for job in jobs])
            launcher.most = len(seen) // 2

    run_jobs(jobs, launcher, on_change=on_change)
    assert seen[:3] == [["waiting", "waiting"], ["waiting", "waiting"], ["done", "waiting"]]
    assert [job.state for job in jobs] == ["done", "done"]


def test_what_runs_is_stopped_where_the_loop_ends_early(tmp_path, result):
    launcher = Scripted(result, room=3, endless=[], lost=[InputError("node n does not see it")])
    with pytest.raises(GorpError, match="node n does not see it"):
        run_jobs(jobs_in(tmp_path, "endless", "lost"), launcher)
    assert launcher.stopped == ["endless", "lost"]


@pytest.mark.parametrize("code", [0, -15], ids=["saved", "before it listened"])
def test_a_cell_that_sigterm_stopped_goes_on_and_has_not_failed(tmp_path, code):
    job = Job("cell", RunConfig(model="t5-tiny", stream="builtin"), tmp_path / "a")
    states = []
    run_jobs(
        [job], Scripted(None, a=[code, 2]), retries=0, on_change=lambda job: states.append(job.state) if job else None
    )
    assert states == ["running", "waiting", "running", "failed"]
    assert job.note == "words of a"


@pytest.mark.parametrize("code", [0, -15])
def test_stops_use_up_no_retries(tmp_path, result, code):
    jobs = jobs_in(tmp_path, "a", "b")
    run_jobs(jobs, Scripted(None, a=[code, 1, 1, 0], b=[1, code, code, 1]), retries=1)
    assert [(job.state, job.attempts, job.failures) for job in jobs] == [("failed", 3, 2), ("failed", 4, 2)]


def test_a_result_that_is_not_the_jobs_leaves_the_others_alone(tmp_path, result):
    jobs = jobs_in(tmp_path, "a", "b")
    (tmp_path / "b").mkdir()
    launcher = Scripted(result.model_copy(update={"config": {"method": "joint"}}), room=1, a=[0], b=[1, 1])
    run_jobs(jobs, launcher)
    assert [(job.state, job.attempts) for job in jobs] == [("failed", 1), ("failed", 2)]
    assert "is of a run with other settings" in jobs[0].note


SAVES = """
import signal, sys, time
from pathlib import Path
def save(*_):
    time.sleep(0.2)
    Path('saved').touch()
    sys.exit(0)
signal.signal(signal.SIGTERM, save)
Path('ready').touch()
time.sleep(60)
"""


def test_what_ends_the_driver_lets_its_cells_save(tmp_path, monkeypatch):
    def program(command, **settings):
        return popen([sys.executable, "-c", SAVES], **{**settings, "cwd": command[-1]})

    popen = subprocess.Popen
    monkeypatch.setattr(launchers.subprocess, "Popen", program)
    jobs = [Job(name, RunConfig(model="t5-tiny", stream="builtin"), tmp_path / name) for name in ("a", "b")]

    def stopped(job):
        if job is None and all((other.folder / "ready").exists() for other in jobs):
            raise Stopped(15)

    began = time.monotonic()
    with pytest.raises(Stopped):
        run_jobs(jobs, LocalLauncher(2), on_change=stopped)
    assert all((job.folder / "saved").exists() for job in jobs)
    assert time.monotonic() - began < 50, "they were not waited for until they ended by themselves"
