"""The Hugging Face hub: models are fetched from it, and folders are pushed to it where that is asked for."""

from pathlib import Path
from types import ModuleType


def fetch(hub_id: str) -> Path:
    """Directory of a model from the Hugging Face hub, downloaded once and kept in its cache.

    Raises:
        ImportError: the extra `hub` is not installed.
        ConnectionError: no network and no copy in the cache.
        ValueError: the hub has no such model, or not for this account.
    """
    hub = _library(hub_id)
    try:
        directory = hub.snapshot_download(
            hub_id,
            allow_patterns=["*.json", "*.jinja", "*.safetensors"],
            ignore_patterns=["consolidated*", "original/*"],
        )
    except (hub.errors.RepositoryNotFoundError, hub.errors.HFValidationError) as error:
        raise ValueError(f"the Hugging Face hub has no model {hub_id!r} that this account may read") from error
    except Exception as error:  # no network, nothing in the cache, a refusal: they share no base
        raise ConnectionError(
            f"could not fetch {hub_id} from the Hugging Face hub ({_first_line(error)}); on a machine with a "
            f"network run `hf download {hub_id} --local-dir DIR`, copy DIR here and give its path"
        ) from error
    return Path(directory)


def ready(name: str) -> None:
    """Check that ORG/NAME can be pushed to, as far as this machine knows, before anything is made.

    Raises:
        ImportError: the extra `hub` is not installed.
        ValueError: a name that the hub does not take, or no token.
    """
    hub = _library(name)
    try:
        hub.utils.validate_repo_id(name)
    except hub.errors.HFValidationError as error:
        raise ValueError(f"--push {name}: {error}") from error
    if name.count("/") != 1:
        raise ValueError(f"--push {name}: expected ORG/NAME, the account and the name of the repository")
    if hub.get_token() is None:
        raise ValueError(
            f"--push {name}: no token of the Hugging Face hub on this machine: run `hf auth login`, or set HF_TOKEN to "
            "one that may write"
        )


def push(folder: Path, name: str, kind: str, private: bool) -> str:
    """Upload a folder as one commit, to a repository that is made where it is missing; returns its address.

    Args:
        kind: model or dataset.

    Raises ConnectionError where the hub refuses or cannot be reached; the folder stays as it is.
    """
    hub = _library(name)
    try:
        address = hub.create_repo(name, repo_type=kind, private=private or None, exist_ok=True)
        hub.upload_folder(repo_id=name, folder_path=folder, repo_type=kind, commit_message="Written by qstar-prepare")
    except Exception as error:  # as above
        raise ConnectionError(
            f"could not push to {name} ({_first_line(error)}); {folder} is whole, upload it later with\n"
            f"hf upload {name} {folder} --repo-type {kind}"
        ) from error
    return str(address)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _library(name: str) -> ModuleType:
    try:
        import huggingface_hub
        import huggingface_hub.errors
        import huggingface_hub.utils
    except ImportError as error:
        raise ImportError(f'{name} is on the Hugging Face hub: pip install ".[hub]" to reach it') from error
    return huggingface_hub
