"""What is counted on fake tensors is what two real ranks send and hold."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from gorp import _sketch
from gorp.footprint import footprint
from gorp.launch import leave_ranks

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))

import device_tables
import fake_ranks
import many_devices
from communication import counted

RANKS, LENGTH = 2, 24
SIZES = {
    "hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 50,
}  # fmt: skip


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    """The models of true size are wider than what has a Gram matrix; the small one of these tests is made so."""
    monkeypatch.setattr(_sketch, "GRAM_WIDTH", 32)


def replica(rank: int, folder: str) -> None:
    """The same steps with true numbers, in both forms; the first rank writes down what was counted."""
    torch.set_num_threads(1)
    _sketch.GRAM_WIDTH = 32
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=RANKS)
    facts = {}
    for form in ("replicate", "shard"):
        torch.manual_seed(0)
        model = many_devices.build(SIZES, blocks=1)
        with counted() as given, fake_ranks.Meter() as meter:
            facts[form] = dict(many_devices.gorp_costs(model, meter, form == "shard", 0.0, LENGTH))
        facts[form]["given"] = given[0]
    if rank == 0:
        torch.save(facts, Path(folder, "facts.pt"))
    leave_ranks()


@pytest.mark.slow
def test_fake_ranks_send_and_hold_what_real_ones_do(tmp_path):
    torch.multiprocessing.spawn(replica, (str(tmp_path),), nprocs=RANKS)
    for form, facts in torch.load(tmp_path / "facts.pt").items():
        real, fake = Counter(facts), many_devices.costs(SIZES, RANKS, form, blocks=1, length=LENGTH)
        told = ("held", "messages", "sent", "operations model")
        same = {what for what in (*fake, *real) if what.startswith(told) or what.partition(" ")[2].startswith(told)}
        assert {what: fake[what] for what in same} == {what: real[what] for what in same}
        summed = sum(count for what, count in fake.items() if what.endswith("sent allreduce"))
        assert real["given"] == summed + fake["end sent allgather"] // RANKS, "communication.py sees FSDP2 send nothing"
        learning = 8 * (64 + 64) + 8 * (64 + 32) + 8 * 8
        assert fake["between sent allreduce"] == 4 * (learning + 5), "A, B and Z, and of each whether there is one"


def test_what_a_fake_rank_holds_is_its_footprint():
    sizes = {**SIZES, "hidden_size": 2048, "intermediate_size": 4096}
    fake = many_devices.costs(sizes, 8, "replicate", share=0.5, blocks=1, length=LENGTH)
    with torch.device("meta"):
        model = many_devices.build(sizes, 1)
    told = footprint(model, many_devices.CONFIG, tasks=1, growth=0.5)
    told["weights"] -= sum(buffer.nbytes for buffer in model.buffers())
    held = {what.removeprefix("held "): count for what, count in fake.items() if what.startswith("held ")}
    assert held == {part: count for part, count in told.items() if part != "stacks"}
    assert fake["between peak"] > sum(held.values())


def test_ranks_that_spread_weights_hold_their_part_and_gather_full_ones_twice():
    facts = {ranks: many_devices.costs(SIZES, ranks, "full", blocks=1, length=LENGTH) for ranks in (2, 8)}
    assert facts[8]["held weights"] < 0.3 * facts[2]["held weights"]
    block, root = 2 * (64 * (64 + 32 + 32 + 64) + 3 * 64 * 96 + 2 * 64), 2 * (2 * 50 * 64 + 64)
    assert facts[2]["between sent allgather"] == 2 * block + root
    assert facts[2]["between sent reduce_scatter"] == block + root


def test_a_question_nobody_foresaw_is_an_error(monkeypatch):
    monkeypatch.delitem(fake_ranks.ANSWERS, "gradients_are_finite")
    with pytest.raises(KeyError, match="gradients_are_finite asks a tensor for its value"):
        many_devices.costs(SIZES, 2, "replicate", blocks=1, length=LENGTH)
    assert not dist.is_initialized()


def test_what_a_block_costs_is_the_difference():
    case = many_devices.by_block(SIZES, 2, "replicate")
    factors = case["block"]["held factors"]
    assert factors == 4 * (8 * (64 + 64) + 8 * (64 + 32) + 8 * 8)
    assert case["rest"]["held factors"] == 0
    assert case["rest"]["held weights"] == 2 * (2 * 50 * 64 + 64)


def test_tables_are_of_whole_models():
    assert device_tables.from_shapes("7B")["numbers"] == 6_738_415_616
    assert device_tables.from_shapes("405B")["numbers"] == 405_853_388_800
    one, many = (device_tables.cost("7B", "replicate", ranks) for ranks in (8, 1024))
    weights = 2 * 6_738_415_616
    assert one.of("held weights") == many.of("held weights") == weights
    assert one.of("held rounding") == device_tables.from_shapes("7B")["rounding"]
    assert one.peak > sum(count for what, count in one.facts.items() if what.startswith("held"))
    assert many.sent("between") == 2 * 1023 / 1024 * many.of("between sent allreduce")
    assert device_tables.cost("7B", "shard", 8).of("held weights") == weights / 8
    assert [device_tables.tasks_until_full(share) for share in (0.001, 0.005, 0.02)] == [750, 150, 37]
