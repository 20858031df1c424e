"""Label-free measures of features. Shapes: N items, D dimensions, S the smaller of both, P pairs.

The eigenvalues that matter are those of XᵀX [D, D] and of XXᵀ [N, N] alike: the smaller matrix is taken.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.arrays import let_go, pieces

_CHUNK = 4096


@dataclass(frozen=True, eq=False)
class Products:
    """The inner products of a bank of features, in float64."""

    count: int
    """N."""
    dims: int
    """D."""
    gram_SS: NDArray[np.float64]
    """Of the dimensions (XᵀX) where there are as many items or more; of the items (XXᵀ) otherwise."""
    centred_SS: NDArray[np.float64]
    """The same of the features without their mean."""

    @property
    def of_items(self) -> bool:
        """Whether the products are those of the items."""
        return self.count < self.dims


def products(features_ND: NDArray[np.float32]) -> Products:
    """Returns the inner products of the dimensions, or of the items where these are fewer; piece by piece."""
    count, dims = features_ND.shape
    if count >= dims:
        total_D, gram_DD = np.zeros(dims), np.zeros((dims, dims))
        for _, rows_nD in pieces(features_ND, _CHUNK):
            rows = rows_nD.astype(np.float64)
            total_D += rows.sum(axis=0)
            gram_DD += rows.T @ rows
        return Products(count, dims, gram_DD, gram_DD - np.outer(total_D, total_D) / count)
    rows_ND = features_ND.astype(np.float64)
    centred_ND = rows_ND - rows_ND.mean(axis=0)
    return Products(count, dims, rows_ND @ rows_ND.T, centred_ND @ centred_ND.T)


def rank_me(gram_SS: NDArray[np.float64], epsilon: float) -> float:
    """Returns the exponential of the entropy of the normalised singular values (RankMe, ICML 2023, equation 1).

    There are min(N, D) of them, as in the definition.

    Args:
        gram_SS: XᵀX or XXᵀ, whichever is smaller, up to a factor; of the features as they are (not centred).
        epsilon: added to each share.
    """
    singular_S = np.sqrt(np.maximum(np.linalg.eigvalsh(gram_SS), 0))
    share_S = singular_S / (singular_S.sum() or 1) + epsilon  # all zero where the jackknife leaves only zeros
    return float(np.exp(-(share_S * np.log(share_S)).sum()))


def rank_me_interval(
    features_ND: NDArray[np.float32],
    found: Products,
    epsilon: float,
    *,
    groups: int,
    rng: np.random.Generator,
) -> tuple[float, float]:
    """Returns a 95 % interval of RankMe over the items, by the delete-a-group jackknife (Kott, J. Off. Stat. 2001).

    RankMe is measured without one of G random groups of the items, for each of the groups; with r_g these values, the
    standard error is √((G − 1) / G · Σ (r_g − r̄)²). The interval is 1.96 of them to either side of the value.
    (A bootstrap would hold fewer different items than the sample, whose RankMe is lower.)

    Args:
        features_ND: the items, at least two.
        found: their inner products.
        epsilon: as in `rank_me`.
        groups: G, at least 2; each item is a group where there are fewer items.
        rng: draws the groups.
    """
    num_groups = min(groups, found.count)
    drawn = np.array_split(rng.permutation(found.count), num_groups)
    values_G = np.array([rank_me(_without(features_ND, found, np.sort(group)), epsilon) for group in drawn])
    error = np.sqrt((num_groups - 1) * values_G.var())
    value = rank_me(found.gram_SS, epsilon)
    return float(value - 1.96 * error), float(value + 1.96 * error)


def _without(features_ND: NDArray[np.float32], found: Products, group: NDArray[np.int64]) -> NDArray[np.float64]:
    """Returns the inner products, of dimensions or of items, that are left without a group of items."""
    if found.of_items:
        rest = np.setdiff1d(np.arange(found.count), group)
        return found.gram_SS[np.ix_(rest, rest)]
    gram_DD = found.gram_SS.copy()
    for start in range(0, len(group), _CHUNK):
        rows_nD = features_ND[group[start : start + _CHUNK]].astype(np.float64)
        gram_DD -= rows_nD.T @ rows_nD
    let_go(features_ND)
    if found.count - len(group) >= found.dims:
        return gram_DD
    # Fewer items than dimensions are left: as many singular values as items, the others are rounding.
    rest = np.setdiff1d(np.arange(found.count), group)
    rows_ND = features_ND[rest].astype(np.float64)
    return rows_ND @ rows_ND.T


def alpha_req(centred_SS: NDArray[np.float64], first: int, last: int) -> float:
    """Returns the exponent α of the eigenvalues' decay λ_j ∝ j^−α (α-ReQ, NeurIPS 2022, section 3).

    A straight line through log λ over log j for the ranks `first` to `last` (from 1, or as many as there are above
    rounding), weighted by 1 / j as in Stringer et al. (Nature 2019).

    Args:
        centred_SS: inner products of the dimensions or of the items, without the mean, up to a factor.
        first: the first rank.
        last: the last rank.

    Raises:
        ValueError: Fewer than three eigenvalues in the range.
    """
    value_D = np.linalg.eigvalsh(centred_SS)[::-1]
    value_D = value_D[value_D > 1e-12 * value_D[0]]
    rank_J = np.arange(first, min(last, len(value_D)) + 1)
    if len(rank_J) < 3:
        raise ValueError(f"{len(value_D)} eigenvalues above rounding; at least {first + 2} are needed")
    x_J, y_J, weight_J = np.log(rank_J), np.log(value_D[rank_J - 1]), 1 / rank_J
    x_J = x_J - np.average(x_J, weights=weight_J)
    return float(-(weight_J * x_J * y_J).sum() / (weight_J * x_J**2).sum())


def alignment(similarities_P: NDArray[np.floating]) -> float:
    """Returns the mean squared distance of positive pairs of unit vectors, given their cosine similarities.

    Wang and Isola, ICML 2020, equation 2 with exponent 2.
    """
    return float(2 - 2 * similarities_P.astype(np.float64).mean())


def uniformity(unit_ND: NDArray[np.float32]) -> float:
    """Returns log E exp(−2 ‖x − y‖²) over all pairs of different items (Wang and Isola, ICML 2020, equation 3)."""
    count = len(unit_ND)
    total = 0.0
    for start in range(0, count, _CHUNK):
        squares_nN = 2 - 2 * (unit_ND[start : start + _CHUNK] @ unit_ND.T)
        total += float(np.exp(-2 * np.maximum(squares_nN, 0)).sum(dtype=np.float64))
    # Each item's pair with itself adds exp(0).
    return float(np.log((total - count) / (count * (count - 1))))
