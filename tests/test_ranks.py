"""Replicas under DistributedDataParallel learn what one process learns on all their rows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import gorp
from gorp._ranks import MeanOverRanks, check_same_on_all_ranks, checksum, mean_over_ranks, rows_of_ranks
from gorp._shards import whole
from gorp._sketch import GRAM_WIDTH, sketch_over_ranks, sketched_rows
from gorp.errors import GorpError
from gorp.launch import leave_ranks

RANKS, STEPS, ROWS = 2, 50, 6
MEMORIES = ("sketch", "first_moment", "weighted_features")


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(24, 40), nn.Tanh(), nn.Linear(40, 32), nn.Tanh(), nn.Linear(32, 3))


def batch(task: int, step: int) -> tuple[Tensor, Tensor]:
    """Rows of all ranks, (RANKS x ROWS, ...)."""
    generator = torch.Generator().manual_seed(1000 * task + step)
    x = torch.randn(RANKS * ROWS, 24, generator=generator) @ torch.diag(0.8 ** torch.arange(24))
    return x.roll(8 * task, dims=1), x[:, :3] * x[:, 1:4]


def learn(rank: int | None, **settings: Any) -> dict[str, Any]:
    """Two tasks on this rank's rows, or on all of them where there is one process."""
    model = network()
    config = gorp.GORPConfig.model_validate(
        {"lora_targets": ["0"], "full_rank_targets": ["2"], "rank": 4, "energy": 0.8, "max_share": 1.0, **settings}
    )
    gorp.attach(model, config)
    optimizer = gorp.GORPAdamW(gorp.param_groups(model), lr=3e-3, full_rank_lr=1e-2)
    wrapped = model if rank is None else DistributedDataParallel(model, broadcast_buffers=False)
    mine = slice(None) if rank is None else slice(rank * ROWS, (rank + 1) * ROWS)
    layers = gorp.learned_layers(model)
    losses, leaks = [], []
    for task in range(2):
        before = {name: layer.effective_weight().double() for name, layer in layers.items()}
        held = {name: layer.space.basis.double() for name, layer in layers.items()}
        for step in range(STEPS):
            passes = config.accumulation_steps
            optimizer.zero_grad()
            total = 0.0
            for part in range(passes):
                x, y = (rows[mine].chunk(passes)[part] for rows in batch(task, step))
                if rank is not None:
                    wrapped.require_backward_grad_sync = part + 1 == passes
                loss = nn.functional.mse_loss(wrapped(x), y) / passes
                loss.backward()
                total += loss.item()
            nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            losses.append(total)
        for name, layer in layers.items():
            change = layer.effective_weight().double() - before[name]
            leaks.append(float((change @ held[name]).norm() / change.norm()))
        gorp.end_task(wrapped, optimizer, str(task))
    state = {name: value.clone() for name, value in model.state_dict().items()}
    bases = {name: layer.space.basis for name, layer in layers.items()}
    return {"losses": losses, "leak": max(leaks), "state": state, "bases": bases}


FORMS: dict[str, dict[str, Any]] = {
    **{memory: {"memory": memory} for memory in MEMORIES},
    "panels": {"refresh_from": "activations"},
    "accumulated": {"accumulation_steps": 2},
    "random, damped": {"projection": "random", "memory": "features", "damping": 0.5},
}


#: What may be spread over ranks: shared unevenly, of one row, so that the second has none, and as no message can be.
SPREAD = {
    "uneven": torch.arange(15.0).view(3, 5),
    "one row": torch.tensor([1.5], dtype=torch.bfloat16),
    "deep": torch.arange(24, dtype=torch.int16).view(4, 2, 3) - 12,
}


