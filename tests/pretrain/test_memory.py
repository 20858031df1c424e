from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from massl_bench.pretrain import MemoryBank
from massl_bench.pretrain.memory import check_memory_size


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def bank_of(memory: torch.Tensor, pointer: int = 0) -> MemoryBank:
    bank = MemoryBank(*memory.shape, generator=seeded())
    bank.load_state_dict({"memory": memory, "pointer": pointer})
    return bank


def test_golden(golden: Callable[[str], dict[str, Any]]) -> None:
    arrays = golden("massl_objective.npz")
    bank = bank_of(arrays["memory"], arrays["pointer"])
    bank.store(arrays["teacher"][len(arrays["teacher"]) // 2 :])
    assert torch.equal(bank.memory, arrays["memory_after"])
    assert bank.pointer == arrays["pointer_after"] == 0


def test_initial_rows_are_unit_vectors_that_the_seed_decides() -> None:
    bank = MemoryBank(2000, 64, generator=seeded())
    assert bank.memory.dtype == torch.float32
    torch.testing.assert_close(bank.memory.norm(dim=1), torch.ones(2000))
    assert bank.memory.mean(0).norm() < 3 / 2000**0.5  # a uniform direction's mean over n rows has length 1/√n
    assert torch.equal(bank.memory, MemoryBank(2000, 64, generator=seeded()).memory)
    assert not torch.equal(bank.memory, MemoryBank(2000, 64, generator=seeded(1)).memory)


def test_oldest_rows_go_first() -> None:
    bank = bank_of(torch.zeros(6, 1))
    for value in range(1, 5):
        bank.store(torch.full((2, 1), float(value)))
    assert bank.memory[:, 0].tolist() == [4, 4, 2, 2, 3, 3]
    assert bank.pointer == 2


def test_a_pointer_between_batches_wraps() -> None:
    bank = bank_of(torch.zeros(6, 1), pointer=5)
    bank.store(torch.tensor([[1.0], [2.0], [3.0]]))
    assert bank.memory[:, 0].tolist() == [2, 3, 0, 0, 0, 1]
    assert bank.pointer == 2


def test_stays_float32_and_without_gradient() -> None:
    bank = MemoryBank(4, 2, generator=seeded())
    batch = torch.eye(2, dtype=torch.bfloat16, requires_grad=True)
    bank.store(batch * 1)
    assert bank.memory.dtype == torch.float32
    assert not bank.memory.requires_grad
    assert torch.equal(bank.memory[:2], torch.eye(2))


def test_permutations_follow_the_generator() -> None:
    bank = MemoryBank(16, 2, generator=seeded())
    generator = seeded(5)
    first, second = bank.permutation(generator), bank.permutation(generator)
    assert first.sort().values.tolist() == list(range(16))
    assert not torch.equal(first, second)
    assert torch.equal(first, bank.permutation(seeded(5)))


def test_state_round_trip() -> None:
    bank = MemoryBank(8, 3, generator=seeded())
    bank.store(torch.eye(3)[:2])
    copy = MemoryBank(8, 3, generator=seeded(1))
    copy.load_state_dict(bank.state_dict())
    assert torch.equal(copy.memory, bank.memory)
    assert copy.pointer == 2
    copy.store(torch.eye(3)[:2])
    assert not torch.equal(copy.memory, bank.memory)


@pytest.mark.parametrize(
    ("size", "global_batch", "nearest"),
    [(100, 64, "nearest: 64 and 128"), (131_072, 96, "nearest: 131040 and 131136"), (8, 12, "nearest: 12")],
)
def test_memory_that_is_no_multiple_of_the_batch(size: int, global_batch: int, nearest: str) -> None:
    message = f"memory: {size} rows, not a multiple of the global batch {global_batch}; {nearest}"
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_memory_size(size, global_batch)
    bank = MemoryBank(size, 1, generator=seeded())
    before = bank.memory.clone()
    with pytest.raises(ValueError, match=f"^{message}$"):
        bank.store(torch.ones(global_batch, 1))
    assert torch.equal(bank.memory, before)


def test_errors() -> None:
    bank = MemoryBank(8, 3, generator=seeded())
    with pytest.raises(ValueError, match=r"^batch: shape \[2, 4\]; allowed: \[B, 3\]$"):
        bank.store(torch.ones(2, 4))
    with pytest.raises(ValueError, match=r"^memory: shape \[4, 3\]; expected: \[8, 3\], as configured$"):
        bank.load_state_dict({"memory": torch.ones(4, 3), "pointer": 0})
    with pytest.raises(ValueError, match=r"^pointer: 8; allowed: 0 to 7$"):
        bank.load_state_dict({"memory": torch.ones(8, 3), "pointer": 8})
    with pytest.raises(ValueError, match=r"^memory: size 0 and dim 3; allowed: both at least 1$"):
        MemoryBank(0, 3, generator=seeded())
