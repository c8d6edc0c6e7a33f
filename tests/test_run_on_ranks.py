"""A run on two ranks: one process's numbers, one writer, and checkpoints that any number of ranks goes on from."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from gorp._ranks import average_gradients, of_all_ranks, on_first_rank
from gorp.backbones import load_backbone
from gorp.errors import GorpError, InputError
from gorp.launch import join_ranks, leave_ranks
from gorp.progress import SilentProgress
from gorp.report.record import RunRecord
from gorp.run import run_stream
from gorp.run_config import RunConfig
from gorp.run_folder import RunFolder

pytestmark = pytest.mark.slow  # two processes at a time, for a minute

RANKS = 2
STOPPED = 13  # of 17 steps a task

#: A run of each kind of backbone. Batches of 3 are never shared evenly; the last of a task has a single row, but the
#: causal model's, and the encoder's last step has fewer passes than the others.
RUNS: dict[str, dict[str, Any]] = {
    "seq2seq": {"gorp": {"refresh_every": 5}, "training": {"epochs": 5, "accumulation_steps": 2}},
    "causal": {
        "method": "inc-lora",
        "evaluation": {"answers": "options", "batch_size": 4},
        "training": {"epochs": 1},
    },
    "encoder": {"training": {"epochs": 2, "accumulation_steps": 4}, "gorp": {"refresh_every": 1}},
}


SPREAD = {"parallel": "shard"}


class StopsAt(SilentProgress):
    """Interrupts the second task."""

    def __init__(self) -> None:
        self.stage = 0

    def stage_started(self, index: int, task: str, steps: int) -> None:
        self.stage = index

    def training_step(self, step: int, loss: float | None = None) -> None:
        if self.stage == 1 and step == STOPPED:
            raise KeyboardInterrupt


def config_of(kind: str, models: Path, stream: Path, **settings: Any) -> RunConfig:
    given = RUNS[kind]
    training = {
        "batch_size": 3,
        "lr": 0.001,
        "full_rank_lr": 0.003,
        "save_every": 8,
        **given.get("training", {}),
        **settings,
    }
    gorp = {"rank": 4, **given.get("gorp", {})}
    values = {**given, "model": str(models / kind), "stream": str(stream), "training": training, "gorp": gorp}
    return RunConfig.from_mapping(values)


def interrupt(config: RunConfig, folder: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        run_stream(config, folder, progress=StopsAt())


def replica(rank: int, port: int, models: Path, stream: Path, out: Path) -> None:
    """All that the ranks do in these tests, for they take long to start."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(RANKS), "LOCAL_WORLD_SIZE": str(RANKS)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    join_ranks()
    records = [run_stream(config_of(kind, models, stream), out / kind) for kind in RUNS]
    spread = config_of("seq2seq", models, stream, **SPREAD)
    run_stream(spread, out / "spread")
    run_stream(spread, out / "begun alone")
    interrupt(spread, out / "begun together")
    bf16 = config_of("seq2seq", models, stream, epochs=1, **SPREAD)
    head = bf16.gorp.model_copy(update={"full_rank_targets": ("EncDecAttention", "lm_head")})  # in no block
    run_stream(bf16.model_copy(update={"dtype": "bfloat16", "gorp": head}), out / "spread bf16")
    parts: dict[str, Any] = {"said": of_all_ranks({"rank": rank, "é": [None, 1.5]})}
    parts["events"] = [[event.kind for event in record.events] for record in records]
    for failing in (0, 1):
        try:
            on_first_rank(lambda: fail(out, rank, failing))  # noqa: B023 (called at once)
        except GorpError as error:
            parts[f"failing {failing}"] = f"{type(error).__name__}: {error}"
    for refused in (
        config_of("causal", models, stream, **SPREAD),
        config_of("seq2seq", models, stream, **SPREAD).model_copy(
            update={"evaluation": config_of("causal", models, stream).evaluation}
        ),
    ):
        try:
            run_stream(refused, out / "refused")
        except InputError as error:
            parts.setdefault("refused", []).append(str(error))
    first, second, third = (torch.nn.Parameter(torch.zeros(2)) for _ in range(3))
    first.grad, second.grad = torch.full((2,), rank + 1.0), torch.ones(2) if rank else None
    average_gradients([first, second, third])
    parts["gradients"] = [None if p.grad is None else p.grad.tolist() for p in (first, second, third)]
    torch.save(parts, out / f"rank-{rank}.pt")
    leave_ranks()


def fail(out: Path, rank: int, failing: int) -> None:
    """Called on the first rank alone."""
    (out / f"written by {rank}").touch()
    if failing == 0:
        raise InputError("the disk is full")


