"""The model card of an export: what the hub reads at its top, and what people read below, written from the record."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import yaml
from huggingface_hub import EvalResult, ModelCardData
from jinja2 import Environment, PackageLoader, StrictUndefined

from gorp.report import words
from gorp.report.layers import digest_layers
from gorp.report.record import RunRecord
from gorp.report.tables import escaped, matrix_grid, to_markdown
from gorp.tasks.task import METRICS

CARD_FILE = "README.md"
_PIPELINES = {"seq2seq": "text-generation", "causal": "text-generation", "encoder": "sentence-similarity"}
_HUB_METRICS = {"exact_match": "exact_match", "rouge_l": "rouge"}
_MADE_WITH = ("gorp-cl", "torch", "transformers", "peft")


@dataclass(frozen=True)
class CardFacts:
    """What a card says beside the record.

    Attributes:
        form: a whole model, or an adapter.
        kind: how the model answers: seq2seq, causal or encoder.
        base: name of the base model, no path.
        base_on_hub: its id there, if it is there.
        base_is_known: whether its name stands for it wherever gorp is.
        place: where the export is loaded from: its id on the hub, or the name of its folder.
        notes: sentences on how near the export comes to the run's own model.
        task: the only task that the export answers, if it is of one.
        labels: that an encoder chooses among, in the example.
        generating: arguments of ``generate``, in the example; an encoder has none.
        is_sentence_transformer: whether that library loads it, too.
        space: the file of the gradient space in the export, if it is there.
        attach: arguments of `gorp.GORPConfig` to go on with, as python's values; none where the method is another.
    """

    form: Literal["model", "adapter"]
    kind: Literal["seq2seq", "causal", "encoder"]
    base: str
    base_on_hub: str | None
    place: str
    base_is_known: bool = False
    notes: Sequence[str] = ()
    task: str | None = None
    labels: Sequence[str] = ()
    generating: Mapping[str, Any] = field(default_factory=dict)
    is_sentence_transformer: bool = False
    space: str | None = None
    attach: Mapping[str, Any] = field(default_factory=dict)


def render_card(record: RunRecord, facts: CardFacts) -> str:
    """The card in Markdown, after its metadata in YAML."""
    environment = Environment(
        loader=PackageLoader("gorp.report"), undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["escaped"] = escaped
    return environment.get_template("model_card.md.j2").render(
        front_matter=_front_matter(record, facts),
        record=record,
        facts=facts,
        matrix=to_markdown(matrix_grid(record)),
        scoring=words.scoring([record]),
        findings=[finding.text for finding in words.findings(record)],
        leak=_leak(record),
        settings=_settings(record),
        made_with={name: record.environment[name] for name in _MADE_WITH if name in record.environment},
    )


def _front_matter(record: RunRecord, facts: CardFacts) -> str:
    library = "sentence-transformers" if facts.is_sentence_transformer else "transformers"
    data = ModelCardData(
        base_model=facts.base_on_hub,
        library_name="peft" if facts.form == "adapter" else library,
        pipeline_tag=_PIPELINES[facts.kind],
        tags=["gorp", "continual-learning", *(["lora"] if facts.form == "adapter" else []), f"method:{record.method}"],
        model_name=record.name,
        eval_results=_results(record, facts),
    )
    return data.to_yaml()


def _results(record: RunRecord, facts: CardFacts) -> list[EvalResult] | None:
    """The last stage's score of each task; None if there is none, for the hub takes no empty list."""
    last = record.matrix[-1] if record.matrix else []
    return [
        EvalResult(
            task_type=_PIPELINES[facts.kind],
            dataset_type=task,
            dataset_name=task,
            metric_type=_HUB_METRICS[metric],
            metric_name=f"{METRICS[metric]}, percent",
            metric_value=round(value, 4),
        )
        for task, value in zip(record.tasks, last, strict=True)
        if value is not None and facts.task in (None, task)
        for metric in (record.scored_by.get(task, "exact_match"),)
    ] or None


def _leak(record: RunRecord) -> str | None:
    """One sentence on the layers' leak; None where nothing is protected. Layers that leak are told as findings."""
    layers = [layer for layer in digest_layers(record) if layer.leak is not None and layer.now.cap]
    if not layers or any(layer.leaks for layer in layers):
        return None
    worst = max(layers, key=lambda layer: (layer.leak or 0.0) / (layer.leak_bound or 1.0))
    return (
        "No layer changed on protected directions by more than rounding explains; nearest to its bound came "
        f"{worst.name} (leak {words.small(worst.leak)}, bound {words.small(worst.leak_bound)})."
    )


def _settings(record: RunRecord) -> str:
    """What was configured of the learning, as YAML: nothing that names places on the machine where it was made."""
    own = "gorp" if record.method == "gorp" else "lora"
    keys = ("method", "options", "dtype", "quantize", "seed", own, "training", "evaluation")
    shown = {key: record.config[key] for key in keys if record.config.get(key) not in (None, {})}
    text: str = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)
    return text
