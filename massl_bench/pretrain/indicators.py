"""Signs of collapse, cheap enough for every line of the log.

Shapes: N rows, D dimensions, S memory rows or prototypes of a block.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


@torch.no_grad()
def rankme(features: Tensor) -> float:
    """Effective rank: the exponential of the entropy of the singular values' shares (RankMe, arXiv 2210.02885).

    Args:
        features: [N, D]; not centred, as published.

    Returns:
        Between 1 (all rows on one line) and min(N, D).
    """
    shares = torch.linalg.svdvals(features.float())
    shares = shares / shares.sum().clamp(min=torch.finfo(torch.float32).tiny) + 1e-7
    return math.exp(float(-(shares * shares.log()).sum()))


@torch.no_grad()
def assignment_entropies(logits: Tensor) -> dict[str, float]:
    """How a batch is spread over a block: entropies as shares of log S, their largest value.

    Args:
        logits: of N rows over one block of S members, divided by the temperature, [N, S].

    Returns:
        `entropy_of_mean`, that of the mean assignment (1: members are used alike, 0: all images choose one member), and
        `mean_entropy`, the mean one of an assignment (1: no image prefers any member).
    """
    assignments_NS = logits.float().softmax(1)
    mean_S = assignments_NS.mean(0)
    largest = math.log(logits.shape[1]) or 1.0
    of_mean = torch.special.entr(mean_S).sum() / largest
    mean_of = torch.special.entr(assignments_NS).sum(1).mean() / largest
    return {"entropy_of_mean": float(of_mean), "mean_entropy": float(mean_of)}
