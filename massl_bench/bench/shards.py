"""Which of several processes this one is: as it was told, or as torchrun and Slurm tell it.

Processes that share a cache and results share the work of one request, wherever they run: each takes its own part of
the pieces and of the cells first, and then what nobody has taken. None is needed: what a dead one leaves, others do.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

from massl_bench.core.errors import RequestError
from massl_bench.features.options import Shard

_LAUNCHERS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),  # torchrun
    ("SLURM_PROCID", "SLURM_NTASKS", "SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"),
)
"""What their variables are called: this process, how many there are, and the same on this machine."""


def parse_shard(text: str) -> Shard:
    """Returns the shard of `i/n`, where i counts from 0.

    Raises:
        RequestError: It is of another form, or there is no such shard.
    """
    found = re.fullmatch(r"(\d{1,6})/(\d{1,6})", text)
    if found is None or not int(found[1]) < int(found[2]):
        raise RequestError(field="shard", found=text, allowed="i/n with i from 0 to n − 1, as 0/4")
    return Shard(int(found[1]), int(found[2]))


def shard_of_environment(environment: Mapping[str, str] = os.environ) -> tuple[Shard, int] | None:
    """Returns the shard that a launcher made this process, and its number on this machine; None without one."""
    for index, count, local, here in _LAUNCHERS:
        try:
            shard = Shard(int(environment[index]), int(environment[count]), int(environment.get(here, "1")))
            place = int(environment.get(local, "0"))
        except (KeyError, ValueError):
            continue
        if 0 <= shard.index < shard.count and shard.count > 1:
            return shard, place
    return None
