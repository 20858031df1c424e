"""One process's part of a model under FSDP, as DINOv2's trainer saves them: known, and refused."""

from __future__ import annotations

from collections.abc import Mapping

from massl_bench.core.errors import RequestError
from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.content import Content

_FLAT = frozenset({"flat_param", "_flat_param"})


def _matches(content: Content) -> bool:
    trees = [content.tree, *(content.value(key) for key in content.keys)]
    names = [name for tree in trees if isinstance(tree, Mapping) for name in tree]
    return any(str(name).rpartition(".")[2] in _FLAT for name in names)


def _refused(content: Content) -> tuple[Weights, ...]:
    raise RequestError(
        f"{content.file}: one process's shard of a model under FSDP: its flat parameters are parts of tensors without "
        "their shapes; gather all shards with the code that wrote them (StateDictType.FULL_STATE_DICT), and give that "
        "file, or the teacher that its trainer saves for evaluation"
    )


def _network(found: Found) -> Network:
    raise RequestError(f"{found.where}: a shard of FSDP")


ADAPTER = Adapter(
    name="fsdp_shard",
    summary="a shard of FSDP; refused",
    read_in="facebookresearch/dinov2 b8931f7 fsdp/__init__.py (FSDPCheckpointer); torch.distributed.fsdp",
    rank=Rank.DECLARED,
    matches=_matches,
    weights=_refused,
    network=_network,
)