def spread(tensor: Tensor, rank: int) -> Tensor:
    """As FSDP2 spreads it."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.tensor import DTensor, Shard

    each = -(-len(tensor) // RANKS)
    own, mesh = tensor[rank * each : (rank + 1) * each], init_device_mesh("cpu", (RANKS,))
    return DTensor.from_local(own, mesh, [Shard(0)], run_check=False, shape=tensor.shape, stride=tensor.stride())


def replica(rank: int, folder: str) -> None:
    """All that two processes do in these tests, for they take long to start."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    found: dict[str, Any] = {form: learn(rank, **settings) for form, settings in FORMS.items()}
    rows = torch.full((rank + 1, 5), float(rank + 1))
    wide = torch.zeros(rank + 1, GRAM_WIDTH + 1)
    wide[:, rank] = rank + 1
    matrix = torch.arange(6.0).view(2, 3) * (rank + 1)
    found["parts"] = {
        "means": mean_over_ranks([rows[:1], rows[0, :2].double(), torch.tensor(float(rank))]),
        "rows": rows_of_ranks(rows),
        "gram": sketch_over_ranks(rows.mT @ rows),
        "wide": sketched_rows(sketch_over_ranks(wide)),
        "product": MeanOverRanks(matrix).mT @ torch.eye(2),
        "no rows": rows_of_ranks(rows[:0]),
        "whole": {name: whole(spread(tensor, rank)) for name, tensor in SPREAD.items()},
    }
    check_same_on_all_ranks({"one": torch.ones(3), "two": torch.tensor([-0.5, torch.inf]).bfloat16()})
    try:
        check_same_on_all_ranks({"one": torch.ones(3), "two": torch.eye(3).roll(rank, dims=1)})
    except GorpError as error:
        found["error"] = str(error)
    torch.save(found, Path(folder, f"rank-{rank}.pt"))
    leave_ranks()


@pytest.fixture(scope="module")
def of_ranks(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    if not dist.is_available():
        pytest.skip("torch is built without torch.distributed")
    folder = tmp_path_factory.mktemp("ranks")
    torch.multiprocessing.spawn(replica, (str(folder),), nprocs=RANKS)  # type: ignore[no-untyped-call]
    return [torch.load(folder / f"rank-{rank}.pt") for rank in range(RANKS)]


@pytest.mark.parametrize("form", FORMS)
def test_ranks_end_bit_for_bit_the_same(of_ranks: list[dict[str, Any]], form: str) -> None:
    first, second = (found[form] for found in of_ranks)
    assert first["losses"] != second["losses"], "each has rows of its own"
    for part in ("state", "bases"):
        assert list(first[part]) == list(second[part])
        for name, tensor in first[part].items():
            assert tensor.equal(second[part][name]), name


@pytest.mark.parametrize("form", FORMS)
def test_ranks_together_learn_what_one_process_learns(of_ranks: list[dict[str, Any]], form: str) -> None:
    alone = learn(None, **FORMS[form])
    together = torch.tensor([found[form]["losses"] for found in of_ranks]).mean(dim=0)
    compared = len(together)
    if "features" in str(FORMS[form].get("memory")):  # which token gets which sign is another matter then
        compared = 1 if FORMS[form].get("damping") else STEPS
    torch.testing.assert_close(together[:compared], torch.tensor(alone["losses"])[:compared], rtol=1e-6, atol=1e-6)
    assert max(found[form]["leak"] for found in of_ranks) <= 1e-5
    assert together[:STEPS][-10:].mean() < together[:10].mean()
    assert all(basis.shape[1] for basis in of_ranks[0][form]["bases"].values())


def test_parts(of_ranks: list[dict[str, Any]]) -> None:
    for found in of_ranks:
        parts = found["parts"]
        ones, two, number = parts["means"]
        assert ones.equal(torch.full((1, 5), 1.5))
        assert two.equal(torch.full((2,), 1.5, dtype=torch.float64))
        assert number == 0.5
        assert [rows.tolist() for rows in parts["rows"]] == [[[1.0] * 5], [[2.0] * 5] * 2]
        assert parts["gram"].equal(torch.full((5, 5), (1 + 2 * 4) / 2))
        assert parts["wide"].square().sum(dim=0)[:3].tolist() == pytest.approx([0.5, 4.0, 0.0])
        assert parts["product"].equal(torch.arange(6.0).view(2, 3).mT * 1.5)
        assert [rows.shape for rows in parts["no rows"]] == [(0, 5)] * RANKS
        for name, tensor in SPREAD.items():
            torch.testing.assert_close(parts["whole"][name], tensor, rtol=0, atol=0)
        assert found["error"].startswith("two is not the same on all 2 ranks; accepted: replicas that average")


def test_a_checksum_is_of_all_bits() -> None:
    tensor = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))
    assert checksum(tensor) == checksum(tensor.mT.contiguous().mT)
    for other in (tensor.mT, tensor.nextafter(torch.tensor(9.0)), tensor.flip(0), -tensor):
        assert checksum(tensor) != checksum(other)
