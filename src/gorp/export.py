"""A run's model for the world outside: a plain transformers model, or a peft adapter, with its card and its space."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from peft.tuners.lora import LoraLayer

from gorp import __version__, fidelity
from gorp.backbones import DTYPES, known_models
from gorp.base_files import add_base_files
from gorp.checkpoint import FORMAT_VERSION
from gorp.config import GORPConfig
from gorp.errors import InputError, nearest
from gorp.export_folder import check_place, new_export, run_identity
from gorp.files import permit
from gorp.hub import hub_id, public_name
from gorp.learnt_model import LearntModel, open_learnt
from gorp.lora_adapter import lora_adapter, save_adapter
from gorp.plain_model import plain_model
from gorp.report.model_card import CARD_FILE, CardFacts, render_card
from gorp.run_folder import RunFolder
from gorp.space_file import SPACE_IN_EXPORT
from gorp.targets import linear_names, targets_for

Form = Literal["model", "adapter"]


@dataclass(frozen=True)
class Export:
    """A finished export: where it is, and sentences on how near it comes to the run's own model."""

    folder: Path
    notes: list[str]


def export_run(
    run: str | Path,
    out: str | Path,
    to: str | None = None,
    task: str | None = None,
    adapter: bool = False,
    dtype: str | None = None,
    model: str | None = None,
    overwrite: bool = False,
    repo: str | None = None,
) -> Export:
    """Write a run's model into a folder from which it loads without gorp.

    Args:
        run: the run folder.
        out: the folder to write; an earlier export of the same run is replaced.
        to: the task after which; the last one learnt if not given.
        task: the one to export, where the method has weights of its own for each.
        adapter: write a peft LoRA adapter and not a whole model.
        dtype: of what is written, float32 or bfloat16; as the run has it if not given, adapters in float32.
        model: where the base model is now, if not where the run's configuration says.
        overwrite: replace an export of another run, too, or one that files were put beside.
        repo: where on the hub the export is going to be, for its card.

    Raises:
        InputError: no such run or task, ``out`` holds something else, or what the method learnt fits in no such form.
        GorpError: the disk refuses.
    """
    place = Path(out).resolve()
    if dtype is not None and dtype not in DTYPES:
        raise InputError(f"--dtype {dtype}: unknown{nearest(dtype, DTYPES)}; accepted: {', '.join(DTYPES)}")
    identity = run_identity(RunFolder.of_run(run))
    check_place(place, identity, overwrite)
    learnt = open_learnt(run, to, task, model)
    method = learnt.learning.method
    if task is not None and not method.told_task:
        raise InputError(f"method {method.name!r} answers every task with the same model; leave --task out")
    form: Form = "adapter" if adapter else "model"
    wanted = DTYPES[dtype] if dtype else None
    told = {"format_version": FORMAT_VERSION, "gorp": __version__, "run": identity, "form": form, "task": task}
    with new_export(place, {**told, "learnt": [known.name for known in learnt.tasks]}) as folder:
        if adapter:
            found = lora_adapter(learnt)
            save_adapter(found, learnt, folder, wanted)
            notes = fidelity.of_adapter(learnt, found, wanted)
        else:
            plain_model(learnt, wanted).save_pretrained(folder)
            for weights in folder.glob("*.safetensors"):
                permit(weights)
            notes = [*fidelity.of_model(learnt, wanted), *add_base_files(learnt, folder)]
        facts = _facts(learnt, form, repo or place.name, notes, folder)
        if (space := learnt.files.space) is not None:
            space.base_model = facts.base  # where it is on this machine is nobody else's business
            (folder / SPACE_IN_EXPORT).parent.mkdir()
            space.save(folder / SPACE_IN_EXPORT)
        card = render_card(learnt.record, facts)
        (folder / CARD_FILE).write_text(card, encoding="utf-8")
    return Export(place, notes)


def _facts(learnt: LearntModel, form: Form, place: str, notes: Sequence[str], folder: Path) -> CardFacts:
    encoder = learnt.learning.encoder
    return CardFacts(
        form=form,
        kind=encoder.kind,
        base=public_name(learnt.source),
        base_on_hub=hub_id(learnt.source),
        base_is_known=learnt.source in known_models(),
        place=place,
        notes=notes,
        task=learnt.task,
        labels=next((known.labels for known in reversed(learnt.tasks) if known.labels), ("one", "another")),
        generating={} if encoder.kind == "encoder" else encoder.generating(learnt.config.training.max_target_length),
        is_sentence_transformer=(folder / "modules.json").exists(),
        space=SPACE_IN_EXPORT if learnt.files.space is not None else None,
        attach=_attach_settings(learnt) if learnt.config.method == "gorp" else {},
    )


def _attach_settings(learnt: LearntModel) -> dict[str, Any]:
    """What has to be given to `GORPConfig` to go on as the run would."""
    base = learnt.learning.base
    names = learnt.learning.method.layer_names()
    lora = [name for name in names if isinstance(base.get_submodule(name), LoraLayer)]
    within = tuple(f"{name}." for name in names)
    linear = [*names, *(name for name in linear_names(base) if not name.startswith(within))]
    usual = GORPConfig.model_validate({}).model_dump()
    settings = {
        **learnt.config.gorp.model_dump(),
        "lora_targets": targets_for(lora, linear),
        "full_rank_targets": targets_for([name for name in names if name not in lora], linear),
        "seed": learnt.config.seed,
        "accumulation_steps": learnt.config.training.accumulation_steps,
    }
    return {key: value for key, value in settings.items() if value != usual[key] or key == "rank"}
