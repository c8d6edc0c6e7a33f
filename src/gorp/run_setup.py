"""What a run starts from: its stream, its settled configuration, and a record of where it was made."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from gorp._ranks import ranks
from gorp.backbones import Backbone, load_backbone
from gorp.checkpoint import model_fingerprint
from gorp.errors import InputError
from gorp.launch import join_ranks
from gorp.methods import METHODS, check_method, load_method
from gorp.methods.base import Method
from gorp.protect import load_protection
from gorp.report.record import RunRecord
from gorp.run_config import BudgetConfig, RunConfig
from gorp.run_folder import RunFolder
from gorp.run_state import KnownTask
from gorp.space import GradientSpace
from gorp.tasks import Example, Task, TaskStream
from gorp.tasks.task import BASE

#: Settings that may change when a run is gone on with: nothing that is learnt depends on them.
FREE_SETTINGS = (
    "name",
    "report_to",
    "model",
    "stream",
    "data.dir",
    "evaluation.batch_size",
    "training.save_every",
    "training.parallel",
    *(f"budget.{key}" for key in BudgetConfig.model_fields),
)
_OF_THIS_MACHINE = ("transformers_version", "dtype", "torch_dtype", "use_cache")


def load_stream(config: RunConfig) -> TaskStream:
    """The stream that a configuration names.

    Raises:
        InputError: no such stream, or its data is missing or damaged.
    """
    if config.stream is None:
        raise InputError("key 'stream': is missing; accepted: builtin, standard-cl/1, long/4 ..., or a YAML file")
    data = config.data
    read = TaskStream.from_yaml if config.stream.endswith((".yaml", ".yml")) else TaskStream.from_name
    return read(
        config.stream,
        data_dir=data.dir,
        train_rows=data.train_rows,
        test_rows=data.test_rows,
        validation_rows=data.validation_rows,
        seed=config.seed,
        name_task_in_prompt=data.name_task_in_prompt or None,  # as the stream file says
    )


def load_base(config: RunConfig, source: str | None = None) -> Backbone:
    """The base model of a run with its tokenizer, quantised if so configured.

    Args:
        config: of the run.
        source: where the model is, if not where ``config`` says.

    Raises:
        InputError: it cannot be loaded, or the method does not learn on a quantised base.
    """
    name = source or config.model
    if name is None:
        raise InputError("key 'model': is missing; accepted: a built-in name, a folder, or a hub id")
    if config.quantize is None:
        return load_backbone(name, config.dtype)
    method = load_method(config.method)
    check_on_quantized(method)
    return load_backbone(name, config.dtype, config.quantize, method(config).whole_layers)


def base_of_run(folder: RunFolder, source: str | None = None) -> Backbone:
    """The base model that an existing run began with.

    Args:
        folder: of the run.
        source: where the model is now, if not where the run says.

    Raises:
        InputError: it cannot be found, or is another one.
    """
    config = folder.config()
    if (source or config.model) is None:
        raise InputError(f"{folder.path}: the run does not say where its base model is; give it (--model)")
    backbone = load_base(config, source)
    check_model(folder, model_fingerprint(backbone.model), describe_model(backbone.model, backbone.tokenizer))
    return backbone


def check_on_quantized(method: type[Method]) -> None:
    """Refuse a method that changes the weights of its base themselves.

    Raises:
        InputError: it does; the message lists those that do not.
    """
    if not method.on_quantized:
        accepted = ", ".join(name for name in METHODS if load_method(name).on_quantized)
        raise InputError(
            f"method {method.name!r} changes the weights of its base, which one in 4 or 8 bits does not allow; "
            f"accepted: quantize: null, or a method of {accepted}"
        )


def starting_space(config: RunConfig, fingerprint: str) -> GradientSpace | None:
    """The space that a run begins with, where its configuration names one that protects the base model.

    Args:
        config: of the run.
        fingerprint: of its base model.

    Raises:
        InputError: the method keeps no such space, or the file is of another model, or damaged.
    """
    if config.protect is None:
        return None
    if not load_method(config.method).begins_with_space:
        accepted = ", ".join(name for name in METHODS if load_method(name).begins_with_space)
        raise InputError(f"key 'protect': method {config.method!r} begins with no space; accepted: null, or {accepted}")
    return load_protection(config.protect, fingerprint, float(config.gorp.max_share or 1.0))


def settle_config(folder: RunFolder, method: str | None, config: RunConfig | None) -> RunConfig:
    """The configuration to work with: the folder's where it has one, else that given, else the defaults.

    Raises:
        InputError: the folder's differs from the given one in what is learnt, or the method has no such options.
    """
    if method is not None:
        check_method(method)
    saved = folder.config() if folder.state is not None else None
    if saved is not None and config is None:
        if method is not None and method != saved.method:
            raise InputError(f"{folder.path}: is a run of method {saved.method!r}, not {method!r}")
        return saved
    given = config or RunConfig(model=None, stream=None)
    given = settle_options(given.model_copy(update={"method": method or given.method}))
    if saved is None:
        return given
    moved = (
        {"protect": saved.protect} if given.protect and saved.protect else {}
    )  # `check_model` compares what it holds
    if different := first_difference(given.model_copy(update=moved), saved):
        raise InputError(f"{folder.path}: is a run with {different}; choose another folder, or put the setting back")
    return given


def describe_model(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    """The settings that a base model and its tokenizer come with, and a sha256 of the vocabulary, by dotted key."""
    settings = flatten(json.loads(model.config.to_json_string(use_diff=False)))
    kept = {key: value for key, value in settings.items() if key not in _OF_THIS_MACHINE and not key.startswith("_")}
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()))
    return {**kept, "vocabulary": hashlib.sha256(vocabulary.encode()).hexdigest()}


def check_trackers(names: Sequence[str]) -> None:
    """Refuse trackers that transformers does not know, or that cannot be used here.

    Raises:
        InputError: there is one.
    """
    from transformers.integrations.integration_utils import get_reporting_integration_callbacks

    for name in names:
        try:
            for tracker in get_reporting_integration_callbacks([name]):  # type: ignore[no-untyped-call]
                tracker()
        except (ValueError, RuntimeError, ImportError) as error:
            raise InputError(f"key 'report_to': {name!r} cannot be used ({str(error).splitlines()[0]})") from None


def check_model(folder: RunFolder, fingerprint: str, settings: Mapping[str, Any]) -> None:
    """Refuse the folder of a run of another base model. Settings that only one of two versions knows are no difference.

    Raises:
        InputError: weights, vocabulary or settings are not those that the run began with.
    """
    state = folder.state
    if state is None:
        return
    other = "other weights" if state.base_model != fingerprint else None
    for key in sorted(settings.keys() & state.model_settings.keys()):
        if settings[key] != state.model_settings[key]:
            told = f"{key} = {state.model_settings[key]!r}, not {settings[key]!r}"
            other = other or ("another vocabulary" if key == "vocabulary" else told)
    if other:
        raise InputError(f"{folder.path}: is the run of another base model ({other}); accepted: the one it began with")


def first_difference(given: RunConfig, saved: RunConfig, free: Sequence[str] = FREE_SETTINGS) -> str | None:
    """``"KEY = SAVED, not GIVEN"``, the first setting that changes what is learnt; None if there is no such."""
    ours, theirs = (flatten(settings.model_dump(mode="json")) for settings in (given, saved))
    for key in {**theirs, **ours}:
        if key not in free and ours.get(key) != theirs.get(key):
            return f"{key} = {theirs.get(key)!r}, not {ours.get(key)!r}"
    return None


def settle_options(config: RunConfig) -> RunConfig:
    """The configuration with its method's options checked, and every default among them written out.

    Raises:
        InputError: the method has no such options.
    """
    options = load_method(config.method).read_options(config.options)
    return config.model_copy(update={"options": options.model_dump(mode="json")})


def check_known(folder: RunFolder, tasks: Sequence[Task], one_more: bool = False) -> None:
    """Refuse the folder of a run on other tasks, or on other rows of them.

    ``tasks`` are a stream, which begins with those of them that the run knows, or ``one_more`` task.

    Raises:
        InputError: it is.
    """
    known = {task.name: task for task in folder.state.tasks} if folder.state else {}
    names = [task.name for task in tasks]
    order = [name for name in known if name in names]
    if not one_more and ((known and not order) or names[: len(order)] != order):
        raise InputError(f"{folder.path}: is the run of another stream ({', '.join(known)}); choose another folder")
    for task in tasks:
        if task.name == BASE and BASE not in known:
            raise InputError(f"task {BASE!r}: so the run before its first task is called; accepted: any other name")
        if task.name in known and known[task.name] != KnownTask.of(task):
            raise InputError(
                f"{folder.path}: task {task.name!r} of this run had other rows; accepted: the same data, "
                "with the same data settings, another name (--name), or another folder"
            )


def check_unseen(folder: RunFolder, tasks: Sequence[Task], unseen: Sequence[Task] | None) -> None:
    """Refuse to learn a task that a run only measures, and to measure other ones than those it began with.

    Args:
        folder: of the run.
        tasks: that are to be learnt.
        unseen: that are to be measured and never learnt; None for whichever they are.

    Raises:
        InputError: the folder is the run of another list of unseen tasks, or of other rows of them.
    """
    state = folder.state
    known = state.unseen if state else []
    for task in tasks:
        if task.name in {other.name for other in known}:
            raise InputError(f"{folder.path}: task {task.name!r} is measured in this run and never learnt; rename it")
    if not state or not state.tasks or unseen is None or [KnownTask.of(task) for task in unseen] == known:
        return
    names, given = (", ".join(task.name for task in listed) or "none" for listed in (known, unseen))
    what = f"{names}, not {given}" if names != given else "the same ones with other rows"
    raise InputError(
        f"{folder.path}: is a run whose unseen tasks are {what}; accepted: the list it began with, or another folder"
    )


def describe_environment() -> dict[str, Any]:
    """What a run was made on: versions, machine, threads, device."""
    versions = {}
    for package in ("gorp-cl", "torch", "transformers", "peft", "accelerate", "bitsandbytes", "numpy"):
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    device = join_ranks()
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor_count": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "ranks": ranks(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else str(device),
        **versions,
        "commit": git_commit(),
    }


def git_commit() -> str | None:
    """The commit that gorp's sources are at, ``+`` if they differ from it; None if they are not a checkout's."""

    def git(*command: str) -> str:
        run = ["git", "-C", str(here), *command]
        return subprocess.run(run, capture_output=True, text=True, check=True).stdout.strip()

    here = Path(__file__).parent
    try:
        git("ls-files", "--error-unmatch", __file__)
        return git("rev-parse", "--short=12", "HEAD") + ("+" if git("status", "--porcelain", "--", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def new_record(config: RunConfig, path: Path) -> RunRecord:
    """The record of a run that has learnt nothing yet; ``path`` is its folder."""
    return RunRecord(
        name=config.name or path.name,
        method=config.method,
        model=config.model or "given",
        stream=config.stream or "given",
        tasks=[],
        seed=config.seed,
        config=config.model_dump(mode="json"),
        environment=describe_environment(),
    )


def rows_of(task: Task, split: str) -> list[Example]:
    """A task's test or validation rows."""
    return task.test if split == "test" else task.validation


def count_rows(tasks: Sequence[Task], split: str) -> dict[str, int]:
    """How many test or validation rows each task has, by name."""
    return {task.name: len(rows_of(task, split)) for task in tasks}


def join_tasks(tasks: Sequence[Task]) -> Task:
    """All tasks as one, for methods that learn them together."""
    return Task(
        " + ".join(task.name for task in tasks),
        train=[row for task in tasks for row in task.train],
        validation=[row for task in tasks for row in task.validation],
        test=[row for task in tasks for row in task.test],
    )


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested settings as one mapping of dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat.update(flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {f"{prefix}{key}": value})
    return flat
