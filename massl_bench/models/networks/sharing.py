"""Several features of the same images: what networks have in common is computed once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from timm.models.eva import Eva
from timm.models.resnet import ResNet
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from massl_bench.models.networks.blocks import residual_blocks


@contextmanager
def computed_once(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Lets what several networks have in common compute once within the context: their blocks, or all of a network.

    All of them must be given the same images there: a block answers the second network as it answered the first. What
    comes before and after the blocks each computes by itself, so that every feature is, to the bit, what it is alone.

    Args:
        networks: features of one backbone, or networks that have nothing in common.
    """
    several = networks if len(networks) > 1 else ()
    counts = Counter(part for network in several for part in (network, *_blocks(network)))
    common = [part for part, number in counts.items() if number > 1]
    own = [vars(part).get("forward") for part in common]  # where a user's network replaces that of its class
    for part in common:
        part.forward = _remembered(part.forward)
    try:
        yield
    finally:
        for part, forward in zip(common, own, strict=True):
            del part.forward  # that of its class is there again
            if forward is not None:
                part.forward = forward


def _blocks(network: nn.Module) -> list[Any]:
    """Returns the blocks of the backbones in a network, as far as each is gone through once."""
    found = Counter[Any]()
    for part in network.modules():
        if isinstance(part, VisionTransformer | Eva):
            found.update(part.blocks)
        elif isinstance(part, ResNet):
            found.update(residual_blocks(part))
    return [block for block, number in found.items() if number == 1]


def _remembered(compute: Callable[..., Any]) -> Callable[..., Any]:
    answers: list[Any] = []

    def answer(*arguments: Any, **named: Any) -> Any:
        if not answers:
            answers.append(compute(*arguments, **named))
        return answers[0]

    return answer
