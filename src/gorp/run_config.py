"""The whole run as one validated configuration: read from YAML, overridden key by key, written back resolved."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from gorp.config import GORPConfig
from gorp.errors import InputError, nearest, nearest_choice
from gorp.files import read_yaml
from gorp.methods import METHODS, check_method
from gorp.parsing import parse_yaml

Answers = Literal["generated", "options"]


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)


class TrainingConfig(_Section):
    """How one task is trained."""

    epochs: int = Field(3, ge=1)
    batch_size: int = Field(8, ge=1, description="rows per forward pass")
    accumulation_steps: int = Field(1, ge=1, description="forward passes per optimizer step")
    lr: float = Field(1e-3, gt=0, description="learning rate of LoRA factors and prompts")
    full_rank_lr: float = Field(1e-2, gt=0, description="learning rate of full-rank layers")
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    warmup: float = Field(0.0, ge=0, lt=1, description="share of a task's steps over which the learning rate rises")
    max_grad_norm: float = Field(1.0, ge=0, description="0 switches clipping off")
    weight_decay: float = Field(0.0, ge=0)
    precision: Literal["fp32", "bf16"] = Field("fp32", description="bf16: autocast; weights stay as they were loaded")
    gradient_checkpointing: bool = False
    parallel: Literal["replicate", "shard"] = Field(
        "replicate", description="what ranks do with the model: each has all of it, or some rows of each weight (FSDP2)"
    )
    group_by_length: bool = Field(False, description="batches of rows of like length, drawn from nearby rows")
    max_source_length: int = Field(512, ge=8, description="tokens of a prompt; what may be cut is cut to fit")
    max_target_length: int = Field(50, ge=1, description="tokens of an answer, in training")
    save_every: int = Field(200, ge=1, description="optimizer steps between saves of a task in flight")


class DataConfig(_Section):
    """Where rows come from and how many are used."""

    dir: str | None = Field(None, description="folder of the benchmark data; $GORP_DATA if not given")
    train_rows: int | None = Field(None, ge=1)
    test_rows: int | None = Field(None, ge=1)
    validation_rows: int | None = Field(None, ge=0)
    name_task_in_prompt: bool = Field(False, description="the benchmark's Task: and Dataset: lines")


class EvaluationConfig(_Section):
    """How tasks are scored."""

    batch_size: int = Field(64, ge=1)
    split: Literal["test", "validation"] = "test"
    answers: Answers = Field(
        "generated",
        description="an answer is generated, or the likeliest of the row's options where it has some; encoders choose",
    )
    each_stage: Literal["all", "new"] = Field(
        "all",
        description="tasks scored after each stage; new: that stage's alone, and all after the last one known; "
        "there is no FWT and no forgetting then",
    )


class BudgetConfig(_Section):
    """How much the earlier tasks may lose to a new one, and what follows when they lose more: docs/undo.md."""

    max_forgetting: float | None = Field(
        None, ge=0, le=100, description="points that each earlier task, and all on average, may lose; none: any number"
    )
    on_breach: Literal["stop", "rollback", "retry"] = Field(
        "stop", description="keep the task and stop, take it back and stop, or take it back and learn it more gently"
    )
    confidence: float = Field(
        0.95, ge=0, lt=1, description="of a loss's interval, all of which lies above a budget that is breached; 0: none"
    )
    retries: int = Field(2, ge=1, description="attempts to learn a task more gently before it is taken back")
    retry_lr: float = Field(0.3, gt=0, lt=1, description="both learning rates are multiplied by it at each retry")
    retry_damping: float = Field(0.5, ge=0, description="added to gorp.damping at each retry")


class LoRAConfig(_Section):
    """LoRA of every method that learns by it, but for gorp."""

    rank: int = Field(8, ge=1)
    alpha: float = Field(32.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    targets: list[str] | None = Field(None, min_length=1, description="the architecture's default if not given")


class RunConfig(_Section):
    """A run: one method, one model, one stream, one seed."""

    name: str | None = Field(None, description="of the run; the run folder's name if not given")
    method: str = "gorp"
    model: str | None = Field("t5-tiny", description="a built-in name, a folder, or a hub id")
    dtype: Literal["float32", "bfloat16"] = Field("float32", description="of the model's weights")
    quantize: Literal["4bit", "8bit"] | None = Field(
        None, description="hold the model's blocks in so many bits, but for layers that learn at full rank"
    )
    protect: str | None = Field(None, description="the space to begin with, a file that `gorp protect` wrote")
    stream: str | None = Field("builtin", description="builtin, standard-cl/1, long/4 ..., or a stream's YAML file")
    seed: int = Field(0, ge=0)
    report_to: list[str] = Field(default_factory=list, description="trackers of transformers, such as wandb")
    training: TrainingConfig = Field(default_factory=TrainingConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    evaluation: EvaluationConfig = Field(default_factory=EvaluationConfig)
    budget: BudgetConfig = Field(default_factory=BudgetConfig)
    lora: LoRAConfig = Field(default_factory=LoRAConfig)
    gorp: GORPConfig = Field(default_factory=lambda: GORPConfig.model_validate({}))
    options: dict[str, Any] = Field(default_factory=dict, description="of the method alone; `gorp list methods`")

    @model_validator(mode="after")
    def _budget_needs_scores(self) -> RunConfig:
        if self.budget.max_forgetting is not None and self.evaluation.each_stage != "all":
            raise ValueError(
                "budget.max_forgetting needs every earlier task's score; evaluation.each_stage then accepts 'all' alone"
            )
        return self

    @model_validator(mode="after")
    def _said_once(self) -> RunConfig:
        steps = self.training.accumulation_steps
        if self.gorp.seed not in (0, self.seed):
            raise ValueError(f"gorp.seed is {self.gorp.seed}, and what counts in a run is seed, which is {self.seed}")
        if self.gorp.accumulation_steps not in (1, steps):
            raise ValueError(
                f"gorp.accumulation_steps is {self.gorp.accumulation_steps}, and what counts in a run is "
                f"training.accumulation_steps, which is {steps}"
            )
        return self

    @field_validator("method")
    @classmethod
    def _known_method(cls, name: str) -> str:
        if name not in METHODS:
            raise ValueError(f"{name!r} is not a method{nearest(name, METHODS)}; methods: {', '.join(METHODS)}")
        return check_method(name)

    @classmethod
    def from_yaml(cls, path: str | Path, overrides: Iterable[str] = ()) -> RunConfig:
        """Read a configuration; ``overrides`` are ``dotted.key=value``, the value as YAML.

        A stream file, model folder, space or data folder that exists beside the file is meant; else the path stands as
        given.

        Raises:
            InputError: the file cannot be read, or a key or value is wrong; the message names file and key.
        """
        file = Path(path)
        values = read_yaml(file, "configuration file")
        if values is None:
            raise InputError(f"{file}: is empty; expected keys such as method, model, stream, training")
        if "tasks" in values:
            raise InputError(f"{file}: is a stream file; accepted: a configuration whose key 'stream' names it")
        data = values.get("data")
        for section, key in ((values, "stream"), (values, "model"), (values, "protect"), (data, "dir")):
            if isinstance(section, dict) and isinstance(section.get(key), str):
                beside = file.parent / section[key]
                section[key] = str(beside) if beside.exists() else section[key]
        return cls.from_mapping(values, overrides, source=str(file))

    @classmethod
    def from_mapping(
        cls, values: Mapping[str, Any], overrides: Iterable[str] = (), source: str = "configuration"
    ) -> RunConfig:
        """Validate plain values; ``source`` names them in messages.

        Raises:
            InputError: a key or value is wrong.
        """
        merged = dict(values)
        for override in overrides:
            _apply_override(merged, override)
        try:
            return cls.model_validate(merged)
        except ValidationError as error:
            raise InputError(f"{source}: {_describe(error)}") from None

    def to_yaml(self) -> str:
        """The resolved configuration, every default written out."""
        text: str = yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        return text


def _apply_override(values: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise InputError(f"--set {override}: expected key=value, for example training.lr=1e-3")
    *sections, last = key.split(".")
    place = values
    for section in sections:
        inner = place.get(section)
        if inner is not None and not isinstance(inner, dict):
            raise InputError(f"--set {override}: {section!r} is a value, not a section")
        place[section] = place = dict(inner or {})
    try:
        place[last] = parse_yaml(text)
    except yaml.YAMLError:
        raise InputError(f"--set {override}: the value is not valid YAML") from None


def _describe(error: ValidationError) -> str:
    """The first problem of a validation, with the path of its key and what would be accepted."""
    problems = error.errors(include_url=False)
    first = problems[0]
    key = ".".join(str(part) for part in first["loc"])
    more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
    if first["type"] == "extra_forbidden":
        accepted = _keys_beside(first["loc"])
        return f"unknown key '{key}'{nearest(str(first['loc'][-1]), accepted)}; accepted: {', '.join(accepted)}{more}"
    message = first["msg"].removeprefix("Value error, ")
    found = "" if first["type"] == "value_error" else f", found {first['input']!r}{nearest_choice(first)}"
    return f"key '{key}': {message}{found}{more}"


def _keys_beside(location: tuple[int | str, ...]) -> list[str]:
    """The keys accepted in the section that holds ``location``."""
    section: type[BaseModel] = RunConfig
    for part in location[:-1]:
        field = section.model_fields[str(part)]
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            section = field.annotation
    return list(section.model_fields)
