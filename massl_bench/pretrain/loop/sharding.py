"""A student whose parameters lie in shards on all ranks (FSDP2), and what becomes of it elsewhere.

A rank keeps its share of each parameter, its gradient and the optimizer's numbers; a block is put together where it is
computed, and taken apart behind it. The teacher stays whole on every rank: it has no gradients, the online evaluation
and the export run on one rank alone, and it then follows the student by one gathering of blocks a step, as many bytes
as gathering a teacher in shards would take.

All functions here act on tensors that are not in shards as well, and then communicate nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map_only

from massl_bench.pretrain.distributed import rank_of_process, world_size

Content = TypeVar("Content")


def shard(network: nn.Module, backbone: nn.Module, device: torch.device) -> None:
    """Puts a network into shards over all ranks, block by block; its tensors keep their names.

    Args:
        network: on the device, the same on every rank.
        backbone: of the network.
        device: of this rank.
    """
    mesh = init_device_mesh(device.type, (world_size(),))
    for block in blocks_of(backbone):
        fully_shard(block, mesh=mesh)
    fully_shard(network, mesh=mesh)


def blocks_of(backbone: nn.Module) -> list[nn.Module]:
    """Returns the members of a backbone's sequences that have parameters: blocks of a ViT, or of a ResNet's stages."""
    sequences = [part for part in backbone.children() if isinstance(part, nn.Sequential | nn.ModuleList)]
    return [block for part in sequences for block in part if any(True for _ in block.parameters())]


def is_sharded(network: nn.Module) -> bool:
    """Returns whether a network is in shards."""
    return isinstance(network, FSDPModule)


def of_this_rank(tensor: Tensor) -> Tensor:
    """Returns the part of a tensor that this rank has: the same memory, or the tensor itself where it is whole."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def norms_over_ranks(norms: Tensor, gradients: Sequence[Tensor]) -> Tensor:
    """Returns the norms of whole gradients, from those of this rank's parts.

    Args:
        norms: of `of_this_rank` of each gradient, [number of gradients].
        gradients: all in shards, or none.
    """
    if not isinstance(gradients[0], DTensor):
        return norms
    squares = norms.square()
    dist.all_reduce(squares)
    return squares.sqrt()


def gathered(content: Content) -> Content:
    """Returns tensors and plain values with whole tensors for those in shards; all ranks call it.

    On the CPU, so that no device holds more than one of them; only the first rank keeps what it is for.
    """

    def whole(tensor: Any) -> Tensor:
        found: Tensor = tensor.detach().full_tensor()
        return found.cpu() if rank_of_process() == 0 else found.new_empty(0)

    made: Content = tree_map_only(DTensor, whole, content)
    return made


def divided_like(whole: Tensor, own: Tensor) -> Tensor:
    """Returns a whole tensor, which every rank has, in the shards of another one; as it is where that one is whole."""
    if not isinstance(own, DTensor):
        return whole
    return distribute_tensor(whole.to(own.device), own.device_mesh, own.placements, src_data_rank=None)


def divided_optimizer_state(
    saved: Mapping[int, Mapping[str, Any]], parameters: Sequence[Tensor]
) -> dict[int, dict[str, Any]]:
    """Returns an optimizer's state, by the number of the parameter, in the shards of the parameters."""
    return {
        number: {
            name: divided_like(value, parameters[number])
            if isinstance(value, Tensor) and value.shape == parameters[number].shape
            else value
            for name, value in state.items()
        }
        for number, state in saved.items()
    }


def whole_parts(student: nn.Module, teacher: nn.Module) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """Yields the parameters of both networks, part by part, those of the student whole while the caller has them."""
    if not is_sharded(student):
        yield list(student.parameters()), list(teacher.parameters())
        return
    of_teacher = dict(teacher.named_parameters())
    names = {parameter: name for name, parameter in student.named_parameters()}
    parts = [module for module in student.modules() if isinstance(module, FSDPModule)]
    for part in parts:
        own = _own_names(part, parts, names)
        part.unshard()
        try:
            found = dict(student.named_parameters())
            yield [found[name] for name in own], [of_teacher[name] for name in own]
        finally:
            part.reshard()


def _own_names(part: nn.Module, parts: Iterable[nn.Module], names: Mapping[nn.Parameter, str]) -> list[str]:
    """Returns the names of the parameters of a part that are of no part inside it."""
    inside = [other for other in parts if other is not part and any(other is module for module in part.modules())]
    others = {id(parameter) for other in inside for parameter in other.parameters()}
    return [names[parameter] for parameter in part.parameters() if id(parameter) not in others]


@contextmanager
def without_averaging(network: nn.Module) -> Iterator[None]:
    """Keeps the gradients of a network in shards as they are, not yet averaged over ranks."""
    assert isinstance(network, FSDPModule)
    network.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        network.set_requires_gradient_sync(True)
