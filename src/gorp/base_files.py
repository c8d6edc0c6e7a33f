"""What a base model brings beside its weights, put beside those that are exported."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from gorp.backbones import find_file
from gorp.errors import InputError
from gorp.files import read_json, stay_inside
from gorp.learnt_model import LearntModel

_VOCABULARIES = ("spiece.model", "tokenizer.model", "vocab.txt", "vocab.json", "merges.txt")
_MODULES = "modules.json"
_SENTENCE_FILES = ("sentence_bert_config.json", "config_sentence_transformers.json")


def add_base_files(learnt: LearntModel, folder: Path) -> list[str]:
    """Write the tokenizer, in every form that the base has it, and what sentence-transformers reads of an encoder.

    Returns:
        Sentences on what is to be known of these.

    Raises:
        InputError: the base's list of modules for sentence-transformers is damaged, or leads out of its folder.
    """
    encoder, source = learnt.learning.encoder, learnt.source
    encoder.tokenizer.save_pretrained(folder)
    for name in _VOCABULARIES:  # which converters may ask for where transformers reads tokenizer.json alone
        _copy(source, name, folder)
    if encoder.kind != "encoder" or not _copy(source, _MODULES, folder):
        return []
    for name in _SENTENCE_FILES:
        _copy(source, name, folder)
    pools_by_mean = True
    for module in _module_folders(read_json(folder / _MODULES), source):
        _copy(source, f"{module}/model.safetensors", folder)
        if _copy(source, f"{module}/config.json", folder) and module.endswith("Pooling"):
            pools_by_mean = _is_mean(read_json(folder / module / "config.json"))
    told = "sentence-transformers pools the tokens otherwise than by their mean, which gorp learnt by."
    return [] if pools_by_mean else [told]


def _copy(source: str, name: str, folder: Path) -> bool:
    """Whether a file comes with the base model; it is then put into the folder, if it is not there."""
    found = find_file(source, name)
    if found is not None and not (target := folder / name).exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(found, target)
    return found is not None


def _module_folders(modules: Any, source: str) -> list[str]:
    try:
        return [stay_inside(module["path"]) for module in modules if module["path"]]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{source}: {_MODULES} is no list of modules with a path each ({error})") from None


def _is_mean(pooling: dict[str, Any]) -> bool:
    return bool(pooling.get("pooling_mode_mean_tokens")) or pooling.get("pooling_mode") == "mean"
