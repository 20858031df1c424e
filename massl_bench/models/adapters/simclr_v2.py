"""SimCLR's second version, converted from TensorFlow, in the converter's own names; without selective kernels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from massl_bench.core.errors import RequestError
from massl_bench.core.settings import Preprocessing
from massl_bench.core.wording import asked
from massl_bench.models.adapter import Adapter, Found, Network, Rank, Tensors, Weights
from massl_bench.models.content import Content
from massl_bench.models.evaluations import unit_crop
from massl_bench.models.renaming import renamed_shapes, substituted
from massl_bench.models.resnets import resnet

_KEY = "resnet"
_BLOCK = r"net\.([1-4])\.blocks\.(\d+)\."
_NAMES = [
    (r"net\.0\.0\.(.*)", r"conv1.\1"),
    (r"net\.0\.1\.0\.(.*)", r"bn1.\1"),
    *((rf"{_BLOCK}net\.{2 * place}\.weight", rf"layer\1.\2.conv{place + 1}.weight") for place in range(3)),
    *((rf"{_BLOCK}net\.{2 * place + 1}\.0\.(.*)", rf"layer\1.\2.bn{place + 1}.\3") for place in range(3)),
    (rf"{_BLOCK}projection\.shortcut\.weight", r"layer\1.\2.downsample.0.weight"),
    (rf"{_BLOCK}projection\.bn\.0\.(.*)", r"layer\1.\2.downsample.1.\3"),
]


def _rename(tensors: Tensors, _network: Any) -> Mapping[str, Tensor]:
    return substituted(tensors, _NAMES)


def _matches(content: Content) -> bool:
    return content.any_under("net.1.blocks.", _KEY)


def _fed(_: int) -> Preprocessing:
    return unit_crop(256, 224)


def _network(found: Found) -> Network:
    if any(".mixing_conv." in name for name in found.tensors):
        raise RequestError(
            f"{found.where}: a converted SimCLR with selective kernels (sk1): no network of timm has them so; load it "
            f"with its converter's code, as {asked('model', 'FILE.py:function')}, or take a file without them (sk0)"
        )
    return resnet(
        renamed_shapes(found, _rename),
        evaluation=_fed,
        evaluation_origin="as the converter's evaluation: values in [0, 1], no mean, no deviation",
        rename=_rename,
        notes=(
            "converted from TensorFlow, whose padding samples other pixels than torch's, which the converter's code "
            "uses: its authors' own numbers are a little higher",
        ),
    )


ADAPTER = Adapter(
    name="simclr_v2",
    summary="SimCLR v2 converted by SimCLRv2-Pytorch (without selective kernels)",
    read_in="Separius/SimCLRv2-Pytorch 46ad293 convert.py, verify.py, resnet.py",
    rank=Rank.NAMES,
    matches=_matches,
    weights=(Weights(name=_KEY, key=_KEY),),
    inside={"fc.": "classifier"},
    others={"head": "projector"},
    network=_network,
    licence="Apache-2.0",
)
