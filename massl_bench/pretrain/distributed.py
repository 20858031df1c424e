"""The store on which a process group starts, and collectives over its ranks, each the identity without a group."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from massl_bench.core.errors import CellError, MasslBenchError, one_line

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

Made = TypeVar("Made")


def store_of_this_start(store: Store, rank: int, ranks: int, wait: timedelta = timedelta(minutes=30)) -> Store:
    """Return a part of a store that no earlier start of the same training has written to.

    torchrun serves one store over all its restarts (pytorch issue 135712), where a restarted rank finds what the killed
    ones wrote, and waits for an address at which nobody listens. Its count of restarts cannot name the part: the agent
    of each node keeps its own. So rank 0 makes a name, and tells it to those who ask now: what it answers to a question
    of an earlier start nobody reads.

    Args:
        store: That all ranks see.
        rank: Of this process.
        ranks: How many there are; all of them call this.
        wait: How long rank 0 waits for the others; the default is torch's own for a process group on the CPU.

    Raises:
        CellError: Not all ranks have come in time.
    """
    from torch.distributed.distributed_c10d import PrefixStore

    if rank > 0:
        question = uuid.uuid4().hex
        store.set(f"start/question/{rank}", question)
        name = store.get(f"start/answer/{question}").decode()
        store.add(f"start/heard/{name}", 1)
        return PrefixStore(f"start/{name}", store)
    name = uuid.uuid4().hex
    end = time.monotonic() + wait.total_seconds()
    while (heard := store.add(f"start/heard/{name}", 0)) < ranks - 1:
        if time.monotonic() > end:
            raise CellError(f"{ranks - 1 - heard} of {ranks} ranks did not come within {wait}; see their logs")
        for question in (f"start/question/{other}" for other in range(1, ranks)):
            if store.check([question]):
                store.set(f"start/answer/{store.get(question).decode()}", name)
        time.sleep(0.01)
    return PrefixStore(f"start/{name}", store)


def world_size() -> int:
    """Return the number of ranks, 1 where no process group has been initialised."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather_rows(rows_BD: Tensor) -> Tensor:
    """Concatenate the rows of all ranks in rank order; no gradient flows through it.

    Args:
        rows_BD: Rows of this rank, [B, D], with the same B on every rank.

    Returns:
        [world_size · B, D], identical on all ranks.
    """
    if world_size() == 1:
        return rows_BD.detach()
    rows_BD = rows_BD.detach().contiguous()
    gathered_RD = rows_BD.new_empty(world_size() * rows_BD.shape[0], *rows_BD.shape[1:])
    _gather(gathered_RD, rows_BD)
    return gathered_RD


def _gather(gathered: Tensor, own: Tensor, *, async_op: bool = False) -> Any:
    # Newer versions of torch have another name for it, and warn of the old one.
    gather = getattr(dist, "all_gather_single", None) or dist.all_gather_into_tensor
    return gather(gathered, own, async_op=async_op)


def average_in_rank_order(own_N: Tensor) -> torch.futures.Future[Tensor]:
    """Average numbers over ranks, each in the order of the ranks; for a hook of DistributedDataParallel.

    Gloo adds the parts of a buffer in an order that depends on their place in it, and DistributedDataParallel chooses
    the places anew after its first step: with more than two ranks a resumed training would round otherwise.
    """
    ranks = world_size()
    all_RN = own_N.new_empty(ranks * own_N.numel())
    work = _gather(all_RN, own_N, async_op=True)

    def mean(_: object) -> Tensor:
        parts = all_RN.view(ranks, -1).unbind()
        total: Tensor = parts[0]
        for other in parts[1:]:
            total += other
        return total.div_(ranks)

    averaged: torch.futures.Future[Tensor] = work.get_future().then(mean)
    return averaged


def require_same_on_all_ranks(value: str, what: str) -> None:
    """Raise ValueError on every rank unless all ranks passed the same value.

    Args:
        value: What must agree, for example a digest.
        what: How the error names it.
    """
    if world_size() == 1:
        return
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    different = [rank for rank, other in enumerate(values) if other != values[0]]
    if different:
        raise ValueError(f"{what}: differs from rank 0 on ranks {different}; seed it alike on every rank")


def rank_of_process() -> int:
    """Return the number of this rank, 0 where no process group has been initialised."""
    return dist.get_rank() if world_size() > 1 else 0


def after_first_rank(make: Callable[[], Made]) -> Made:
    """Return what `make` returns, which is called on rank 0 first, and on the others when it has ended there.

    For what fills a cache: the others find it filled.

    Raises:
        Exception: What `make` raises; where it fails on rank 0, all ranks raise.
    """
    if world_size() == 1:
        return make()
    made: list[Made] = []
    failure: list[MasslBenchError | None] = [None]
    if rank_of_process() == 0:
        try:
            made = [make()]
        except Exception as error:
            text = f"on rank 0: {type(error).__name__}: {one_line(error)}"
            failure = [error if isinstance(error, MasslBenchError) else CellError(text)]
            dist.broadcast_object_list(failure, src=0)
            raise
    dist.broadcast_object_list(failure, src=0)
    if failure[0] is not None:
        raise failure[0]
    return made[0] if made else make()


def mean_numbers_to_come(values: dict[str, Tensor]) -> Callable[[], dict[str, float]]:
    """Average scalars over all ranks, and read them when the function that is returned is called.

    It waits for the device until they are known, and for nothing that the device was given to do after this call.

    Args:
        values: By name, the same names on every rank. What is not finite on one rank is so in the mean.
    """
    stacked = torch.stack(list(values.values())).float()
    if world_size() > 1:
        dist.all_reduce(stacked)
        stacked /= world_size()
    names, on_host = list(values), stacked.to("cpu", non_blocking=True)
    copied = torch.cuda.current_stream(stacked.device).record_event() if stacked.is_cuda else None

    def read() -> dict[str, float]:
        if copied is not None:
            copied.synchronize()
        return dict(zip(names, on_host.tolist(), strict=True))

    return read


def any_rank(flag: bool, device: torch.device) -> bool:
    """Return whether the flag is up on any rank.

    Args:
        flag: Of this rank.
        device: On which the process group communicates.
    """
    if world_size() == 1:
        return flag
    flags = torch.tensor(int(flag), device=device)
    dist.all_reduce(flags, op=dist.ReduceOp.MAX)
    return bool(flags)


def mean_over_ranks(values: Tensor) -> Tensor:
    """Average a tensor over all ranks, differentiably.

    The gradient is right for a trainer that averages parameter gradients over ranks, as DistributedDataParallel does,
    and for a use in which each rank computes the same loss from the mean (see `_MeanOverRanks.backward`).

    Args:
        values: A floating tensor of the same shape on every rank.
    """
    if world_size() == 1:
        return values
    result: Tensor = _MeanOverRanks.apply(values)
    return result


class _MeanOverRanks(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        mean = values.clone()
        dist.all_reduce(mean)
        return mean.div_(world_size())

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> Tensor:
        # With m = 1/W Σ_r x_r, the gradient of L(m) for x_r is g / W, where g = dL/dm is the same on every rank. These
        # are shares of one sum, but the trainer averages over ranks (another 1/W): each share has to enter W times.
        return grad_outputs[0]
