import pytest
import torch

from gorp.backbones import load_backbone
from gorp.checkpoint import seed_everything
from gorp.encoding import Encoder
from gorp.errors import FullSpaceWarning
from gorp.layer_inputs import collect_inputs
from gorp.methods.inflora import InfLoRA, free_directions, rows_of
from gorp.plan import Plan
from gorp.progress import SilentProgress
from gorp.run import run_stream
from gorp.run_config import RunConfig
from gorp.tasks import TaskStream
from gorp.training import train_task

ENERGY = 0.9
SETTINGS = {
    "method": "inflora",
    "lora": {"rank": 2},
    "options": {"energy": ENERGY, "rows": 10},
    "training": {"epochs": 1, "batch_size": 4, "lr": 0.01},
}


@pytest.fixture(params=["seq2seq", "causal"])
def method(request, tiny_models):
    method = InfLoRA(RunConfig.from_mapping(SETTINGS))
    backbone = load_backbone(str(tiny_models[request.param]))
    method.encoder = Encoder(backbone.model, backbone.tokenizer)
    seed_everything(0, 0)
    method.attach(backbone.model)
    return method


@pytest.fixture
def tasks(tiny_stream):
    return list(TaskStream.from_yaml(tiny_stream))


def factors(method):
    layers = {name: method.model.get_submodule(name) for name in method.layer_names()}
    return {name: (layer.lora_A["default"].weight, layer.lora_B["default"].weight) for name, layer in layers.items()}


