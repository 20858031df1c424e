"""The weighted vote of nearest neighbours. Shapes: Q test items, N training items, K neighbours, C classes, A of them
that compete.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from massl_bench.learners.neighbours import Neighbours
from massl_bench.metrics.classification import rank_of_label
from massl_bench.protocols.shared.answers import Answers

if TYPE_CHECKING:
    from massl_bench.learners.device_neighbours import DeviceNeighbours

_VOTES_PER_CHUNK = 1 << 22
"""Entries of the table of votes that are held at a time (32 MB): the table of iNaturalist would be 1.6 GB."""

_VOTES_ON_A_DEVICE = 1 << 26
"""The same on a GPU, 512 MB."""

Votes = tuple[NDArray[np.int64], NDArray[np.bool_], NDArray[np.int64]]
"""Rank of each test item's class, whether it has a vote, the best class; each [Q, number of ks]."""


def ranks_by_vote(
    neighbours: Neighbours | DeviceNeighbours,
    train_labels_N: NDArray[np.int64],
    answers: Answers,
    ks: Sequence[int],
    temperature: float,
    *,
    first: int = 0,
) -> Votes:
    """Returns (rank of each test item's class, whether it has a vote, the best class), each [Q, len(ks)].

    Neighbours on a GPU vote there, where each item has one class of the head itself.

    Args:
        neighbours: the most similar training items of each test item, at least as many as the largest k.
        train_labels_N: classes of the training items.
        answers: what is right for the items of the test split.
        ks: increasing numbers of neighbours.
        temperature: divides a similarity before its exponential, which is the weight of a vote.
        first: of the items of the test split that there are neighbours of.
    """
    if not isinstance(neighbours, Neighbours):
        if answers.of_the_head:
            labels_Q = answers.labels[first : first + len(neighbours.indices_QK)]
            return _ranks_on_device(neighbours, (train_labels_N, labels_Q), answers.num_classes, ks, temperature)
        neighbours = Neighbours(neighbours.similarities_QK.cpu().numpy(), neighbours.indices_QK.cpu().numpy())
    num_test, num_classes = len(neighbours.indices_QK), answers.num_classes
    rank_Qk = np.empty((num_test, len(ks)), dtype=np.int64)
    voted_Qk, predicted_Qk = np.empty(rank_Qk.shape, dtype=bool), np.empty_like(rank_Qk)
    chunk = max(1, _VOTES_PER_CHUNK // max(num_classes, ks[-1]))
    for start in range(0, num_test, chunk):
        rows, items = slice(start, start + chunk), slice(first + start, first + min(start + chunk, num_test))
        # float32: float16 overflows at exp(1 / 0.07) = 1.6e6.
        weight_QK = np.exp(neighbours.similarities_QK[rows] / np.float32(temperature))
        class_QK = train_labels_N[neighbours.indices_QK[rows]]
        num_rows = len(weight_QK)
        cell_QK = class_QK + num_classes * np.arange(num_rows)[:, None]
        votes_QC = np.zeros((num_rows, num_classes))
        # The neighbours of a smaller k are the first ones of a larger k: every vote is counted once.
        for column, (low, high) in enumerate(pairwise((0, *ks))):
            votes_QC += np.bincount(
                cell_QK[:, low:high].ravel(), weight_QK[:, low:high].ravel(), minlength=votes_QC.size
            ).reshape(votes_QC.shape)
            votes_QA, right_Q, predicted_Qk[rows, column] = answers.judged(votes_QC, items)
            rank_Qk[rows, column] = rank_of_label(votes_QA, right_Q)
            voted_Qk[rows, column] = votes_QA[np.arange(num_rows), right_Q] > 0
    return rank_Qk, voted_Qk, predicted_Qk


def _ranks_on_device(
    neighbours: DeviceNeighbours,
    labels: tuple[NDArray[np.int64], NDArray[np.int64]],
    num_classes: int,
    ks: Sequence[int],
    temperature: float,
) -> Votes:
    """Returns the same of neighbours on a device; `labels` are those of training and test items."""
    import torch

    device, num_test = neighbours.indices_QK.device, len(neighbours.indices_QK)
    # Copies: a bank may be memory-mapped and read-only, which torch would warn of.
    class_N, right_Q = (torch.from_numpy(np.array(each)).to(device) for each in labels)
    right_Q1 = right_Q[:, None]
    rank_Qk = torch.empty(num_test, len(ks), dtype=torch.int64, device=device)
    voted_Qk, predicted_Qk = torch.empty_like(rank_Qk, dtype=torch.bool), torch.empty_like(rank_Qk)
    places_C = torch.arange(num_classes, device=device)
    chunk = max(1, _VOTES_ON_A_DEVICE // max(num_classes, ks[-1]))
    for start in range(0, num_test, chunk):
        rows = slice(start, start + chunk)
        # Sums of float32 numbers in float64: but for weights of very different sizes their order changes no bit.
        weight_qK = (neighbours.similarities_QK[rows] / temperature).exp().double()
        class_qK, right_q1 = class_N[neighbours.indices_QK[rows]], right_Q1[rows]
        votes_qC = weight_qK.new_zeros(len(weight_qK), num_classes)
        for column, (low, high) in enumerate(pairwise((0, *ks))):
            votes_qC.scatter_add_(1, class_qK[:, low:high], weight_qK[:, low:high])
            own_q1 = votes_qC.gather(1, right_q1)
            before_qC = (votes_qC > own_q1) | ((votes_qC == own_q1) & (places_C < right_q1))
            rank_Qk[rows, column] = before_qC.sum(1)
            voted_Qk[rows, column] = own_q1[:, 0] > 0
            predicted_Qk[rows, column] = votes_qC.argmax(1)
    return rank_Qk.cpu().numpy(), voted_Qk.cpu().numpy(), predicted_Qk.cpu().numpy()
