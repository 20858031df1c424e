"""MaSSL's non-parametric memory: a ring of teacher outputs.

Shapes: K memory rows, D dimensions, B rows of one rank's batch, R rows of all ranks' batches together.
"""

from __future__ import annotations

import hashlib
from typing import TypedDict

import torch
from torch import Tensor
from torch.nn import functional

from massl_bench.pretrain.distributed import gather_rows, require_same_on_all_ranks, world_size
from massl_bench.pretrain.transfer import to_device


class MemoryState(TypedDict):
    """What a checkpoint keeps of the memory: rows [K, D] in float32, and the row that is written next."""

    memory: Tensor
    pointer: int


def official_memory(state: MemoryState) -> dict[str, Tensor]:
    """Return a memory as the authors' checkpoints hold one: `queue` [D, K] in float32, `queue_ptr` int64 [1]."""
    return {"queue": state["memory"].T.contiguous(), "queue_ptr": torch.tensor([state["pointer"]])}


class MemoryBank:
    """First in, first out memory of unit float32 vectors (MaSSL, arXiv 2407.17486).

    In a process group every rank holds the same memory: the initial content comes from a generator that must be in the
    same state on all ranks (checked here), and each `store` writes all ranks' rows in rank order. Make it after the
    process group. It is no module, so that neither a cast of the network nor DistributedDataParallel touches it.

    Attributes:
        memory: Unit rows, float32 [K, D].
        pointer: The row that is written next, in [0, K).
    """

    def __init__(self, size: int, dim: int, *, generator: torch.Generator, device: torch.device | str = "cpu") -> None:
        """Fill the memory with directions drawn uniformly from the sphere.

        Args:
            size: Number of rows K.
            dim: Length D of a vector.
            generator: On the CPU, so that content does not depend on the device; seeded alike on every rank.
            device: Where the memory lives.

        Raises:
            ValueError: No rows or dimensions, a generator of another device, generators that differ between ranks.
        """
        if size < 1 or dim < 1:
            raise ValueError(f"memory: size {size} and dim {dim}; allowed: both at least 1")
        _require_cpu(generator)
        if world_size() > 1:
            state = generator.get_state().numpy().tobytes()
            require_same_on_all_ranks(hashlib.sha256(state).hexdigest(), "memory generator")
        self.memory = functional.normalize(torch.randn(size, dim, generator=generator), dim=1).to(device)
        self.pointer = 0

    @torch.no_grad()
    def store(self, batch: Tensor) -> None:
        """Overwrite the oldest rows with the batches of all ranks, in rank order.

        Args:
            batch: Unit rows of this rank [B, D], the same B on every rank; kept as float32.

        Raises:
            ValueError: Another dimension than the memory's, or a memory that is no multiple of the global batch.
        """
        if batch.ndim != 2 or batch.shape[1] != self.memory.shape[1]:
            raise ValueError(f"batch: shape {list(batch.shape)}; allowed: [B, {self.memory.shape[1]}]")
        rows_RD = gather_rows(batch).to(self.memory)
        check_memory_size(self.memory.shape[0], rows_RD.shape[0])
        # A resume with another batch size can leave the pointer between multiples of the new one.
        before_end = min(rows_RD.shape[0], self.memory.shape[0] - self.pointer)
        self.memory[self.pointer : self.pointer + before_end] = rows_RD[:before_end]
        self.memory[: rows_RD.shape[0] - before_end] = rows_RD[before_end:]
        self.pointer = (self.pointer + rows_RD.shape[0]) % self.memory.shape[0]

    def permutation(self, generator: torch.Generator) -> Tensor:
        """Draw the order in which blocks are cut in one step.

        Args:
            generator: On the CPU; in the same state on every rank, and used for nothing that differs between ranks.

        Returns:
            A permutation of the rows, int64 [K], on the memory's device.

        Raises:
            ValueError: A generator of another device.
        """
        _require_cpu(generator)
        return to_device(torch.randperm(self.memory.shape[0], generator=generator), self.memory.device)

    def state_dict(self) -> MemoryState:
        """Return the memory (not a copy) and the pointer."""
        return {"memory": self.memory, "pointer": self.pointer}

    @torch.no_grad()
    def load_state_dict(self, state: MemoryState) -> None:
        """Restore what `state_dict` returned, on this memory's device.

        Raises:
            ValueError: Another size or dimension, or a pointer outside the memory.
        """
        memory, pointer = state["memory"], state["pointer"]
        if memory.shape != self.memory.shape:
            raise ValueError(f"memory: shape {list(memory.shape)}; expected: {list(self.memory.shape)}, as configured")
        if not 0 <= pointer < memory.shape[0]:
            raise ValueError(f"pointer: {pointer}; allowed: 0 to {memory.shape[0] - 1}")
        self.memory.copy_(memory)
        self.pointer = pointer


def check_memory_size(size: int, global_batch: int) -> None:
    """Raise ValueError unless a memory of `size` rows holds a whole number of batches.

    Args:
        size: Memory rows K.
        global_batch: Images that all ranks together process in one step.
    """
    if global_batch < 1 or size % global_batch:
        below, above = size // max(global_batch, 1) * global_batch, (size // max(global_batch, 1) + 1) * global_batch
        nearest = f"{below} and {above}" if below else f"{above}"
        raise ValueError(f"memory: {size} rows, not a multiple of the global batch {global_batch}; nearest: {nearest}")


def _require_cpu(generator: torch.Generator) -> None:
    if generator.device.type != "cpu":
        raise ValueError(f"generator: on {generator.device}; allowed: a CPU generator")
