"""Label-free measures of one bank of features: RankMe, α-ReQ, alignment and uniformity.

RankMe: Garrido et al., ICML 2023, arXiv 2210.02885. α-ReQ: Agrawal et al., NeurIPS 2022, arXiv 2202.05808. Alignment
and uniformity: Wang and Isola, ICML 2020, arXiv 2005.10242. Their alignment is of two views of an image; a bank holds
one: here an item's positive is its nearest neighbour. Both are taken on a random part of a large bank.

Shapes: N items, D dimensions.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import Field, model_validator

from massl_bench.core.errors import CellError, RequestError
from massl_bench.core.strict import StrictModel
from massl_bench.core.values import EvaluationData, Score
from massl_bench.core.wording import parameter
from massl_bench.learners.cosines import unit_rows
from massl_bench.learners.neighbours import cosine_neighbours
from massl_bench.metrics.spectrum import alignment, alpha_req, products, rank_me, rank_me_interval, uniformity
from massl_bench.protocols.base import Protocol
from massl_bench.protocols.shared.checks import check_not_constant


class Params(StrictModel):
    """The parameters of the protocol."""

    rankme_epsilon: float = Field(gt=0)
    jackknife_groups: int = Field(ge=2)
    """Groups of items, each left out once, behind RankMe's interval."""
    alpha_first: int = Field(ge=1)
    """First rank of the eigenvalues in α-ReQ's fit, from 1."""
    alpha_last: int = Field(ge=3)
    pair_items: int = Field(ge=2)
    """Alignment and uniformity are taken on at most so many items, drawn at random."""

    @model_validator(mode="after")
    def _some_ranks(self) -> Params:
        if self.alpha_last < self.alpha_first + 2:
            raise ValueError(f"alpha_last: expected at least alpha_first + 2 = {self.alpha_first + 2}")
        return self


def metric_names(params: Params) -> list[str]:
    """Returns the four measures; only `alignment` lies in a fixed interval, [0, 4]."""
    return ["rankme", "alpha_req", "alignment", "uniformity"]


def check_sizes(params: Params, num_items: Mapping[str, int]) -> None:
    """Raises `RequestError` for fewer than two items."""
    found = num_items.get("train", num_items.get("all", 0))
    if found < 2:
        raise RequestError(f"at least two images are needed, found {found}")


def run(data: EvaluationData, params: Params, rng: np.random.Generator) -> dict[str, Score]:
    """Returns the four measures of the training split, or of the one split of unlabelled data.

    RankMe has a 95 % interval over the items.

    Raises:
        RequestError: Fewer than two items.
        CellError: All items have the same features; too few dimensions for the fit of α-ReQ.
    """
    bank = data.banks["train"] if "train" in data.banks else data.banks["all"]
    check_sizes(params, {"train": len(bank)})
    features = bank.features
    check_not_constant("images", features)
    found = products(features)
    try:
        alpha = alpha_req(found.centred_SS, params.alpha_first, params.alpha_last)
    except ValueError as error:
        raise CellError(f"alpha_req: {error}", remedy=f"lower {parameter('alpha_first')}") from None
    sample = features
    if len(bank) > params.pair_items:
        sample = features[np.sort(rng.choice(len(bank), params.pair_items, replace=False))]
    unit = unit_rows(sample)
    nearest = cosine_neighbours(unit, unit, 2, backend=data.backend)
    # An item's own row is one of the two, unless two duplicates of lower index come before it.
    own = nearest.indices_QK == np.arange(len(unit))[:, None]
    similarity = np.where(own[:, 0], nearest.similarities_QK[:, 1], nearest.similarities_QK[:, 0])
    details: dict[str, float | int | str] = {"items": len(unit)}
    interval = rank_me_interval(features, found, params.rankme_epsilon, groups=params.jackknife_groups, rng=rng)
    return {
        "rankme": Score(value=rank_me(found.gram_SS, params.rankme_epsilon), ci95=interval),
        "alpha_req": Score(value=alpha),
        "alignment": Score(value=alignment(similarity), details={**details, "positives": "nearest neighbours"}),
        "uniformity": Score(value=uniformity(unit), details=details),
    }


PROTOCOL = Protocol(
    roles=("train",),
    params=Params,
    metric_names=metric_names,
    check_sizes=check_sizes,
    run=run,
    roles_of_kind={"unlabelled": ("all",)},
    scale=1,  # ranks, exponents and distances are no fractions
)
