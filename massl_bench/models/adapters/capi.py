"""CAPI: known by its names, and refused: no network here can hold it."""

from __future__ import annotations

from massl_bench.core.errors import RequestError
from massl_bench.core.wording import asked
from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.content import Content


def _matches(content: Content) -> bool:
    return content.any_under("backbone.encoder.blocks.") and any(
        name.endswith(".residual1.fn.q_proj.weight") for name in content.names()
    )


def _network(found: Found) -> Network:
    raise RequestError(
        f"{found.where}: a checkpoint of CAPI: its encoder (RMSNorm, registers with coordinates) and its evaluated "
        "feature (its decoder's first block) are no network of timm; load it with its authors' code, as "
        f"{asked('model', 'FILE.py:function')}"
    )


ADAPTER = Adapter(
    name="capi",
    summary="CAPI (encoder and decoder); refused",
    read_in="facebookresearch/capi 98b4fa1 hubconf.py, model.py",
    rank=Rank.NAMES,
    matches=_matches,
    weights=(Weights(name="state dict"),),
    network=_network,
    licence="Apache-2.0",
)
