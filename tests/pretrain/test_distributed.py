"""Two gloo processes against one, at the same global batch."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from massl_bench.core.errors import CellError, MissingDataError
from massl_bench.pretrain import MemoryBank, Projector, Prototypes, carp_objective, massl_objective
from massl_bench.pretrain.distributed import after_first_rank, store_of_this_start
from tests.started import run_ranks

IMAGES, VIEWS, FEATURES, STEPS = 8, 4, 6, 3


def train(ranks: int, rank: int) -> dict[str, Any]:
    """Train both methods for a few steps on this rank's share of the images of every view."""
    share = slice(rank * IMAGES // ranks, (rank + 1) * IMAGES // ranks)
    record: dict[str, Any] = {"massl": [], "carp": [], "permutations": []}
    torch.manual_seed(0)
    student = Projector(FEATURES, hidden_dim=16, out_dim=8, batch_norm=False, unit_norm=True)
    prototypes = nn.Sequential(nn.Linear(FEATURES, 8), Prototypes(8, 24))
    teachers = [student, prototypes]
    if ranks > 1:
        student, prototypes = DistributedDataParallel(student), DistributedDataParallel(prototypes)  # type: ignore[assignment]
    optimizers = [torch.optim.SGD(model.parameters(), lr=1.0) for model in (student, prototypes)]
    generator = torch.Generator().manual_seed(7)
    bank = MemoryBank(4 * IMAGES, 8, generator=generator)
    record["initial_memory"] = bank.memory.clone()
    images = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        views = torch.randn(VIEWS, IMAGES, FEATURES, generator=images)[:, share]
        rows, global_rows = views.flatten(0, 1), views[:2].flatten(0, 1)
        with torch.no_grad():
            targets, target_logits = (teacher(global_rows) for teacher in teachers)

        permutation = bank.permutation(generator)
        loss = massl_objective(
            student(rows), targets, bank.memory, permutation, block_size=8, student_temp=0.1, teacher_temp=0.07
        )
        bank.store(targets[len(targets) // 2 :])
        partition = torch.randperm(24, generator=generator)
        consistency, entropy = carp_objective(prototypes(rows), target_logits, partition, block_size=6)
        for optimizer, total in zip(optimizers, (loss, consistency + 10 * entropy), strict=True):
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
        record["massl"].append(loss.item())
        record["carp"].append((consistency.item(), entropy.item()))
        record["permutations"] += [permutation, partition]
    record["memory"] = bank.memory
    record["parameters"] = [parameter.detach() for teacher in teachers for parameter in teacher.parameters()]
    return record


def generators_that_differ(rank: int) -> str:
    try:
        MemoryBank(8, 2, generator=torch.Generator().manual_seed(rank))
    except ValueError as error:
        return str(error)
    return ""


def turns(rank: int, folder: Path) -> dict[str, Any]:
    """What a function saw that all ranks call, the first before the others, and how its failures end."""
    log = folder / "turns.txt"

    def note() -> str:
        if rank == 0:
            time.sleep(0.3)
        with log.open("a") as file:
            file.write(str(rank))
        return log.read_text()

    def fail() -> None:
        if rank == 0:
            raise MissingDataError("not there") if len(seen) == 1 else ZeroDivisionError("a defect")

    seen, errors = [after_first_rank(note)], []
    for _ in range(2):
        try:
            after_first_rank(fail)
        except (MissingDataError, CellError, ZeroDivisionError) as error:
            errors.append(f"{type(error).__name__}: {error}")
        seen.append("")
    return {"turns": seen[0], "failures": errors}


def main(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2, timeout=timedelta(seconds=60)
    )
    torch.save(
        train(2, rank) | {"error": generators_that_differ(rank)} | turns(rank, folder), folder / f"rank{rank}.pt"
    )
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("ranks")
    run_ranks(main, folder)
    return [torch.load(folder / f"rank{rank}.pt") for rank in range(2)]


@pytest.fixture(scope="module")
def single() -> Any:
    return train(1, 0)


def test_loss_of_the_global_batch(ranks: Any, single: Any) -> None:
    massl = torch.tensor([rank["massl"] for rank in ranks]).mean(0)
    assert massl.tolist() == pytest.approx(single["massl"], rel=1e-5)
    assert abs(ranks[0]["massl"][0] - ranks[1]["massl"][0]) > 1e-3


def test_carp_mean_assignment_is_over_all_ranks(ranks: Any, single: Any) -> None:
    carp = torch.tensor([rank["carp"] for rank in ranks])
    torch.testing.assert_close(carp.mean(0), torch.tensor(single["carp"]), rtol=1e-5, atol=1e-6)
    assert torch.equal(carp[0, :, 1], carp[1, :, 1])


def test_gradients_are_those_of_the_global_batch(ranks: Any, single: Any) -> None:
    """Parameters after steps of plain gradient descent at rate 1."""
    for rank in ranks:
        torch.testing.assert_close(rank["parameters"], single["parameters"], rtol=1e-4, atol=1e-6)


def test_memory_and_permutations_are_identical(ranks: Any, single: Any) -> None:
    for name in ("initial_memory", "permutations", "memory"):
        first, second, alone = (torch.cat(list(record[name])) for record in (*ranks, single))
        assert torch.equal(first, second)
        torch.testing.assert_close(first, alone, rtol=0, atol=1e-6 if name == "memory" else 0)


def test_memory_generators_that_differ_are_an_error(ranks: Any) -> None:
    for rank in ranks:
        assert rank["error"] == "memory generator: differs from rank 0 on ranks [1]; seed it alike on every rank"


def test_the_first_rank_goes_first_and_fails_for_all(ranks: Any) -> None:
    assert [rank["turns"] for rank in ranks] == ["0", "01"]
    assert ranks[0]["failures"] == ["MissingDataError: not there", "ZeroDivisionError: a defect"]
    assert ranks[1]["failures"] == [
        "MissingDataError: not there",
        "CellError: on rank 0: ZeroDivisionError: a defect",
    ]
    assert after_first_rank(lambda: 3) == 3


def test_a_start_does_not_see_what_an_earlier_one_wrote() -> None:
    # As under torchrun, which serves one store over its restarts.
    server = dist.TCPStore("localhost", 0, is_master=True, timeout=timedelta(seconds=60))
    for _ in range(3):
        server.set("start/question/1", "of a rank that was killed before it read the answer")
        stores = [dist.TCPStore("localhost", server.port, timeout=timedelta(seconds=60)) for _ in range(3)]
        with ThreadPoolExecutor(3) as pool:
            first, *others = pool.map(store_of_this_start, stores, range(3), [3] * 3)
        assert not first.check(["address"])
        first.set("address", "of rank 0")
        assert [other.get("address") for other in others] == [b"of rank 0"] * 2


def test_a_rank_that_does_not_come_is_an_error() -> None:
    store = dist.TCPStore("localhost", 0, is_master=True)
    with pytest.raises(CellError, match="1 of 2 ranks did not come"):
        store_of_this_start(store, 0, 2, wait=timedelta(seconds=0.2))