@pytest.fixture(scope="module")
def models(tiny_models: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny models without dropout, which no two ranks could share, T5 with a head of its own, which can learn."""
    folder = tmp_path_factory.mktemp("models")
    for kind, path in tiny_models.items():
        backbone = load_backbone(str(path))
        for key in ("dropout_rate", "attention_dropout", "hidden_dropout_prob", "attention_probs_dropout_prob"):
            if hasattr(backbone.model.config, key):
                setattr(backbone.model.config, key, 0.0)
        if kind == "seq2seq":
            backbone.model.lm_head.weight = torch.nn.Parameter(1.5 * backbone.model.lm_head.weight.detach())
        backbone.model.save_pretrained(folder / kind)
        backbone.tokenizer.save_pretrained(folder / kind)
    return folder


@pytest.fixture(scope="module")
def together(models: Path, tiny_stream: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what two ranks did."""
    if not dist.is_available():
        pytest.skip("torch is built without torch.distributed")
    out = tmp_path_factory.mktemp("together")
    interrupt(config_of("seq2seq", models, tiny_stream), out / "begun alone")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(replica, (port, models, tiny_stream, out), nprocs=RANKS)  # type: ignore[no-untyped-call]
    return out


@pytest.fixture(scope="module")
def alone(models: Path, tiny_stream: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of what one process did."""
    out = tmp_path_factory.mktemp("alone")
    for kind in RUNS:
        run_stream(config_of(kind, models, tiny_stream), out / kind)
    return out


def assert_same_run(folder: Path, expected: Path, tolerance: float = 1e-6) -> None:
    """The same record, losses to the tolerance, and what is saved to the same weights."""
    record, other = RunRecord.load(folder), RunRecord.load(expected)
    assert record.finished
    assert record.zero_shot == other.zero_shot
    assert [stage.scores for stage in record.stages] == [stage.scores for stage in other.stages]
    for stage, at_once in zip(record.stages, other.stages, strict=True):
        assert (stage.steps, stage.skipped_refreshes) == (at_once.steps, at_once.skipped_refreshes)
        for (step, loss), (_, other_loss) in zip(stage.train_loss, at_once.train_loss, strict=True):
            near = pytest.approx(other_loss, rel=tolerance, abs=tolerance * stage.train_loss[0][1])
            assert loss == near, (stage.task, step)
        for name, meter in stage.layers.items():
            assert meter.rank == at_once.layers[name].rank
            assert (meter.leak or 0.0) <= (meter.leak_bound or 0.0)
    saved, other_saved = (RunFolder.of_run(path).stage_files() for path in (folder, expected))
    assert saved is not None
    assert other_saved is not None
    assert saved.weights.keys() == other_saved.weights.keys()
    for name, weight in saved.weights.items():
        torch.testing.assert_close(weight, other_saved.weights[name], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", RUNS)
def test_two_ranks_learn_what_one_process_learns(kind: str, together: Path, alone: Path) -> None:
    round_off = {"encoder": 1e-5}  # whose scores are cosines over 0.05
    assert_same_run(together / kind, alone / kind, round_off.get(kind, 1e-6))


def test_two_ranks_with_half_of_the_weights_each_learn_the_same(together: Path, alone: Path) -> None:
    assert RunFolder.of_run(together / "spread").config().training.parallel == "shard"
    assert_same_run(together / "spread", alone / "seq2seq")


def test_spread_weights_lose_nothing_to_bf16(together: Path) -> None:
    record = RunRecord.load(together / "spread bf16")
    assert record.finished
    meters = [meter for stage in record.stages[1:] for meter in stage.layers.values()]
    assert all((meter.leak or 0.0) <= (meter.leak_bound or 0.0) for meter in meters)
    assert any((meter.stored_leak or 0.0) > (meter.leak_bound or 0.0) for meter in meters), "bf16 alone would lose some"


def test_ranks_go_on_with_the_run_of_one_process(together: Path, alone: Path) -> None:
    assert_same_run(together / "begun alone", alone / "seq2seq")


def test_one_process_goes_on_with_the_run_of_ranks(
    together: Path, alone: Path, models: Path, tiny_stream: Path
) -> None:
    folder = together / "begun together"
    assert (RunFolder.of_run(folder).flight() or {})["flight"]["step"] == STOPPED // 8 * 8
    run_stream(config_of("seq2seq", models, tiny_stream), folder)
    assert_same_run(folder, alone / "seq2seq")


def test_nothing_is_left_over(together: Path) -> None:
    for kind in (*RUNS, "spread"):
        assert not [path for path in (together / kind).rglob("*") if path.name.startswith((".", "step-"))]
        assert RunRecord.load(together / kind).environment["ranks"] == RANKS


def test_what_ranks_tell_each_other(together: Path) -> None:
    parts = [torch.load(together / f"rank-{rank}.pt") for rank in range(RANKS)]
    for rank, told in enumerate(parts):
        assert told["said"] == [{"rank": other, "é": [None, 1.5]} for other in range(RANKS)]
        assert told["events"] == [["learnt"] * 3] * len(RUNS)
        assert told["failing 0"] == f"{'GorpError' if rank else 'InputError'}: the disk is full"
        assert "failing 1" not in told
        assert ["for method 'inc-lora'" in told["refused"][0], "'options' does not" in told["refused"][1]] == [True] * 2
        assert told["gradients"] == [[1.5, 1.5], [0.5, 0.5], None]
    assert (together / "written by 0").exists()
    assert not (together / "written by 1").exists()


@pytest.mark.parametrize("flag", ["ACCELERATE_USE_DEEPSPEED", "ACCELERATE_USE_FSDP"])
def test_a_launch_that_takes_layers_apart_is_refused(flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(flag, "true")
    with pytest.raises(InputError, match="accepted: torchrun or accelerate launch without it"):
        join_ranks()
