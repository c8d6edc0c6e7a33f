"""What every method promises, whatever it does: it learns, it is resumed, it is taken up again, it says what it is."""

import pytest

from gorp.errors import InputError
from gorp.learner import ContinualLearner
from gorp.methods import METHODS, load_method
from gorp.progress import SilentProgress
from gorp.run import run_stream
from gorp.run_config import RunConfig
from gorp.run_setup import load_stream

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


class StopsInTheLastTask(SilentProgress):
    """Ends the run after the third step of the last stage, the second being saved."""

    last = 0

    def stage_started(self, index, task, steps):
        self.stage = index

    def training_step(self, step, loss=None):
        if (self.stage, step) == (self.last, 3):
            raise Stopped


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
    trains = any(stage.steps for stage in whole.stages)
    progress = StopsInTheLastTask()
    progress.last = whole.stages[-1].index
    if trains:
        with pytest.raises(Stopped):
            run_stream(config, tmp_path / "stopped", tasks, progress)
    assert run_stream(config, tmp_path / "stopped", tasks).comparable() == whole.comparable()
    learner = ContinualLearner.of_run(tmp_path / "whole")
    scores = learner.evaluate()
    assert list(scores.values()) == whole.stages[-1].scores
    assert len(whole.stages) == (1 if learner.method.learns_jointly else 2)


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
