"""Label-free measures of features. Shapes: N items, D dimensions, P pairs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

_CHUNK = 4096


def second_moment(features_ND: NDArray[np.float32]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Returns (mean [D], XᵀX / N [D, D]) in float64, piece by piece."""
    total_D = np.zeros(features_ND.shape[1])
    moment_DD = np.zeros((len(total_D), len(total_D)))
    for start in range(0, len(features_ND), _CHUNK):
        chunk_nD = features_ND[start : start + _CHUNK].astype(np.float64)
        total_D += chunk_nD.sum(axis=0)
        moment_DD += chunk_nD.T @ chunk_nD
    return total_D / len(features_ND), moment_DD / len(features_ND)


def rank_me(moment_DD: NDArray[np.float64], epsilon: float) -> float:
    """Returns the exponential of the entropy of the normalised singular values (RankMe, ICML 2023, equation 1).

    Args:
        moment_DD: XᵀX up to a factor, of the features as they are (not centred).
        epsilon: added to each share.
    """
    singular_D = np.sqrt(np.maximum(np.linalg.eigvalsh(moment_DD), 0))
    share_D = singular_D / (singular_D.sum() or 1) + epsilon  # all zero where the jackknife leaves only zeros
    return float(np.exp(-(share_D * np.log(share_D)).sum()))


def rank_me_interval(
    features_ND: NDArray[np.float32],
    moment_DD: NDArray[np.float64],
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
        moment_DD: their XᵀX / N.
        epsilon: as in `rank_me`.
        groups: G, at least 2; each item is a group where there are fewer items.
        rng: draws the groups.
    """
    count = len(features_ND)
    num_groups = min(groups, count)
    values_G = np.array(
        [
            rank_me(count * moment_DD - len(group) * second_moment(features_ND[np.sort(group)])[1], epsilon)
            for group in np.array_split(rng.permutation(count), num_groups)
        ]
    )
    error = np.sqrt((num_groups - 1) * values_G.var())
    value = rank_me(moment_DD, epsilon)
    return float(value - 1.96 * error), float(value + 1.96 * error)


def alpha_req(covariance_DD: NDArray[np.float64], first: int, last: int) -> float:
    """Returns the exponent α of the eigenvalues' decay λ_j ∝ j^−α (α-ReQ, NeurIPS 2022, section 3).

    A straight line through log λ over log j for the ranks `first` to `last` (from 1, or as many as there are above
    rounding), weighted by 1 / j as in Stringer et al. (Nature 2019).

    Raises:
        ValueError: Fewer than three eigenvalues in the range.
    """
    value_D = np.linalg.eigvalsh(covariance_DD)[::-1]
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
