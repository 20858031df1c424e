"""The hub of models and datasets: whether it can be reached at all."""

from __future__ import annotations

from massl_bench.core.errors import MissingDataError, one_line

_SECONDS = 5.0


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
