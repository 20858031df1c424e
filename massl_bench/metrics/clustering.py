"""How well clusters agree with classes. Shapes: N items, K clusters, C classes, R resamples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.values import Score
from massl_bench.metrics.intervals import centred_interval, percentile_interval

NAMES = ("nmi", "ami", "ari", "fmi", "homogeneity", "completeness", "v_measure", "accuracy")


def clustering_scores(
    clusters_N: NDArray[np.int64], labels_N: NDArray[np.int64], *, resamples: int, rng: np.random.Generator
) -> dict[str, Score]:
    """Returns the scores of `NAMES`; `accuracy` and `nmi` with a bootstrap 95 % interval over the items.

    All but accuracy are scikit-learn's, with its defaults (arithmetic mean for NMI and AMI). Accuracy is the largest
    that any one-to-one assignment of clusters to classes reaches (Hungarian method, Kuhn 1955); the assignment is kept
    for the resamples.
    """
    from scipy.optimize import linear_sum_assignment
    from sklearn import metrics

    homogeneity, completeness, v_measure = metrics.homogeneity_completeness_v_measure(labels_N, clusters_N)
    values = {
        "nmi": metrics.normalized_mutual_info_score(labels_N, clusters_N),
        "ami": metrics.adjusted_mutual_info_score(labels_N, clusters_N),
        "ari": metrics.adjusted_rand_score(labels_N, clusters_N),
        "fmi": metrics.fowlkes_mallows_score(labels_N, clusters_N),
        "homogeneity": homogeneity,
        "completeness": completeness,
        "v_measure": v_measure,
    }
    scores = {name: Score(value=float(value)) for name, value in values.items()}
    counts_KC = np.zeros((clusters_N.max() + 1, labels_N.max() + 1), dtype=np.int64)
    np.add.at(counts_KC, (clusters_N, labels_N), 1)
    cluster_A, class_A = linear_sum_assignment(counts_KC, maximize=True)
    matched_KC = np.zeros(counts_KC.shape, dtype=bool)
    matched_KC[cluster_A, class_A] = True
    right_R = rng.binomial(len(labels_N), counts_KC[matched_KC].sum() / len(labels_N), size=resamples)
    class_of_K = np.full(len(counts_KC), -1)  # a cluster beyond the classes has none
    class_of_K[cluster_A] = class_A
    scores["accuracy"] = Score(
        value=float(counts_KC[matched_KC].sum() / len(labels_N)),
        ci95=percentile_interval(right_R / len(labels_N)),
        items=class_of_K[clusters_N] == labels_N,
        predicted=class_of_K[clusters_N],
    )
    draws_R = _resampled_nmi(counts_KC, resamples, rng)
    scores["nmi"] = Score(value=float(values["nmi"]), ci95=centred_interval(float(values["nmi"]), draws_R))
    return {name: scores[name] for name in NAMES}


def _resampled_nmi(counts_KC: NDArray[np.int64], resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Returns the NMI of each bootstrap resample of the items, [R]."""
    cluster_E, class_E = counts_KC.nonzero()
    share_E = counts_KC[cluster_E, class_E] / counts_KC.sum()
    draws_R = np.empty(resamples)
    for index in range(resamples):  # one at a time: a thousand classes have 10⁵ non-empty cells
        drawn_E = (rng.multinomial(counts_KC.sum(), share_E) / counts_KC.sum()).astype(np.float64)
        cells = _entropy(drawn_E)
        rows, columns = (_entropy(np.bincount(index_E, drawn_E).astype(np.float64)) for index_E in (cluster_E, class_E))
        draws_R[index] = 2 * (rows + columns - cells) / (rows + columns) if rows + columns > 0 else 1.0
    return draws_R


def _entropy(share: NDArray[np.float64]) -> float:
    positive = share[share > 0]
    return float(-(positive * np.log(positive)).sum())
