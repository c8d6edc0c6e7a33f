import sys

import pytest
import torch

from gorp.backbones import load_backbone
from gorp.checkpoint import load_state, random_state, save_state, set_random_state
from gorp.encoding import Encoder, answer_loss
from gorp.errors import InputError
from gorp.methods.galore import GaLore
from gorp.run_config import RunConfig
from gorp.tasks import TaskStream

RANK, REFRESH = 3, 4


@pytest.fixture
def package():
    return pytest.importorskip("galore_torch", reason="pip install gorp-cl[galore]")


class Setup:
    """A tiny model under galore and steps to train it by."""

    def __init__(self, folder, stream, **options):
        settings = {"method": "galore", "training": {"lr": 0.01}, "options": options}
        backbone = load_backbone(str(folder))
        self.method = GaLore(RunConfig.from_mapping(settings))
        self.method.attach(backbone.model)
        self.encoder = Encoder(backbone.model, backbone.tokenizer)
        self.rows = self.encoder.rows(TaskStream.from_yaml(stream)[0].train)

    def train(self, optimizer, steps):
        model = self.method.model.eval()
        for step in steps:
            batch = self.encoder.training_batch(self.rows[2 * step : 2 * step + 2])
            answer_loss(self.encoder.logits(model, batch), batch["labels"]).backward()
            optimizer.step()
            optimizer.zero_grad()


@pytest.fixture(params=["seq2seq", "causal"])
def setup(request, tiny_models, tiny_stream):
    return lambda **options: Setup(tiny_models[request.param], tiny_stream, **options)


def test_weights_change_in_a_small_rank_that_grows_by_a_refresh(package, setup):
    ours = setup(rank=RANK, refresh_every=REFRESH)
    before = ours.method.effective_weights()
    optimizer = ours.method.optimizer()
    for steps, most in ((range(REFRESH), RANK), (range(REFRESH, REFRESH + 1), 2 * RANK)):
        ours.train(optimizer, steps)
        changes = [weight - before[name] for name, weight in ours.method.effective_weights().items()]
        ranks = [int(torch.linalg.matrix_rank(change, rtol=1e-4)) for change in changes]
        assert min(ranks) > 0
        assert max(ranks) == most
    learnt = {f"{name}.weight" for name in ours.method.layer_names()}
    assert {name for name, value in ours.method.model.named_parameters() if value.requires_grad} == learnt


@pytest.mark.parametrize("shape", [(12, 6), (6, 12), (8, 8)])
def test_steps_are_those_of_the_released_optimizer(package, setup, shape):
    ours = setup(rank=RANK, refresh_every=REFRESH)
    (group,) = ours.method.optimizer().param_groups
    group = {key: group[key] for key in ("rank", "update_proj_gap", "scale", "proj_type")}
    torch.manual_seed(0)
    start, gradients = torch.randn(shape), torch.randn(3 * REFRESH, *shape)
    weights = [torch.nn.Parameter(start.clone()) for _ in range(2)]
    classes = (type(ours.method.optimizer()), package.GaLoreAdamW)
    for optimizer_class, weight in zip(classes, weights, strict=True):
        optimizer = optimizer_class([{"params": [weight], **group}], lr=0.01, no_deprecation_warning=True)
        for gradient in gradients:
            weight.grad = gradient.clone()
            optimizer.step()
    assert not torch.allclose(weights[0], start)
    torch.testing.assert_close(weights[0], weights[1])


def test_a_saved_state_is_small_and_goes_on_bit_for_bit(package, setup, tmp_path):
    whole = setup(rank=RANK, refresh_every=REFRESH)
    optimizer = whole.method.optimizer()
    whole.train(optimizer, range(2))
    save_state(tmp_path, "optimizer", optimizer.state_dict())
    weights, random_then = {name: value.clone() for name, value in whole.method.weights().items()}, random_state()
    whole.train(optimizer, range(2, 6))

    saved = load_state(tmp_path, "optimizer")
    kept = sum(value.numel() for state in saved["state"].values() for value in state.values() if torch.is_tensor(value))
    sizes = [weight.shape for weight in whole.method.effective_weights().values()]
    assert kept == sum(RANK * (2 * max(size) + min(size)) for size in sizes)  # two moments and a projection
    again = setup(rank=RANK, refresh_every=REFRESH)
    again.method.load_weights(weights)
    optimizer = again.method.optimizer()
    optimizer.load_state_dict(saved)
    set_random_state(random_then)
    again.train(optimizer, range(2, 6))
    for name, weight in whole.method.weights().items():
        assert torch.equal(weight, again.method.weights()[name]), name


def test_without_the_package_it_says_what_to_install(tiny_models, tiny_stream, monkeypatch):
    monkeypatch.setitem(sys.modules, "galore_torch", None)
    monkeypatch.delitem(sys.modules, "gorp.methods._galore_optimizer", raising=False)
    with pytest.raises(InputError, match=r"method 'galore' needs galore-torch .*: pip install gorp-cl\[galore\]"):
        Setup(tiny_models["causal"], tiny_stream)
