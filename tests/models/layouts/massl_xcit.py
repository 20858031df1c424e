"""DINO's trainer with an XCiT: both networks under DistributedDataParallel, as with every batch norm."""

from __future__ import annotations

from pathlib import Path

from tests.models.layouts import Layout, Made, prefixed
from tests.models.layouts.dino_xcit import their_names, tiny_xcit
from tests.models.published import trained, write_zip
from tests.models.vit_layouts import dino_head


def make(folder: Path) -> Made:
    teacher, student = (tiny_xcit(seed, "xcit_small_12_p16_224") for seed in (1, 2))
    content = {
        key: prefixed("module.", {**prefixed("backbone.", their_names(network.state_dict())), **dino_head("head.")})
        for key, network in (("teacher", teacher), ("student", student))
    }
    return Made(
        path=write_zip(trained({**content, "epoch": 3}), folder / "checkpoint.pth"),
        source=teacher,
        side=32,
        other_side=64,
        crop=224,
        heads=4,
        patch=16,
        twins={"student": student},
        left_out=frozenset({"projector", "the student"}),
    )


LAYOUT = Layout(adapter="massl", read_in="facebookresearch/dino 7c446df main_dino.py, utils.py", make=make)
