"""Signals end a command well: a training in flight at the end of its step, anything else at once."""

import os
import signal
import threading

import pytest

from gorp.cli.main import main
from gorp.preemption import Stopped, asked, stopped_by, until_the_step_ends
from gorp.progress import SilentProgress
from gorp.run import run_stream
from gorp.run_config import RunConfig
from gorp.run_folder import RunFolder


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.parametrize(
    ("number", "code", "said"),
    [(signal.SIGTERM, 0, "stopped by SIGTERM; what was saved stands"), (signal.SIGINT, 130, "interrupted; what was")],
)
def test_a_signal_ends_at_once_what_does_not_wait(number, code, said):
    before = signal.getsignal(number)

    @stopped_by(number)
    def command():
        send(number)
        pytest.fail("went on")

    with pytest.raises(Stopped, match=said) as stop:
        command()
    assert stop.value.exit_code == code
    assert signal.getsignal(number) is before
    assert asked() is None, "the next command begins anew"


def test_a_step_is_made_to_its_end():
    done = []

    @stopped_by(signal.SIGTERM)
    @until_the_step_ends()
    def step():
        send(signal.SIGTERM)
        send(signal.SIGTERM)
        assert asked().exit_code == 0
        done.append("step")

    with pytest.raises(Stopped):
        step()
    assert done == ["step"]


def test_a_second_ctrl_c_does_not_wait():
    @stopped_by(signal.SIGINT)
    @until_the_step_ends()
    def step():
        send(signal.SIGINT)
        assert asked().exit_code == 130
        send(signal.SIGINT)
        pytest.fail("waited")

    with pytest.raises(Stopped):
        step()


def test_other_threads_and_ignored_signals_are_left_alone():
    handlers = []

    def listen():
        with stopped_by(signal.SIGTERM):
            handlers.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGTERM)]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with stopped_by(signal.SIGINT):
            send(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


class Signals(SilentProgress):
    """Sends a signal at a step of a stage, or when that stage's task is scored."""

    def __init__(self, number, stage, step=None):
        self.number, self.stage, self.step, self.now = number, stage, step, -1

    def stage_started(self, index, task, steps):
        self.now = index

    def training_step(self, step, loss=None):
        if (self.now, step) == (self.stage, self.step):
            send(self.number)

    def task_evaluated(self, task, score):
        if self.now == self.stage and self.step is None:
            send(self.number)


@pytest.mark.parametrize(("step", "flight"), [(2, "task-02-animal/step-000002"), (None, "task-02-animal/step-000003")])
def test_a_command_that_is_stopped_goes_on_to_the_identical_run(
    tiny_models, tiny_stream, tmp_path, monkeypatch, capsys, step, flight
):
    config = RunConfig.from_mapping(
        {
            "model": str(tiny_models["causal"]),
            "stream": str(tiny_stream),
            "training": {"epochs": 1, "lr": 0.01, "save_every": 1000, "batch_size": 4},
            "gorp": {"rank": 2, "refresh_every": 2},
            "data": {"train_rows": 12, "test_rows": 2, "validation_rows": 2},
        }
    )
    (tmp_path / "run.yaml").write_text(config.to_yaml())
    whole = run_stream(config, tmp_path / "whole")
    arguments = ["run", str(tmp_path / "run.yaml"), "--out", str(tmp_path / "stopped"), "--quiet"]
    monkeypatch.setattr("gorp.cli.shared.open_progress", lambda quiet: Signals(signal.SIGTERM, 1, step))
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    printed = capsys.readouterr()
    assert (stop.value.code, printed.out) == (0, "")
    assert printed.err == "gorp: stopped by SIGTERM; what was saved stands, and the same command goes on from there\n"
    folder = RunFolder(tmp_path / "stopped")
    assert (folder.state.stages, folder.state.flight) == (1, flight)
    monkeypatch.undo()
    assert run_stream(config, tmp_path / "stopped").comparable() == whole.comparable()
    for name in ("weights", "inputs"):
        last = f"task-03-act/after/{name}.safetensors"
        assert (tmp_path / "stopped" / last).read_bytes() == (tmp_path / "whole" / last).read_bytes()
