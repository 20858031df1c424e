"""Whether a cell's protocol has room on this machine: said, or refused, before features are extracted for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from massl_bench import protocols
from massl_bench.bench.planned import FeatureCell, ImageCell
from massl_bench.core.arrays import in_file
from massl_bench.core.devices import free_memory, megabytes
from massl_bench.core.errors import RequestError
from massl_bench.core.memory import Extent, Memory
from massl_bench.core.wording import asked

_SUBSTANTIAL = 1 << 30
"""What is less is not worth a line."""

_UNASKED = 1 << 28
"""Of a GPU: it is not asked for its memory where less is needed."""


@dataclass(frozen=True, kw_only=True)
class Room:
    """What a cell's protocol holds beside its features, and what there is for it. All in bytes."""

    cell: ImageCell | FeatureCell
    memory: Memory
    device: str
    limit: int | None
    """What it may hold on the host: as was asked; None: half of what is free, or all where it needs more."""

    @property
    def more_host(self) -> int:
        """What it holds beyond what it needs, to be faster."""
        limit = free_memory("cpu") // 2 if self.limit is None else self.limit
        return min(self.memory.more_host, max(0, limit - self.memory.host))

    @property
    def host(self) -> int:
        """What it holds at most."""
        return self.memory.host + self.more_host

    def __str__(self) -> str:
        """Returns it in one line; empty where it is nothing to speak of."""
        found = []
        if self.host >= _SUBSTANTIAL:
            found.append(f"{megabytes(self.host)} of memory beside its features ({megabytes(free_memory('cpu'))} free)")
        if self.memory.device + self.memory.more_device >= _SUBSTANTIAL:
            free = free_memory(self.device)
            most = min(free, self.memory.device + self.memory.more_device)
            found.append(f"{megabytes(most)} of {self.device} ({megabytes(free)} free)")
        name = f"{self.cell.task.spec.name} on {self.cell.dataset_reference}"
        return f"{name} takes at most {' and '.join(found)}" if found else ""

    def check(self) -> None:
        """Raises `RequestError` where there is too little."""
        free = free_memory("cpu")
        if self.limit is not None and self.limit < min(free, self.memory.host):
            there = f"{asked('memory')} leaves it {megabytes(self.limit)}"
            raise self._error("", self.memory.host, there, self._remedy(free))
        if self.memory.host > free:
            raise self._error("", self.memory.host, f"{megabytes(free)} are free", self._remedy(free))
        if self.memory.device < _UNASKED:
            return
        free_there = free_memory(self.device)
        if self.memory.device > free_there:
            remedy = f"compute on the CPU: {asked('device', 'cpu')}"
            raise self._error(f" of {self.device}", self.memory.device, f"{megabytes(free_there)} are free", remedy)

    def _error(self, of_what: str, needed: int, there: str, remedy: str) -> RequestError:
        return RequestError(
            f"needs {megabytes(needed)} of memory{of_what} beside its features, and {there}",
            where=f"{self.cell.task.spec.name} on {self.cell.dataset_reference}",
            remedy=remedy,
        )

    def _remedy(self, free: int) -> str:
        """Returns what would help, and does."""
        here = self.cell.request.extraction.shard.here
        if self.limit is not None and self.memory.host * here <= free:
            return f"raise it: {asked('memory', f'{-(-self.memory.host * here >> 20)}M')}"
        limit = free if self.limit is None else min(self.limit, free)
        count = fewer_items(self.cell, self.device, limit)
        if count is None:
            return f"give it a machine that has {megabytes(self.memory.host)} free"
        return f"train on fewer images ({asked('sample', f'train={count}')}), or give it a machine that has more"


def room_of(cell: ImageCell | FeatureCell, device: str) -> Room | None:
    """Returns the room of a cell whose heads are trained on a device; None where nobody knows what it holds."""
    extent = _extent(cell, device)
    memory = None if extent is None else protocols.memory(cell.task.spec, cell.task.params, extent)
    if memory is None:
        return None
    request = cell.request
    limit = None if request.memory is None else request.memory // request.extraction.shard.here
    return Room(cell=cell, memory=memory, device=device, limit=limit)


def room_said(cell: ImageCell | FeatureCell, device: str, say: Callable[[str], None]) -> Room | None:
    """Returns the room of a cell, and says it where it is much."""
    room = room_of(cell, device)
    if room is not None and str(room):
        say(str(room))
    return room


def check_room(cell: ImageCell | FeatureCell, device: str, is_finished: Callable[[], bool]) -> None:
    """Raises `RequestError` where a cell that is not finished would find no room."""
    room = room_of(cell, device)
    try:
        if room is not None:
            room.check()
    except RequestError:
        if not is_finished():
            raise


def fewer_items(cell: ImageCell | FeatureCell, device: str, limit: int) -> int | None:
    """Returns a round number of training items, at least one of each class, with which a cell stays below a limit."""
    extent = _extent(cell, device)
    if extent is None or not isinstance(cell, ImageCell):
        return None

    def fits(count: int) -> bool:
        smaller = replace(extent, num_items={**extent.num_items, "train": count})
        memory = protocols.memory(cell.task.spec, cell.task.params, smaller)
        return memory is not None and memory.host <= limit

    count = extent.num_items["train"]
    while count > extent.num_classes:
        step: int = 10 ** (len(str(count - 1)) - 1)
        count = (count - 1) // step * step  # the next smaller number of one digit and zeros
        if count >= extent.num_classes and fits(count):
            return count
    return None


def _extent(cell: ImageCell | FeatureCell, device: str) -> Extent | None:
    if isinstance(cell, FeatureCell):
        features = [bank.features for bank in cell.handed.banks.values()]
        dim, num_classes, in_files = features[0].shape[1], cell.handed.num_classes, all(map(in_file, features))
    else:
        dim = cell.model.card.pooled(cell.task.spec.pooling).embed_dim
        num_classes, in_files = (cell.trained_on or cell.dataset).num_classes, True
    if num_classes is None or "train" not in cell.sizes:
        return None
    return Extent(
        num_items=cell.sizes,
        dim=dim,
        num_classes=num_classes,
        several_labels=cell.kind == "multi-label",
        device=device,
        in_files=in_files,
    )
