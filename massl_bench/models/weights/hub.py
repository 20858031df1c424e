"""Exported weights on the hub: uploaded by its own client, and only where that was asked for."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from massl_bench.core.errors import CellError, RequestError, one_line
from massl_bench.core.wording import asked


def check_repository(repo: str) -> None:
    """Raises `RequestError` for what is no name of a repository."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(repo)
    except HFValidationError as error:
        raise RequestError(f"{repo}: no name of a repository, ORG/NAME: {one_line(error)}", field="push") from None


def push(repo: str, files: Mapping[str, Path], message: str) -> str:
    """Uploads files in one commit; a repository that is not there yet is made, and is private.

    Args:
        repo: `ORG/NAME`.
        files: by their path in the repository.
        message: of the commit.

    Returns:
        The commit's address.

    Raises:
        CellError: The hub refuses it, or cannot be reached; the text is its reason.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    api = HfApi()
    try:
        api.create_repo(repo, private=True, exist_ok=True)
        operations = [CommitOperationAdd(path, str(file)) for path, file in files.items()]
        commit = api.create_commit(repo, operations, commit_message=message)
    except Exception as error:  # its own, and those of its transport
        raise CellError(
            f"{asked('push', repo)}: the files are written here, and not on the hub: {one_line(error)}; hf auth login "
            "says who you are"
        ) from None
    return str(commit.commit_url)
