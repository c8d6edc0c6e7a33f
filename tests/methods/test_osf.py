import pytest
import torch

from gorp.backbones import load_backbone
from gorp.checkpoint import seed_everything
from gorp.encoding import Encoder
from gorp.errors import InputError
from gorp.methods.osf import OSF, protected_rank
from gorp.plan import Plan
from gorp.progress import SilentProgress
from gorp.run_config import RunConfig
from gorp.tasks import TaskStream
from gorp.training import train_task

TRAINING = {"epochs": 2, "batch_size": 4, "lr": 0.01, "weight_decay": 0.1}


class Run:
    """A tiny model under osf, with tasks to learn."""

    def __init__(self, folder, stream, tmp_path, dtype="float32", **options):
        self.config = RunConfig.from_mapping({"method": "osf", "training": TRAINING, "options": options})
        backbone = load_backbone(str(folder), dtype)
        self.encoder = Encoder(backbone.model, backbone.tokenizer)
        self.method, self.tasks, self.folder = OSF(self.config), TaskStream.from_yaml(stream), tmp_path
        seed_everything(0, 0)
        self.method.attach(backbone.model)

    def train(self, index, make_optimizer=None):
        self.method.begin_task(self.tasks[index], index)
        optimizer = make_optimizer() if make_optimizer else self.method.optimizer()
        plan = Plan(self.encoder.rows(self.tasks[index].train[:12]), self.config.training, 0, self.folder)
        model = self.method.model
        train_task(model, self.method, optimizer, self.encoder, plan, SilentProgress(), lambda flight: None)

    def learn(self, index, make_optimizer=None):
        """Weights (out, in) before and after a task, by layer."""
        before = self.method.effective_weights()
        self.train(index, make_optimizer)
        self.method.end_task(self.tasks[index], index)
        return before, self.method.effective_weights()


@pytest.fixture(params=["seq2seq", "causal"])
def run(request, tiny_models, tiny_stream, tmp_path):
    return lambda **options: Run(tiny_models[request.param], tiny_stream, tmp_path, **options)


def leaks(before, after, index, tasks):
    """Per layer, the norms of U_high^T D and D V_high^T against ||D|| + ||W||."""
    for name, weight in before.items():
        change = after[name].double() - weight.double()
        rank = protected_rank(min(weight.shape), index, tasks)
        U, _, Vh = torch.linalg.svd(weight, full_matrices=False)
        rows, columns = U[:, :rank].double().mT @ change, change @ Vh[:rank].double().mT
        assert change.norm() > 1e-3 * weight.norm(), name
        yield max(float(rows.norm()), float(columns.norm())) / float(change.norm() + weight.norm())


def test_an_update_leaves_the_protected_directions_alone_in_every_task(run):
    ours = run(tasks=3)
    shapes = {tuple(weight.shape) for weight in ours.method.effective_weights().values()}
    assert {(out > inside) - (out < inside) for out, inside in shapes} == {-1, 0, 1}
    for index in range(2):
        assert max(leaks(*ours.learn(index), index, tasks=3)) < 2e-6


def test_projecting_gradients_alone_would_not_do(run):
    def plain_adamw():
        return torch.optim.AdamW([p for p in ours.method.model.parameters() if p.requires_grad], lr=0.01)

    ours = run(tasks=3)
    ours.learn(0)
    assert max(leaks(*ours.learn(1, plain_adamw), 1, tasks=3)) > 1e-3


def test_the_end_of_a_task_merges_what_was_learnt(run):
    ours = run()
    names = list(ours.method.model.state_dict())
    ours.train(0)
    learnt = ours.method.effective_weights()
    for name, weight in learnt.items():
        layer = ours.method.model.get_submodule(name)
        x = torch.randn(4, weight.shape[1])
        torch.testing.assert_close(layer(x), x @ weight.mT, rtol=1e-4, atol=1e-4)
    ours.method.end_task(ours.tasks[0], 0)
    assert list(ours.method.model.state_dict()) == names
    assert not any(parameter.requires_grad for parameter in ours.method.model.parameters())
    for name, weight in ours.method.effective_weights().items():
        torch.testing.assert_close(weight, learnt[name], rtol=0, atol=1e-6)


def test_what_is_protected_grows_by_task():
    assert [protected_rank(32, index, 4) for index in range(6)] == [1, 8, 16, 24, 24, 24]
    assert protected_rank(32, 0, 1) == 1


def test_weights_in_bf16_learn_in_fp32(run):
    ours = run(dtype="bfloat16")
    before, after = ours.learn(0)
    for name, weight in after.items():
        assert weight.dtype is torch.float32
        assert not torch.equal(weight, before[name])


def test_targets(tiny_models, tiny_stream, tmp_path):
    causal = (tiny_models["causal"], tiny_stream, tmp_path)
    assert len(Run(*causal).method.layer_names()) == 2 * 7
    assert Run(*causal, targets=["0.mlp.up_proj"]).method.layer_names() == ["model.layers.0.mlp.up_proj"]
    with pytest.raises(InputError, match=r"options.targets: 'nothing' matches no linear layer"):
        Run(*causal, targets=["nothing"])