def inputs_of(method, task):
    """All inputs (n, in) of each layer on the rows that stand for a task, and none that are padding."""
    rows = method.encoder.rows([task.train[i * len(task.train) // 10] for i in range(10)])
    batches = [method.encoder.training_batch([row]) for row in rows]
    batches = [{key: value for key, value in batch.items() if key != "labels"} for batch in batches]
    return collect_inputs(method.model, method.layer_names(), batches, rows_per_batch=1000, rows_per_layer=10**6)


def test_a_task_learns_in_what_earlier_ones_leave_free(method, tasks, tmp_path):
    for index, task in enumerate(tasks[:2]):
        inputs = inputs_of(method, task)
        method.begin_task(task, index)
        bases = {name: layer.basis.clone() for name, layer in method.space.layers.items()}
        start = {name: A.clone() for name, (A, _) in factors(method).items()}
        before = method.effective_weights()
        plan = Plan(method.encoder.rows(task.train[:12]), method.config.training, 0, tmp_path)
        optimizer = method.optimizer()
        train_task(method.model, method, optimizer, method.encoder, plan, SilentProgress(), lambda flight: None)
        for name, (A, B) in factors(method).items():
            H, M = inputs[name].double(), bases[name].double()
            assert bool(M.shape[1]) == bool(index)
            torch.testing.assert_close(A @ A.mT, torch.eye(2), rtol=0, atol=1e-5)
            assert torch.equal(A, start[name])
            assert B.abs().max() > 1e-3
            assert ((B @ A).double() @ M).norm() < 1e-6 * B.norm()
            _, _, Vh = torch.linalg.svd(H - H @ M @ M.mT, full_matrices=False)
            assert (H @ A.double().mT).norm() > (1 - 1e-6) * (H @ Vh[:2].mT).norm()  # the top directions, or as good
            change = method.effective_weights()[name] - before[name]
            torch.testing.assert_close(change, 16 * (B @ A), rtol=0, atol=1e-5)  # alpha / rank = 16
        method.end_task(task, index)


def test_the_basis_grows_to_the_share_of_energy_asked_for(method, tasks):
    for index, task in enumerate(tasks[:2]):
        method.begin_task(task, index)
        method.end_task(task, index)
        for name, H in inputs_of(method, task).items():
            M = method.space.layers[name].basis
            torch.testing.assert_close(M.mT @ M, torch.eye(M.shape[1]), rtol=0, atol=1e-5)
            assert (H @ M).square().sum() > (ENERGY - 1e-4) * H.square().sum()
            if index == 0:  # the fewest directions that do
                assert (H @ M[:, :-1]).square().sum() < ENERGY * H.square().sum()


def test_measured_leaks_are_within_their_bounds(tiny_models, tiny_stream, tmp_path):
    data = {"train_rows": 8, "test_rows": 2, "validation_rows": 2}
    files = {"model": str(tiny_models["causal"]), "stream": str(tiny_stream)}
    record = run_stream(RunConfig.from_mapping({**SETTINGS, **files, "data": data}), tmp_path / "run")
    for stage in record.stages[1:]:
        for meter in stage.layers.values():
            assert meter.leak <= meter.leak_bound
            assert 0 < meter.rank <= meter.width == meter.cap
            assert not meter.frozen


@pytest.mark.parametrize("rows", [3, 10, 13, 23, 24, 99])
def test_rows_that_stand_for_a_task_are_spread_over_all_of_it(attach, tasks, rows):
    method, task, seen = attach("inflora", rows=rows), tasks[0], []
    method.encoder.rows = lambda examples: seen.extend(examples) or []
    list(method._batches(task))
    places = [task.train.index(row) for row in seen]
    gaps = [after - before for before, after in zip(places, [*places[1:], len(task.train)], strict=True)]
    assert len(places) == min(rows, len(task.train))
    assert places[0] == 0
    assert max(gaps) - min(gaps) <= 1


def test_a_layer_without_room_is_told_and_does_not_learn(attach, tasks):
    method = attach("inflora", rows=10)
    shut, *others = method.layer_names()
    width = method.space.layers[shut].input.width
    method.space.layers[shut].input.basis = torch.eye(width)
    with pytest.warns(FullSpaceWarning, match=rf"has no input .* in 1 of {1 + len(others)} layers: {shut}\."):
        method.begin_task(tasks[0], 1)
    learning = {name for name, (_, B) in factors(method).items() if B.requires_grad}
    assert learning == set(others)
    method.space.layers[shut].input.basis = torch.zeros(width, 0)
    method.begin_task(tasks[0], 1)
    assert factors(method)[shut][1].requires_grad


def test_a_task_that_no_layer_has_room_for_is_passed_over(tiny_models, tiny_stream, tmp_path):
    class Warned(SilentProgress):
        def warning(self, text):
            warned.append(text)

    warned = []
    data = {"train_rows": 8, "test_rows": 2, "validation_rows": 2}
    files = {"model": str(tiny_models["causal"]), "stream": str(tiny_stream)}
    options = {"energy": 1.0, "rows": 8}
    config = RunConfig.from_mapping({**SETTINGS, **files, "data": data, "options": options})
    record = run_stream(config, tmp_path / "run", progress=Warned())
    assert record.stages[0].steps
    assert not record.stages[-1].steps
    assert "has no input directions of its own in 4 of 4 layers" in warned[-2]
    assert "every layer is frozen" in warned[-1]


def test_directions_end_where_inputs_leave_none():
    H = torch.randn(20, 6, generator=torch.Generator().manual_seed(0)) * torch.tensor([3.0, 2, 1, 0, 0, 0])
    basis = torch.eye(6)[:, :1]
    A = free_directions(H.mT @ H, basis, 4)
    torch.testing.assert_close(A @ A.mT, torch.diag(torch.tensor([1.0, 1, 0, 0])), rtol=0, atol=1e-6)
    assert (A @ basis).abs().max() < 1e-12
    assert not free_directions(H.mT @ H, torch.eye(6), 2).any()


def test_rows_have_the_covariance_they_are_made_from():
    H = torch.randn(20, 6, generator=torch.Generator().manual_seed(0)).double()
    rows = rows_of(H.mT @ H)
    torch.testing.assert_close(rows.mT @ rows, H.mT @ H)
