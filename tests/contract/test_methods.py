"""What every method promises, whatever it does: it learns, it is resumed, it is taken up again, it says what it is."""

import pytest
from safetensors import deserialize

from gorp.errors import GorpError, InputError
from gorp.learner import ContinualLearner
from gorp.methods import METHODS, load_method
from gorp.progress import SilentProgress
from gorp.run import learner_of, run_stream
from gorp.run_config import RunConfig
from gorp.run_folder import RunFolder
from gorp.run_setup import load_base, load_stream

NEEDS = {"galore": "galore_torch"}  # packages that gorp does without


def settings(tiny_models, tiny_stream, method, kind):
    return RunConfig.from_mapping(
        {
            "method": method,
            "model": str(tiny_models[kind]),
            "stream": str(tiny_stream),
            "training": {"epochs": 1, "lr": 0.01, "save_every": 2, "batch_size": 4},
            "lora": {"rank": 2},
            "gorp": {"rank": 2, "refresh_every": 2},
            "data": {"train_rows": 16, "test_rows": 5, "validation_rows": 4},
        }
    )


class Stopped(BaseException):
    pass


class StopsInATask(SilentProgress):
    """Ends the run, once, after the third step of a stage, the second being saved."""

    def __init__(self, index):
        self.index = index

    def stage_started(self, index, task, steps):
        self.stage = index

    def training_step(self, step, loss=None):
        if (self.stage, step) == (self.index, 3):
            self.index = None
            raise Stopped


def left_by(run):
    """All tensors of the last stage, byte for byte: weights, what the method keeps, the space, held-out inputs."""
    folder = RunFolder.of_run(run)
    files = (folder.path / folder.state.after).glob("*.safetensors")
    return {file.name: dict(deserialize(file.read_bytes())) for file in files}


@pytest.mark.parametrize("kind", ["seq2seq", "causal", "encoder"])
@pytest.mark.parametrize("name", METHODS)
def test_interrupted_or_not_it_comes_to_the_same_and_scores_the_same_on_another_day(
    tiny_models, tiny_stream, tmp_path, name, kind
):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name], reason=f"pip install gorp-cl[{name}]")
    config = settings(tiny_models, tiny_stream, name, kind)
    tasks = load_stream(config)[:2]
    whole = run_stream(config, tmp_path / "whole", tasks)
    learner = learner_of(config, tmp_path / "stopped", StopsInATask(whole.stages[-1].index))
    if any(stage.steps for stage in whole.stages):
        with pytest.raises(Stopped):
            learner.learn_stream(tasks)
    if kind == "seq2seq":  # the same learner, as in a notebook; else a new process would make a new one
        learner.learn_stream(tasks)
    else:
        run_stream(config, tmp_path / "stopped", tasks)
    assert RunFolder.of_run(tmp_path / "stopped").record().comparable() == whole.comparable()
    assert left_by(tmp_path / "stopped") == left_by(tmp_path / "whole")
    learner = ContinualLearner.of_run(tmp_path / "whole")
    scores = learner.evaluate()
    assert list(scores.values()) == whole.stages[-1].scores
    assert len(whole.stages) == (1 if learner.method.learns_jointly else 2)


def test_a_learner_whose_training_was_broken_off_unsaved_begins_the_task_again(tiny_models, tiny_stream, tmp_path):
    config = settings(tiny_models, tiny_stream, "gorp", "seq2seq")
    config.training.save_every = 200
    tasks = load_stream(config)[:2]
    whole = run_stream(config, tmp_path / "whole", tasks)
    learner = learner_of(config, tmp_path / "stopped", StopsInATask(1))
    with pytest.raises(Stopped):
        learner.learn_stream(tasks)
    learner.learn_stream(tasks)
    assert learner.record.comparable() == whole.comparable()
    assert left_by(tmp_path / "stopped") == left_by(tmp_path / "whole")


def test_without_a_reload_it_asks_for_a_learner_of(tiny_models, tiny_stream, tmp_path):
    config = settings(tiny_models, tiny_stream, "gorp", "seq2seq")
    tasks, base = load_stream(config)[:2], load_base(config)
    learner = ContinualLearner(
        base.model, base.tokenizer, run_dir=tmp_path / "run", config=config, progress=StopsInATask(1)
    )
    with pytest.raises(Stopped):
        learner.learn_stream(tasks)
    for once_more in (lambda: learner.learn_stream(tasks), learner.evaluate):
        with pytest.raises(GorpError, match=r"a training was broken off.*make a new learner on the folder"):
            once_more()
    assert run_stream(config, tmp_path / "run", tasks).finished


@pytest.mark.parametrize("name", METHODS)
def test_it_says_what_it_is(name):
    method = load_method(name)
    assert method.name == name
    assert all(text and text[-1] != "." for text in (method.source, method.keeps, method.costs))
    assert method.__doc__
    with pytest.raises(InputError, match=rf"unknown key 'options.nothing' for method '{name}'"):
        method.read_options({"nothing": 1})
    for option, field in method.Options.model_fields.items():
        assert field.description, option
