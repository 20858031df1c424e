"""The hub of models and datasets: whether it can be reached at all, and whether its cache can be read."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Literal

from massl_bench.core.errors import MissingDataError, one_line
from massl_bench.core.files import open_regular

_SECONDS = 5.0

_LONGEST_REF = 1024
"""Bytes of a file that names a commit."""


def check_hub_reachable(wanted: str) -> None:
    """Raises `MissingDataError` within seconds where the hub does not answer.

    Its client tries five times for ten seconds each, which is right for a server that stumbles, and a minute of silence
    on a machine without a network.

    Args:
        wanted: what is to be downloaded, for the message.
    """
    from huggingface_hub import constants, get_session

    if constants.HF_HUB_OFFLINE:
        return  # it was said that nothing may be downloaded, and the client answers at once
    try:
        get_session().head(constants.ENDPOINT, timeout=_SECONDS)
    except Exception as error:  # the client raises its transport's errors
        raise MissingDataError(
            f"{wanted} is not on this machine, and the hub ({constants.ENDPOINT}) cannot be reached: "
            f"{one_line(error)}; check the connection, or fetch it where there is one and copy the hub's cache"
        ) from None


def check_hub_cache(repo: str, kind: Literal["dataset", "model"]) -> None:
    """Raises `MissingDataError` for a pipe or a device among what the hub's cache holds of a repository.

    Its client, and timm, read whatever lies there to its end.
    """
    from huggingface_hub import constants
    from huggingface_hub.file_download import repo_folder_name

    folder = Path(constants.HF_HUB_CACHE) / repo_folder_name(repo_id=repo, repo_type=kind)
    places = ["refs"] if kind == "dataset" else ["refs", "snapshots"]  # a dataset's files are opened by its layout
    for path in (path for place in places for path in (folder / place).rglob("*") if not path.is_dir()):
        try:
            with open_regular(path) as file:
                if path.is_relative_to(folder / "refs") and len(file.read(_LONGEST_REF)) == _LONGEST_REF:
                    raise OSError(errno.EFBIG, "more than the name of a commit")
        except FileNotFoundError:  # a link to what was not fetched
            continue
        except OSError as error:
            raise MissingDataError(f"{path}: {one_line(error)}", remedy="remove it, and fetch it again") from None
