"""Saving so that a crash loses nothing saved before: atomic, versioned, safetensors and JSON, never pickle."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from gorp.checksums import CHECKSUMS, checksums_of, verify
from gorp.errors import GorpError, InputError
from gorp.files import read_json, replace_folder, sync, write_text_atomically
from gorp.tensor_file import write_tensors

FORMAT_VERSION = 1
_SAMPLED_ELEMENTS = 65536


def write_json(path: Path, content: object) -> None:
    """Write ``content`` as JSON, atomically and durably.

    Raises:
        GorpError: the file cannot be written; what stood there before is untouched.
    """
    write_text_atomically(path, json.dumps(content, indent=1) + "\n")


def save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors to one safetensors file (not atomic by itself: write into a folder given to `publish_folder`)."""
    stored = {name: value.detach().to("cpu").contiguous() for name, value in tensors.items()}
    seen: set[int] = set()
    for name, value in stored.items():
        pointer = value.untyped_storage().data_ptr()
        if pointer in seen:
            stored[name] = value.clone()
        seen.add(pointer)
    write_tensors(path, stored, {"format_version": str(FORMAT_VERSION)})


def load_tensors(path: Path) -> dict[str, Tensor]:
    """Read what `save_tensors` wrote.

    Raises:
        InputError: the file is missing, damaged, or of another format version.
    """
    try:
        verify(path)
        with safe_open(str(path), framework="pt") as file:
            version = (file.metadata() or {}).get("format_version")
            if version != str(FORMAT_VERSION):
                raise InputError(f"{path}: format_version is {version!r}; this gorp reads {str(FORMAT_VERSION)!r}")
            # Copied into memory aligned as torch's own is: products of tensors aligned otherwise may round otherwise.
            return {key: file.get_tensor(key).clone() for key in file.keys()}  # noqa: SIM118 (not a mapping)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; the checkpoint is incomplete") from None
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from None


def save_state(folder: Path, name: str, state: object) -> None:
    """Write a nested state (dicts, lists, tuples, plain values, tensors) as ``name.json`` and ``name.safetensors``."""
    tensors: dict[str, Tensor] = {}
    skeleton = _take_apart(state, "", tensors)
    (folder / f"{name}.json").write_text(
        json.dumps({"format_version": FORMAT_VERSION, "state": skeleton}), encoding="utf-8"
    )
    save_tensors(folder / f"{name}.safetensors", tensors)


def load_state(folder: Path, name: str) -> Any:
    """Read what `save_state` wrote.

    Raises:
        InputError: a file is missing, damaged, or of another format version.
    """
    path = folder / f"{name}.json"
    verify(path)
    content = read_json(path)
    check_version(path, content)
    tensors = load_tensors(folder / f"{name}.safetensors")
    try:
        return _put_together(content["state"], tensors)
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a saved state ({type(error).__name__}: {error}); the file is damaged") from None


@contextmanager
def fitting(run: Path, what: str) -> Iterator[None]:
    """Refuse saved tensors and values that the method cannot make use of, whatever it raises, naming the run."""
    try:
        yield
    except InputError as error:
        raise InputError(f"{run}: {error}") from None
    except (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{run}: what is saved of the {what} does not fit the run ({type(error).__name__}: {reason}); it is damaged"
        ) from None


def check_version(path: Path, content: object) -> None:
    """Raise ``InputError`` unless ``content`` is an object of this format version."""
    version = content.get("format_version") if isinstance(content, dict) else None
    if version != FORMAT_VERSION:
        raise InputError(f"{path}: key 'format_version' is {version!r}; this gorp reads {FORMAT_VERSION}")


def publish_folder(unfinished: Path, final: Path) -> None:
    """Give ``unfinished`` its checksums, make it durable and rename it to ``final``, replacing what stood there.

    Raises:
        GorpError: the disk refuses.
    """
    try:
        files = (file.relative_to(unfinished).as_posix() for file in unfinished.rglob("*") if file.is_file())
        (unfinished / CHECKSUMS).write_text(checksums_of(unfinished, files), encoding="utf-8")
        for file in unfinished.rglob("*"):
            sync(file)
        sync(unfinished)
        replace_folder(unfinished, final)
    except OSError as error:
        raise GorpError(f"cannot write {final}: {error.strerror or error}") from error


def random_state() -> dict[str, Any]:
    """The states of python's, numpy's and torch's random number generators, as tensors and plain values.

    Of several devices the one that this process works on counts, so that any number of them can go on from it.
    """
    version, internal, gauss = random.getstate()
    kind, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    state: dict[str, Any] = {
        "python": [version, list(internal), gauss],
        "numpy": [kind, np.asarray(keys).tolist(), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["device"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: Mapping[str, Any]) -> None:
    """Put back what `random_state` returned."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if "device" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["device"])


def seed_everything(seed: int, stage: int) -> None:
    """Seed every generator for one stage of a run, so that a stage's randomness depends on nothing before it."""
    derived = int.from_bytes(hashlib.sha256(f"{seed}/{stage}".encode()).digest()[:4], "little")
    random.seed(derived)
    np.random.seed(derived)
    torch.manual_seed(derived)


def model_fingerprint(model: nn.Module) -> str:
    """A sha256 that tells one base model from another: names, shapes, types and weights (large ones sampled evenly)."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        stride = max(1, tensor.numel() // _SAMPLED_ELEMENTS)
        sample = tensor.detach().reshape(-1)[::stride].to("cpu").contiguous()
        digest.update(sample.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def _take_apart(state: object, path: str, tensors: dict[str, Tensor]) -> object:
    """The JSON skeleton of a state; tensors go to ``tensors`` under their path."""
    if isinstance(state, Tensor):
        tensors[path] = state
        return {"tensor": path}
    if isinstance(state, dict):
        return {"dict": [[key, _take_apart(value, f"{path}/{key}", tensors)] for key, value in state.items()]}
    if isinstance(state, (list, tuple)):
        parts = [_take_apart(value, f"{path}/{index}", tensors) for index, value in enumerate(state)]
        return {"tuple": parts} if isinstance(state, tuple) else parts
    if state is None or isinstance(state, (bool, int, float, str)):
        return state
    raise TypeError(f"a checkpoint holds tensors and plain values, not {type(state).__name__} (at {path})")


def _put_together(skeleton: object, tensors: Mapping[str, Tensor]) -> object:
    if isinstance(skeleton, list):
        return [_put_together(part, tensors) for part in skeleton]
    if isinstance(skeleton, dict):
        if "tensor" in skeleton:
            return tensors[skeleton["tensor"]]
        if "tuple" in skeleton:
            return tuple(_put_together(part, tensors) for part in skeleton["tuple"])
        return {key: _put_together(value, tensors) for key, value in skeleton["dict"]}
    return skeleton
