"""What is told of a run's stages, one after the other on one model, is what each stage's own model says."""

import pytest
import torch

from gorp.difference import compare_stages
from gorp.errors import InputError
from gorp.learnt_model import open_learnt
from gorp.methods import METHODS, load_method
from gorp.over_stages import BEFORE, over_stages
from gorp.run import run_stream
from gorp.run_folder import RunFolder

FAST = ("gorp", "per-task", "prog-prompt")
PROMPT = torch.tensor([[5, 6, 7, 14, 17, 20]])


@torch.no_grad()
def logits(model, _encoder=None, method=None):
    """Of one prompt, with what the model's method puts before it, if anything."""
    batch = {"input_ids": PROMPT, "attention_mask": torch.ones_like(PROMPT)}
    answer = torch.zeros(1, 1, dtype=torch.long)
    return model.eval()(**(method.prepare(batch) if method else batch), decoder_input_ids=answer).logits


@pytest.mark.parametrize(
    "method", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in METHODS]
)
def test_a_model_that_walks_through_the_stages_is_each_stages_own(method, short_run, tmp_path):
    if method == "galore":
        pytest.importorskip("galore_torch", reason="the extra galore is not installed")
    run_stream(short_run.model_copy(update={"method": method}), tmp_path)
    names = list(RunFolder.of_run(tmp_path).record().stages_by_task)
    assert len(names) == (1 if load_method(method).learns_jointly else 3)
    found = over_stages(tmp_path, logits)
    assert list(found) == [BEFORE, *names]
    told_task = load_method(method).told_task
    weights = {}
    for name in names:
        learnt = open_learnt(tmp_path, to=name, task=name if told_task else None).learning
        assert torch.equal(found[name], logits(learnt.base, None, learnt.method)), name
        assert method == "zero-shot" or not torch.equal(found[name], found[BEFORE]), "a learnt model is measured"
        learnt.method.select(None)
        weights[name] = learnt.method.effective_weights()
    told = compare_stages(RunFolder.of_run(tmp_path), names[0], names[-1]).layers
    for name, layer in told.items():
        before, after = (weights[at][name].double() for at in (names[0], names[-1]))
        assert layer.moved == float((after - before).norm()) / float(before.norm())


def test_stages_are_not_measured_on_another_base(short_run, tiny_models, tmp_path):
    run_stream(short_run, tmp_path)
    other = str(tiny_models["causal"])
    with pytest.raises(InputError, match="is the run of another base model"):
        over_stages(tmp_path, logits, other)
    with pytest.raises(InputError, match="is the run of another base model"):
        compare_stages(RunFolder.of_run(tmp_path), "base", "act", other)
