"""Features in two dimensions, for people: t-SNE, UMAP or the two principal axes."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.errors import RequestError
from massl_bench.learners.cosines import unit_rows

Method = Literal["tsne", "umap", "pca"]
WORDS = {"tsne": "t-SNE", "umap": "UMAP", "pca": "The two principal axes"}
_SEED = 0
_NEIGHBOURS = 15
_PERPLEXITY = 30.0


def planar(features_ND: NDArray[np.float32], method: Method) -> NDArray[np.float64]:
    """Returns a place for each item in the unit square, [N, 2], by its feature of length 1.

    Args:
        features_ND: of at least four items.
        method: t-SNE (van der Maaten and Hinton, JMLR 2008) from the principal axes, perplexity 30 or a quarter of the
            items; UMAP (McInnes et al., 2018) of 15 neighbours; or the principal axes.

    Raises:
        RequestError: UMAP is asked for, and not installed.
    """
    rows_ND = unit_rows(features_ND)
    place_N2 = _placed(rows_ND, method)
    low_2, high_2 = place_N2.min(axis=0), place_N2.max(axis=0)
    scaled_N2: NDArray[np.float64] = (place_N2 - low_2) / np.maximum(high_2 - low_2, np.finfo(np.float64).tiny)
    return scaled_N2


def _placed(rows_ND: NDArray[np.float32], method: Method) -> NDArray[np.float64]:
    if method == "umap":
        try:
            from umap import UMAP
        except ImportError:
            text = "a map by UMAP needs umap-learn, which is not installed: pip install umap-learn"
            raise RequestError(text) from None
        count = min(_NEIGHBOURS, len(rows_ND) - 1)
        return np.asarray(UMAP(n_neighbors=count, metric="cosine", random_state=_SEED).fit_transform(rows_ND), float)
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    if method == "pca":
        return np.asarray(PCA(2, svd_solver="full").fit_transform(rows_ND.astype(np.float64)))
    perplexity = min(_PERPLEXITY, len(rows_ND) / 4)
    return np.asarray(TSNE(2, perplexity=perplexity, init="pca", random_state=_SEED).fit_transform(rows_ND), float)
