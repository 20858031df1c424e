"""solo-learn on CIFAR: a stem of 3 × 3 that pads by 2, and the data set's own mean."""

from __future__ import annotations

from pathlib import Path

import torch

from tests.models.layouts import Layout, Made, prefixed
from tests.models.resnet_layouts import small_network, some


def make(folder: Path) -> Made:
    network = small_network(5, padding=2)
    state = {**prefixed("encoder.", network.state_dict()), **some("projector.0.weight", "classifier.weight", "queue")}
    torch.save({"pytorch-lightning_version": "1.4.0", "state_dict": state}, folder / "last.ckpt")
    return Made(
        path=folder / "last.ckpt",
        source=network,
        side=32,
        other_side=40,
        crop=32,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.247, 0.243, 0.261),
        left_out=frozenset({"projector", "classifier", "queue"}),
    )


LAYOUT = Layout(adapter="solo_learn", read_in="vturrisi/solo-learn 9187ea3 solo/methods/base.py", make=make)
