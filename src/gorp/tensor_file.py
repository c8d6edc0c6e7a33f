"""A safetensors file written as any other: readable to whom the umask says, and refused by a disk as an OSError."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from gorp.files import permit


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors, contiguous and no two in one storage, with metadata; not atomic by itself.

    Raises:
        OSError: the disk refuses.
    """
    try:
        save_file(dict(tensors), path, dict(metadata))
    except SafetensorError as error:
        raise OSError(f"{path}: {error}") from error
    permit(path)
