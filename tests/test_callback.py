"""GORPCallback in transformers' Trainer: the same weights as `gorp run`, meters in every tracker, safe resumes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from torch import Tensor
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainingArguments

import gorp
from gorp import meters
from gorp._linalg import orthonormalize, seeded_normal
from gorp.backbones import load_backbone
from gorp.callback import check_trainer
from gorp.encoding import Encoder, Row
from gorp.errors import MostlyBlockedWarning, NearlyFullWarning
from gorp.learner import ContinualLearner
from gorp.plan import Plan
from gorp.run import run_stream
from gorp.run_config import RunConfig
from gorp.space_file import SPACE_FILE
from gorp.tasks import TaskStream

LORA, FULL_RANK = ["SelfAttention"], ["EncDecAttention"]
QUERY = "encoder.block.0.layer.0.SelfAttention.q"
SETTINGS = {"rank": 4, "refresh_every": 3, "energy": 0.8}
TRAINING = {"epochs": 2, "batch_size": 4, "lr": 3e-3, "full_rank_lr": 3e-3, "save_every": 1000}


def rows_of(tiny_models, tiny_stream, index: int, kind: str = "seq2seq") -> tuple[list[Row], Encoder]:
    """A task's rows in the order in which `gorp run` has them."""
    backbone = load_backbone(str(tiny_models[kind]))
    encoder = Encoder(backbone.model, backbone.tokenizer)
    rows = encoder.rows(TaskStream.from_yaml(tiny_stream)[index].train)
    plan = Plan(rows, RunConfig.from_mapping({"training": TRAINING}).training, seed=index, folder=Path())
    return [row for batch in plan.batches(0) for row in batch], encoder


@pytest.fixture
def still_model(tiny_models, tmp_path) -> Path:
    """A tiny T5 that draws no random numbers."""
    return without_dropout(tiny_models["seq2seq"], tmp_path / "model", "dropout_rate")


def without_dropout(model: Path, folder: Path, rate: str) -> Path:
    folder.mkdir()
    for file in model.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {rate: 0.0}))
    return folder


def attached(folder: Path, space: gorp.GradientSpace | None = None, **settings: object) -> PreTrainedModel:
    model = load_backbone(str(folder)).model
    given = {"lora_targets": LORA, "full_rank_targets": FULL_RANK, **SETTINGS, **settings}
    return gorp.attach(model, gorp.GORPConfig.model_validate(given), space)


def optimizer_of(model: PreTrainedModel) -> gorp.GORPAdamW:
    return gorp.GORPAdamW(gorp.param_groups(model), lr=TRAINING["lr"], full_rank_lr=TRAINING["full_rank_lr"])


def trainer_of(model, optimizer, rows, encoder: Encoder, out: Path, callback=None, **settings: object) -> Trainer:
    values = {
        "num_train_epochs": 1, "per_device_train_batch_size": TRAINING["batch_size"], "lr_scheduler_type": "constant",
        "train_sampling_strategy": "sequential", "remove_unused_columns": False, "report_to": "none",
        "logging_steps": 4, "save_strategy": "no", "disable_tqdm": True, "dataloader_pin_memory": False, **settings,
    }  # fmt: skip
    return Trainer(
        model,
        TrainingArguments(str(out), **values),
        encoder.training_batch,
        rows,
        optimizers=(optimizer, None),
        callbacks=[callback or gorp.GORPCallback()],
    )


def weights(model: PreTrainedModel) -> dict[str, Tensor]:
    return {name: layer.effective_weight().double() for name, layer in gorp.learned_layers(model).items()}


