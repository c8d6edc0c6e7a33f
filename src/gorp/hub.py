"""A folder sent to the hub, by whoever is logged in there: gorp asks for no token and keeps none."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # not said to be exported

from gorp.backbones import known_models
from gorp.errors import GorpError, InputError


def check_repo(repo: str) -> None:
    """Refuse what cannot be the name of a repository, before anything is done.

    Raises:
        InputError: it cannot.
    """
    if not _is_repo(repo):
        raise InputError(f"--push {repo}: is no name of a repository; accepted: NAME/MODEL")


def hub_id(model: str) -> str | None:
    """The name of a model itself if it is its id on the hub; None for a folder, and for what comes with a package."""
    return model if _is_repo(model) and model not in known_models() and not Path(model).exists() else None


def public_name(model: str) -> str:
    """What to call a model before others: its id on the hub, or its name without where it is on this machine."""
    return hub_id(model) or Path(model).name


def _is_repo(name: str) -> bool:
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    return True


def push(folder: Path, repo: str, public: bool, message: str) -> str:
    """Upload a folder; the repository is made if there is none. Returns its address.

    Raises:
        GorpError: the hub cannot be reached, or refuses.
    """
    api = HfApi()
    try:
        made = api.create_repo(repo, private=not public, exist_ok=True)
        api.upload_folder(repo_id=made.repo_id, folder_path=folder, commit_message=message)
    except Exception as error:  # whatever the hub's client and the network raise
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise GorpError(
            f"cannot push to {repo}: {reason}. {folder} is written: with the network there and you logged in "
            f"(hf auth login), hf upload {repo} {folder} sends it"
        ) from None
    return str(made)
