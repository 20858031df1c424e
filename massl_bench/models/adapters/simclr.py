"""SimCLR's first version, converted from TensorFlow: torchvision's names, in an order that only the converter gives."""

from __future__ import annotations

from massl_bench.core.settings import Preprocessing
from massl_bench.models.adapter import Adapter, Found, Network, Rank, Weights
from massl_bench.models.content import Content
from massl_bench.models.evaluations import unit_crop
from massl_bench.models.resnets import resnet

_KEY = "state_dict"


def _matches(content: Content) -> bool:
    # The converter's blocks have their shortcut first, so that the tensors come in TensorFlow's order.
    places = {name: place for place, name in enumerate(content.state(_KEY))} if content.names(_KEY) else {}
    shortcut, first = places.get("layer1.0.downsample.0.weight"), places.get("layer1.0.conv1.weight")
    return shortcut is not None and first is not None and shortcut < first and "fc.weight" in places


def _fed(_: int) -> Preprocessing:
    return unit_crop(256, 256)


def _network(found: Found) -> Network:
    return resnet(
        found,
        evaluation=_fed,
        evaluation_origin="as the converter's evaluation: values in [0, 1], no mean, no deviation",
        notes=(
            "converted from TensorFlow, whose padding samples other pixels than torch's, which the converter's code "
            "uses: its authors' own numbers are a little higher",
        ),
    )


ADAPTER = Adapter(
    name="simclr",
    summary="SimCLR converted by simclr-converter (1x, 2x, 4x)",
    read_in="tonylins/simclr-converter 59bee34 convert.py, eval.py; its resnet_wider.py as kept by p3i0t/ssl_few_shot "
    "10d791a",
    rank=Rank.NAMES,
    matches=_matches,
    weights=(Weights(name=_KEY, key=_KEY),),
    inside={"fc.": "classifier"},
    network=_network,
    licence="Apache-2.0",
)
