"""Files of ResNets in published layouts, small: a torchvision ResNet-18 among twins, heads and queues that mislead."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn

from massl_bench.core.settings import IMAGENET_STD
from tests.models.layouts import Layout, Made, Published, filled, on_meta

State = dict[str, Tensor]
Write = Callable[[State, State], Any]
"""From the tensors of the evaluated network and of its twin to what a file holds."""


def network(seed: int) -> Any:
    """Returns a ResNet-18 without its classifier, with values of its own."""
    made = torchvision.models.resnet18()
    made.fc = nn.Identity()  # type: ignore[assignment]
    return filled(made, seed)


def some(*names: str) -> State:
    """Returns small tensors with these names."""
    return {name: torch.randn(4, 4) for name in names}


def layout(
    adapter: str,
    read_in: str,
    write: Write,
    *,
    left_out: frozenset[str] = frozenset(),
    twin: str | None = None,
    std: tuple[float, float, float] = IMAGENET_STD,
) -> Layout:
    """Returns a layout of ResNets for photographs, and the shapes of its ResNet-50.

    Args:
        adapter: which must have it.
        read_in: where the layout was read.
        write: makes the file's content.
        left_out: what must be named as left out.
        twin: by which `checkpoint_key` the second network is taken; None where a file has none.
        std: of the evaluation.
    """

    def make(folder: Path) -> Made:
        evaluated, other = network(1), network(2)
        torch.save(write(evaluated.state_dict(), other.state_dict()), folder / "r.pth.tar")
        twins: Mapping[str, Any] = {twin: other} if twin is not None else {}
        return Made(
            path=folder / "r.pth.tar",
            source=evaluated,
            side=64,
            other_side=96,
            crop=224,
            std=std,
            twins=twins,
            left_out=left_out,
            tolerance=1e-4,
        )

    def published() -> Any:
        tensors = {
            name: tensor for name, tensor in on_meta(torchvision.models.resnet50).items() if not name.startswith("fc.")
        }
        return write(tensors, tensors)

    sizes = {"resnet50": Published(content=published, heads=None, crop=224, arch="resnet50")}
    return Layout(adapter=adapter, read_in=read_in, make=make, published=sizes)