def test_a_trainer_ends_where_gorp_run_does(still_model, tiny_models, tiny_stream, tmp_path) -> None:
    config = RunConfig.from_mapping(
        {
            "model": str(still_model), "training": TRAINING, "data": {"test_rows": 3},
            "gorp": {"lora_targets": LORA, "full_rank_targets": FULL_RANK, **SETTINGS},
        }
    )  # fmt: skip
    tasks = TaskStream.from_yaml(tiny_stream)[:2]
    run_stream(config, tmp_path / "run", tasks)
    theirs = weights(ContinualLearner.of_run(tmp_path / "run").model)
    model = attached(still_model)
    start, optimizer, leaks = weights(model), optimizer_of(model), []
    for index, task in enumerate(tasks):
        rows, encoder = rows_of(tiny_models, tiny_stream, index)
        before = weights(model)
        kept = {name: layer.space.basis.double() for name, layer in gorp.learned_layers(model).items()}
        trainer_of(model, optimizer, rows, encoder, tmp_path, gorp.GORPCallback(end_task=task.name)).train()
        for name, weight in weights(model).items():
            change = weight - before[name]
            bound = 1e-5 * change.norm() + 4 * torch.finfo(torch.float32).eps * before[name].norm()
            assert (change @ kept[name]).norm() <= bound
            leaks.append(kept[name].shape[1])
    assert max(leaks) > 0
    assert model.gradient_space.tasks == [task.name for task in tasks]
    for name, weight in weights(model).items():
        assert (weight - theirs[name]).norm() <= 1e-5 * (weight - start[name]).norm(), name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing` is deprecated:FutureWarning")  # trl's own default sets it
def test_trls_trainer_ends_where_gorp_run_does(tiny_models, tiny_stream, tmp_path) -> None:
    """A causal model: its rows are padded on the other side there, and are one token longer."""
    trl = pytest.importorskip("trl", reason="pip install gorp-cl[trl]")
    tasks = TaskStream.from_yaml(tiny_stream)[:2]
    layers = {"lora_targets": ["self_attn"], "full_rank_targets": ["mlp"]}
    still = without_dropout(tiny_models["causal"], tmp_path / "model", "attention_dropout")
    config = RunConfig.from_mapping(
        {"model": str(still), "training": TRAINING, "data": {"test_rows": 3}, "gorp": {**SETTINGS, **layers}}
    )
    run_stream(config, tmp_path / "run", tasks)
    theirs = weights(ContinualLearner.of_run(tmp_path / "run").model)
    model = attached(still, **layers)
    start, optimizer = weights(model), optimizer_of(model)
    for index, task in enumerate(tasks):
        rows, encoder = rows_of(tiny_models, tiny_stream, index, "causal")
        told = [
            {"input_ids": [*row.prompt, *row.answer], "completion_mask": [0] * len(row.prompt) + [1] * len(row.answer)}
            for row in rows
        ]
        settings = trl.SFTConfig(
            str(tmp_path / "trl"), num_train_epochs=1, per_device_train_batch_size=TRAINING["batch_size"],
            lr_scheduler_type="constant", train_sampling_strategy="sequential", report_to="none", save_strategy="no",
            bf16=False, completion_only_loss=True, disable_tqdm=True, dataloader_pin_memory=False,
        )  # fmt: skip
        trl.SFTTrainer(
            model, settings, train_dataset=datasets.Dataset.from_list(told), processing_class=encoder.tokenizer,
            optimizers=(optimizer, None), callbacks=[gorp.GORPCallback(end_task=task.name)],
        ).train()  # fmt: skip
    apart = {
        name: float((weight - theirs[name]).norm() / (weight - start[name]).norm())
        for name, weight in weights(model).items()
    }
    assert max(apart.values()) <= 2e-3, (
        apart
    )  # round-off decides directions that the last block's few answers leave open
    assert sorted(apart.values())[len(apart) // 2] <= 1e-5, apart


class CrashAt(TrainerCallback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, args, state, control, **_) -> None:
        if state.global_step == self.step:
            raise OSError("crash")


def after_one_task(folder: Path, tiny_models, tiny_stream, out: Path) -> tuple[PreTrainedModel, gorp.GORPAdamW]:
    model = attached(folder)
    optimizer = optimizer_of(model)
    rows, encoder = rows_of(tiny_models, tiny_stream, 0)
    trainer_of(model, optimizer, rows, encoder, out, gorp.GORPCallback(end_task="first"), max_steps=5).train()
    return model, optimizer


def test_a_trainer_goes_on_from_its_checkpoint_bit_for_bit(still_model, tiny_models, tiny_stream, tmp_path) -> None:
    rows, encoder = rows_of(tiny_models, tiny_stream, 1)
    saving = {"save_strategy": "steps", "save_steps": 4}
    whole, optimizer = after_one_task(still_model, tiny_models, tiny_stream, tmp_path)
    trainer_of(whole, optimizer, rows, encoder, tmp_path / "whole", gorp.GORPCallback("second"), **saving).train()

    model, optimizer = after_one_task(still_model, tiny_models, tiny_stream, tmp_path)
    interrupted = trainer_of(model, optimizer, rows, encoder, tmp_path / "out", **saving)
    interrupted.add_callback(CrashAt(6))
    with pytest.raises(OSError, match="crash"):
        interrupted.train()

    (checkpoint,) = (tmp_path / "out").glob("checkpoint-*")
    bare = attached(still_model)
    with pytest.raises(gorp.InputError, match=r"another gradient space.*GORPCallback keeps it in every checkpoint"):
        trainer_of(bare, optimizer_of(bare), rows, encoder, tmp_path / "out", **saving).train(str(checkpoint))

    fresh = attached(still_model, gorp.GradientSpace.load(checkpoint / SPACE_FILE))
    ending = gorp.GORPCallback(end_task="second")
    resumed = trainer_of(fresh, optimizer_of(fresh), rows, encoder, tmp_path / "out", ending, **saving)
    resumed.train(str(checkpoint))
    assert fresh.gradient_space.tasks == whole.gradient_space.tasks == ["first", "second"]
    for name, weight in weights(whole).items():
        assert torch.equal(weight, weights(fresh)[name]), name
    for name, layer in whole.gradient_space.layers.items():
        assert torch.equal(layer.basis, fresh.gradient_space.layers[name].basis), name


def test_console_and_metrics_have_all_layers_together_alone(
    still_model, tiny_models, tiny_stream, tmp_path, capsys
) -> None:
    model, optimizer = after_one_task(still_model, tiny_models, tiny_stream, tmp_path)
    rows, encoder = rows_of(tiny_models, tiny_stream, 1)
    callback = gorp.GORPCallback()
    trainer = trainer_of(model, optimizer, rows, encoder, tmp_path, callback)
    capsys.readouterr()
    metrics = trainer.train().metrics
    printed = capsys.readouterr().out
    assert "gorp/leak'" in printed and "gorp/leak/" not in printed
    assert {name: value for name, value in metrics.items() if name.startswith("gorp/")} == callback.reading.as_logs()
    assert set(callback.reading.layers) == set(gorp.learned_layers(model))
    assert not [name for name in trainer.evaluate(rows[:4]) if name.startswith("gorp/")]
    assert model.gradient_space.tasks == ["first"], "nobody asked to end the task"


def logged(tracker: str, still_model, tiny_models, tiny_stream, out: Path, **settings: object) -> set[str]:
    """Train a second task with a tracker; tells the names that a reading has."""
    model, optimizer = after_one_task(still_model, tiny_models, tiny_stream, out)
    rows, encoder = rows_of(tiny_models, tiny_stream, 1)
    callback = gorp.GORPCallback(**settings)
    trainer_of(model, optimizer, rows, encoder, out, callback, report_to=[tracker], project="gorp").train()
    return set(callback.reading.as_logs() | callback.reading.layers_as_logs())


@pytest.fixture
def tensorboard(tmp_path, monkeypatch) -> Callable[[], Any]:
    """What is in the event files."""
    module = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="pip install gorp-cl[trackers]"
    )
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "tensorboard"))
    return lambda: module.EventAccumulator(str(tmp_path / "tensorboard")).Reload()


@pytest.mark.parametrize("per_layer", [True, False])
def test_tensorboard_gets_the_meters(
    still_model, tiny_models, tiny_stream, tmp_path, tensorboard, per_layer: bool
) -> None:
    names = logged("tensorboard", still_model, tiny_models, tiny_stream, tmp_path, per_layer=per_layer)
    tags = {tag.removeprefix("train/") for tag in tensorboard().Tags()["scalars"] if "/gorp/" in tag}
    assert f"gorp/leak/{QUERY}" in names
    assert tags == {name for name in names if per_layer or name.count("/") == 1}
    leaks = tensorboard().Scalars("train/gorp/leak")
    assert [event.step for event in leaks][:3] == [4, 8, 10]
    assert all(0 < event.value < 1e-5 for event in leaks)


def test_gorp_run_reports_its_meters(still_model, tiny_stream, tmp_path, tensorboard) -> None:
    config = RunConfig.from_mapping(
        {
            "model": str(still_model), "training": TRAINING, "data": {"test_rows": 3}, "report_to": ["tensorboard"],
            "gorp": {"lora_targets": LORA, "full_rank_targets": FULL_RANK, **SETTINGS},
        }
    )  # fmt: skip
    run_stream(config, tmp_path / "run", TaskStream.from_yaml(tiny_stream)[:2])
    assert {"train/gorp/leak", f"train/gorp/blocked_energy/{QUERY}"} <= set(tensorboard().Tags()["scalars"])


def test_wandb_gets_the_meters_offline(still_model, tiny_models, tiny_stream, tmp_path, monkeypatch) -> None:
    wandb = pytest.importorskip("wandb", reason="pip install gorp-cl[trackers]")
    for name, value in {"MODE": "offline", "DIR": str(tmp_path), "SILENT": "true"}.items():
        monkeypatch.setenv(f"WANDB_{name}", value)
    names = logged("wandb", still_model, tiny_models, tiny_stream, tmp_path)
    wandb.finish()
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    content = file.read_bytes()
    assert not [name for name in names if f"train/{name}".encode() not in content]


def test_trackio_gets_the_meters(still_model, tiny_models, tiny_stream, tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    trackio = pytest.importorskip("trackio", reason="pip install trackio")
    storage = pytest.importorskip("trackio.sqlite_storage").SQLiteStorage
    names = logged("trackio", still_model, tiny_models, tiny_stream, tmp_path)
    (run,) = trackio.Api().runs("gorp")
    assert names <= {name.removeprefix("train/") for name in storage.get_all_metrics_for_run("gorp", run.name)}


def test_what_would_not_be_protected_is_refused(still_model, tiny_models, tiny_stream, tmp_path) -> None:
    rows, encoder = rows_of(tiny_models, tiny_stream, 0)
    model = attached(still_model)
    with pytest.raises(gorp.InputError, match=r"optimizer is AdamW.*accepted: optimizers=\(gorp\.GORPAdamW"):
        trainer_of(model, None, rows, encoder, tmp_path).train()
    with pytest.raises(gorp.InputError, match=r"steps is 2, but full-rank layers were attached for 1; accepted"):
        trainer_of(model, optimizer_of(model), rows, encoder, tmp_path, gradient_accumulation_steps=2).train()
    layer, optimizer = gorp.learned_layers(model)[QUERY], optimizer_of(model)
    trainer_of(model, optimizer, rows, encoder, tmp_path, max_steps=1).train()
    layer.A.data = layer.A.data.bfloat16()
    with pytest.raises(gorp.InputError, match=rf"factors of {QUERY} were made narrower than fp32 in the middle"):
        trainer_of(model, optimizer, rows, encoder, tmp_path).train()
    bare = load_backbone(str(still_model)).model
    with pytest.raises(ValueError, match="not attached"):
        trainer_of(bare, torch.optim.SGD(bare.parameters()), rows, encoder, tmp_path).train()


def test_factors_narrowed_before_a_task_start_anew(still_model, tiny_models, tiny_stream, tmp_path) -> None:
    learnt = []
    for narrowed in (False, True):
        model, optimizer = after_one_task(still_model, tiny_models, tiny_stream, tmp_path)
        rows, encoder = rows_of(tiny_models, tiny_stream, 1)
        for layer in gorp.learned_layers(model).values() if narrowed else ():
            for factor in layer.factors().values():
                factor.data = factor.data.bfloat16()
        trainer_of(model, optimizer, rows, encoder, tmp_path, max_steps=3).train()
        learnt.append(weights(model))
    assert all(torch.equal(weight, learnt[1][name]) for name, weight in learnt[0].items())


@pytest.mark.filterwarnings("ignore::FutureWarning")  # TRL's, of its own settings
def test_trl_trains_a_quantised_base(tiny_models, tmp_path) -> None:
    pytest.importorskip("bitsandbytes", reason="pip install gorp-cl[quantized]")
    trl = pytest.importorskip("trl", reason="pip install gorp-cl[trl]")
    backbone = load_backbone(str(tiny_models["causal"]), quantize="4bit")
    model = gorp.attach(backbone.model, gorp.GORPConfig(lora_targets=["self_attn"], rank=4, energy=0.5))
    optimizer = gorp.GORPAdamW(gorp.param_groups(model), lr=1e-2)
    rows = datasets.Dataset.from_list([{"prompt": "what colour ?", "completion": " red"}] * 8)
    for task in ("first", "second"):
        kept = {name: layer.space.basis.double() for name, layer in gorp.learned_layers(model).items()}
        before, callback = weights(model), gorp.GORPCallback(end_task=task)
        settings = trl.SFTConfig(
            str(tmp_path),
            num_train_epochs=3,
            bf16=False,
            save_strategy="no",
            report_to="none",
            dataloader_pin_memory=False,
        )
        trl.SFTTrainer(
            model,
            settings,
            train_dataset=rows,
            processing_class=backbone.tokenizer,
            optimizers=(optimizer, None),
            callbacks=[callback],
        ).train()
        for name, weight in weights(model).items():
            change = weight - before[name]
            assert change.norm() > 0
            assert (change @ kept[name]).norm() <= 1e-5 * change.norm() + 5e-7 * before[name].norm()
    assert max(basis.shape[1] for basis in kept.values()) > 0


def test_fp16_is_refused(still_model) -> None:
    model = attached(still_model)
    args = TrainingArguments(report_to="none")
    args.fp16 = True
    with pytest.raises(gorp.InputError, match="accepted: bf16=True"):
        check_trainer(args, model, optimizer_of(model))


@pytest.mark.parametrize("setting", ["deepspeed", "fsdp"])
@pytest.mark.parametrize("by", ["the Trainer's settings", "the launch"])
def test_what_takes_layers_apart_is_refused(setting: str, by: str, still_model, monkeypatch) -> None:
    args = TrainingArguments(report_to="none")
    check_trainer(args, model := attached(still_model), optimizer_of(model))
    if by == "the launch":
        monkeypatch.setenv(f"ACCELERATE_USE_{setting.upper()}", "true")
    else:
        setattr(args, setting, {"zero_optimization": {"stage": 2}} if setting == "deepspeed" else True)
    with pytest.raises(gorp.InputError, match=r"accepted: a Trainer without it"):
        check_trainer(args, model, optimizer_of(model))


def test_a_callback_of_no_trainer_says_so() -> None:
    with pytest.raises(RuntimeError, match=r"called by a transformers Trainer alone; elsewhere use gorp\.Meters"):
        gorp.GORPCallback().on_init_end(None, None, None)


def test_full_layers_and_a_blocked_task_are_warned_of(
    still_model, tiny_models, tiny_stream, tmp_path, monkeypatch
) -> None:
    model, optimizer = after_one_task(still_model, tiny_models, tiny_stream, tmp_path)
    rows, encoder = rows_of(tiny_models, tiny_stream, 1)
    for layer in model.gradient_space.layers.values():
        for side in (layer.input, layer.output):
            if side is not None:
                side.basis = orthonormalize(seeded_normal(side.width, int(0.7 * side.width), 3))
                side.energy = torch.zeros(side.rank)
    told: list[tuple[str, type[Warning]]] = []
    callback = gorp.GORPCallback(warn=lambda *warning: told.append(warning))
    monkeypatch.setattr(meters, "MOSTLY_BLOCKED", 0.5)
    trainer_of(model, optimizer, rows, encoder, tmp_path, callback).train()
    assert [category for _, category in told] == [NearlyFullWarning, MostlyBlockedWarning]
