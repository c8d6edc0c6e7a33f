"""A run that is ended at any instant and started again comes to the identical record."""

import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gorp.encoding import answer_loss
from gorp.progress import SilentProgress
from gorp.report.record import RunRecord
from gorp.run import run_stream
from gorp.run_config import RunConfig
from gorp.run_setup import load_stream
from gorp.space import GradientSpace
from gorp.tasks import TaskStream


def settings(tiny_models, tiny_stream, method, kind="causal", **gorp):
    return RunConfig.from_mapping(
        {
            "method": method,
            "model": str(tiny_models[kind]),
            "stream": str(tiny_stream),
            "training": {"epochs": 1, "lr": 0.01, "save_every": 2, "batch_size": 4, "schedule": "linear"},
            "lora": {"rank": 2, "dropout": 0.1},
            "gorp": {"rank": 2, "refresh_every": 2, "damping": 0.3, **gorp},
            "data": {"train_rows": 18, "test_rows": 3, "validation_rows": 4},
        }
    )


class Killed(BaseException):
    """Nothing in gorp catches this: what is on the disk stays as it is at that instant."""


class Fuse:
    """Lets so many files be renamed or made durable, then ends the process, before or after the last of them."""

    def __init__(self, monkeypatch):
        self.left, self.burnt = 0, 0
        for name in ("replace", "fsync"):
            monkeypatch.setattr(os, name, self._counting(getattr(os, name)))

    def _counting(self, operation):
        def counted(*args):
            self.left -= 1
            if self.left == 0:
                self.burnt += 1
                if self.burnt % 2:
                    operation(*args)
                raise Killed
            return operation(*args)

        return counted


@pytest.mark.parametrize(
    ("method", "gorp"),
    [("gorp", {}), ("gorp", {"projection": "random", "share_inputs": True}), ("inc-lora", {}), ("joint", {})],
)
def test_ended_again_and_again(tiny_models, tiny_stream, tmp_path, monkeypatch, method, gorp):
    config = settings(tiny_models, tiny_stream, method, **gorp)
    colour, animal, act = load_stream(config)
    tasks = TaskStream("two of three", [colour, animal], unseen=[act])
    whole = run_stream(config, tmp_path / "whole", tasks)
    fuse, generator = Fuse(monkeypatch), random.Random(method)
    record = None
    while record is None:
        fuse.left = generator.randint(1, 40)  # up to the 33 that making tasks known takes
        try:
            record = run_stream(config, tmp_path / "ended", tasks)
        except Killed:
            continue
    fuse.left = 0
    assert fuse.burnt >= 5
    assert record.comparable() == whole.comparable()
    assert RunRecord.load(tmp_path / "ended").comparable() == whole.comparable()
    for name in ("weights", "method", "inputs"):
        files = [
            folder / f"task-02-animal/after/{name}.safetensors" for folder in (tmp_path / "whole", tmp_path / "ended")
        ]
        assert files[0].read_bytes() == files[1].read_bytes()
    if method == "gorp":
        spaces = [GradientSpace.load(tmp_path / run / "gradient_space.safetensors") for run in ("whole", "ended")]
        for name, layer in spaces[0].layers.items():
            assert torch.equal(layer.basis, spaces[1].layers[name].basis)
    leftovers = [path for path in (tmp_path / "ended").rglob("*") if "unfinished" in path.name or "step-" in path.name]
    assert not leftovers


class Ends(SilentProgress):
    """Ends the process after three steps of the first task."""

    def training_step(self, step, loss=None):
        if step == 3:
            raise Killed


def test_skipped_refreshes_are_counted_across_a_resume(tiny_models, tiny_stream, tmp_path, monkeypatch):
    config = settings(tiny_models, tiny_stream, "gorp")
    tasks = load_stream(config)[:1]
    monkeypatch.setattr("gorp.training.answer_loss", lambda logits, labels: answer_loss(logits, labels) * 0)
    whole = run_stream(config, tmp_path / "whole", tasks)
    assert whole.stages[0].skipped_refreshes > 0
    with pytest.raises(Killed):
        run_stream(config, tmp_path / "ended", tasks, Ends())
    assert run_stream(config, tmp_path / "ended", tasks).comparable() == whole.comparable()


KILLS = r"""
import os, signal, sys
import gorp.tensor_file
from gorp.run import run_stream
from gorp.progress import SilentProgress
from gorp.run_config import RunConfig
from gorp.run_setup import load_stream

config, folder = RunConfig.from_yaml(sys.argv[1]), sys.argv[2]
tasks = load_stream(config)[:2]

def kill():
    os.kill(os.getpid(), signal.SIGKILL)

class InATask(SilentProgress):
    stage = None
    def stage_started(self, index, task, steps):
        self.stage = index
    def training_step(self, step, loss=None):
        if (self.stage, step) == (1, 3):
            kill()

class BetweenTasks(SilentProgress):
    def stage_finished(self, index, task, scores, seconds):
        if index == 0:
            kill()

class WhileSaving(SilentProgress):
    def stage_started(self, index, task, steps):
        if index == 1:
            save_file = gorp.tensor_file.save_file
            def half(tensors, path, metadata):
                save_file(tensors, path, metadata)
                os.truncate(path, os.path.getsize(path) // 2)
                kill()
            gorp.tensor_file.save_file = half

for point in (InATask, BetweenTasks, WhileSaving):
    child = os.fork()
    if child == 0:
        run_stream(config, f"{folder}/{point.__name__}", tasks, point())
        os._exit(0)
    _, status = os.waitpid(child, 0)
    print(point.__name__, os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_kill_9(tiny_models, tiny_stream, tmp_path):
    config = settings(tiny_models, tiny_stream, "gorp", "seq2seq")
    (tmp_path / "run.yaml").write_text(config.to_yaml())
    tasks = load_stream(config)[:2]
    whole = run_stream(config, tmp_path / "whole", tasks)
    killed = subprocess.run(
        [sys.executable, "-c", KILLS, tmp_path / "run.yaml", tmp_path],
        env={
            **os.environ,
            "OMP_NUM_THREADS": str(torch.get_num_threads()),
            "PYTHONPATH": str(Path(__file__).parents[1] / "src"),
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert killed.stdout.splitlines() == ["InATask True", "BetweenTasks True", "WhileSaving True"], killed.stderr
    for point in ("InATask", "BetweenTasks", "WhileSaving"):
        assert run_stream(config, tmp_path / point, tasks).comparable() == whole.comparable(), point
