"""Low-shot multi-label classification by linear SVMs (PCL, ICLR 2021, section 4.1, after Goyal et al., ICCV 2019;
CARP, NeurIPS 2023, as its VOC07 script does it).

Features at unit norm (norm + a small number). For every class k of its positive images are drawn, and the draws of all
classes are put together with repeats: an image drawn for two classes counts twice. One SVM for each class on all of
these; "difficult" counts as negative, in training and in the test. AP: area under the interpolated precision-recall
curve, averaged over the classes that have a positive and a negative test image.

Shapes: N items, D dimensions, C classes, R dimensions of what the training items span.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from massl_bench.core.arrays import pieces
from massl_bench.core.errors import CellError
from massl_bench.core.interruptible import interruptible
from massl_bench.core.memory import Extent, Memory
from massl_bench.core.progress import Progress, Report
from massl_bench.core.strict import IncreasingNumbers, StrictModel
from massl_bench.core.values import EvaluationData, Scores
from massl_bench.metrics.multilabel import mean_average_precision, memory_of_resamples, scored
from massl_bench.protocols.base import Protocol
from massl_bench.protocols.shared.checks import check_not_constant
from massl_bench.protocols.shared.draws import check_class_counts, check_shots, given_draws, sampled_score
from massl_bench.protocols.shared.labels import check_not_empty, multi_labels, scored_classes

if TYPE_CHECKING:
    from sklearn.svm import LinearSVC

_ROLES = ("train", "test")

_METRIC = "map@k"

_ATTEMPTS = 1000
"""Draws for one (k, run) before giving up: on VOC07 the first is nearly always good."""


_BYTES_OF_A_LISTED_FEATURE = 16
"""In the lists of liblinear, with its number."""

_BYTES_OF_A_FEATURE = 4 + 8 + _BYTES_OF_A_LISTED_FEATURE
"""In float32, in float64 for scikit-learn, and in these lists."""

_ROWS_TOGETHER = 4096
"""Test items whose decision values are worked out at a time, in float64."""


class Params(StrictModel):
    """The parameters of the protocol."""

    shots: IncreasingNumbers
    """Positive images of each class."""
    num_draws: int = Field(gt=0)
    full: bool
    """Also on all training images."""
    cost: float = Field(gt=0)
    positive_weight: float = Field(gt=0)
    """Of the positives' loss; the negatives' is 1."""
    norm_epsilon: float = Field(ge=0)
    """Added to the norm that the features are divided by."""
    tolerance: float = Field(gt=0)
    max_iterations: int = Field(gt=0)
    bootstrap_resamples: int = Field(gt=0)
    """For the interval of `map@full`; those of the draws are over the draws."""


def metric_names(params: Params) -> list[str]:
    """Returns `map@k{k}` for every number of shots, and `map@full`."""
    return [f"map@k{k}" for k in params.shots] + (["map@full"] if params.full else [])


def check_sizes(params: Params, num_items: Mapping[str, int]) -> None:
    """Raises `RequestError` for an empty split, or fewer training items than the largest k."""
    check_not_empty(_ROLES, num_items)
    check_shots(params.shots, num_items["train"], _METRIC)


def run(data: EvaluationData, params: Params, rng: np.random.Generator) -> Scores:
    """Returns the mAP for every k: mean, standard deviation and value of each draw; and on all training images.

    Raises:
        RequestError: A split is empty, without labels or single-label; handed-in draws are incomplete.
        CellError: A class has fewer than k positives, or no negative; every training item has the same features.
    """
    import sklearn.svm  # noqa: F401  # that second is not the first machine's, by which the others would be told

    check_sizes(params, {role: len(bank) for role, bank in data.banks.items()})
    train, test = data.banks["train"], data.banks["test"]
    labels = multi_labels("train", train)
    truth = multi_labels("test", test)
    notes = scored_classes(truth, test.class_names, difficult_is_negative=True)
    check_not_constant("training images", train.features)
    given = given_draws(data, params.shots, params.num_draws, _METRIC)
    if given is None:
        check_class_counts((labels == 1).sum(axis=0), params.shots, train.class_names, _METRIC)
    machines = _Machines(
        test_ND=_unit(test.features, params.norm_epsilon),
        params=params,
        rng=rng,
        report=data.report,
        total=labels.shape[1] * (len(params.shots) * params.num_draws + params.full),
        total_rows=labels.shape[1] * _rows_of_all(params, labels, given),
    )
    scores = {}
    for k in params.shots:
        values, redrawn, left_out = [], 0, 0
        for draw in range(params.num_draws):
            if given is None:
                rows, again = _draw(labels == 1, k, rng)
                redrawn += again
            else:
                rows = given[k, draw]
            decisions_NC = machines.decisions(train.features[rows], labels[rows], f"k{k}_run{draw}")
            value, _, left_out = mean_average_precision(decisions_NC, truth, difficult_is_negative=True)
            values.append(value)
        details: dict[str, float | int | str] = {"draws": "sampled" if given is None else "handed in"}
        details |= {"redrawn": redrawn} if given is None else {}
        details |= {"classes_left_out": left_out} if left_out else {}
        scores[f"map@k{k}"] = sampled_score(values, details)
    if params.full:
        decisions_NC = machines.decisions(train.features, labels, "the training split")
        scores["map@full"], _ = scored(
            decisions_NC, truth, difficult_is_negative=True, resamples=params.bootstrap_resamples, rng=rng
        )
    return Scores(scores, notes=notes)


def memory(params: Params, extent: Extent) -> Memory:
    """Returns what the largest fit holds, in float32, in float64 and as liblinear lists it; and the test."""
    train, test, classes = extent.num_items["train"], extent.num_items["test"], extent.num_classes
    fitted = train if params.full else min(train, params.shots[-1] * classes)
    fitting = _BYTES_OF_A_FEATURE * fitted * extent.dim
    deciding = 3 * 8 * min(test, _ROWS_TOGETHER) * extent.dim
    scoring = memory_of_resamples(test, params.bootstrap_resamples) if params.full else 0
    always = 4 * test * extent.dim + 2 * 8 * test * classes + train * classes
    # The system does not get all of a thread's memory back: liblinear's lists count beside what comes after them.
    kept = _BYTES_OF_A_LISTED_FEATURE * fitted * extent.dim
    return Memory(host=always + max(fitting, kept + deciding, kept + scoring))


def _unit(features_ND: NDArray[np.float32], epsilon: float) -> NDArray[np.float32]:
    unit_ND = np.empty(features_ND.shape, dtype=np.float32)
    for chosen, rows_nD in pieces(features_ND, _ROWS_TOGETHER):
        norm_n1 = np.linalg.norm(rows_nD, axis=1, keepdims=True)
        # float32: a row of zeros must stay zeros also with an epsilon of 0.
        np.divide(rows_nD, np.maximum(norm_n1 + np.float32(epsilon), np.finfo(np.float32).tiny), out=unit_ND[chosen])
    return unit_ND


def _rows_of_all(
    params: Params, labels_NC: NDArray[np.int8], given: Mapping[tuple[int, int], NDArray[np.int64]] | None
) -> int:
    """Returns the rows of all draws, and of the training split where it is fitted whole."""
    drawn = [
        k * labels_NC.shape[1] if given is None else len(given[k, draw])
        for k in params.shots
        for draw in range(params.num_draws)
    ]
    return sum(drawn) + params.full * len(labels_NC)


def _draw(present_NC: NDArray[np.bool_], k: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], int]:
    """Returns (rows [C · k], class by class, with repeats; number of draws thrown away).

    A draw that leaves a class without a negative is thrown away: no SVM could be fitted.
    """
    for attempt in range(_ATTEMPTS):
        rows = np.concatenate([rng.choice(np.flatnonzero(present_N), k, replace=False) for present_N in present_NC.T])
        if not present_NC[rows].all(axis=0).any():
            return rows, attempt
    always = int(present_NC.mean(axis=0).argmax())
    raise CellError(
        f"{_ATTEMPTS} draws of {k} images of each class left a class without a negative, most likely "
        f"class {always}, which {100 * present_NC[:, always].mean():.0f} % of the training images show"
    )


@dataclass(kw_only=True)
class _Machines:
    """Fits SVMs, and tells how many there are."""

    test_ND: NDArray[np.float32]
    params: Params
    rng: np.random.Generator
    report: Report
    total: int
    """SVMs of all draws and classes."""
    total_rows: int
    """What they are fitted on."""
    _fitted: int = 0
    _rows: int = 0

    def decisions(
        self, features_ND: NDArray[np.float32], labels_NC: NDArray[np.int8], where: str
    ) -> NDArray[np.float64]:
        """Returns the decision values of the test items, float64 [N, C], of SVMs on features of any length.

        The dual of an SVM sees products of its images alone. Where they are fewer than the dimensions, they are
        written in an orthonormal basis of what they span, which leaves every product as it is: the solver takes the
        same steps, each of them shorter.
        """
        unit_ND = _unit(features_ND, self.params.norm_epsilon)
        wide = unit_ND.shape[1] > len(unit_ND)
        basis_DR, coordinates_RN = np.linalg.qr(unit_ND.T.astype(np.float64)) if wide else (None, unit_ND.T)
        weights_CR = np.empty((labels_NC.shape[1], len(coordinates_RN)))
        intercepts_C = np.empty(len(weights_CR))
        for index, labels_N in enumerate(labels_NC.T):
            sign_N = np.where(labels_N == 1, 1, -1)
            if (sign_N == sign_N[0]).all():
                word = "negative" if sign_N[0] == 1 else "positive"
                raise CellError(f"{where} holds no {word} image of class {index}; both are needed")
            self.report(self._progress)
            seed = int(self.rng.integers(1 << 31))
            svm = interruptible(partial(_fitted, coordinates_RN.T, sign_N, self.params, seed))
            weights_CR[index], intercepts_C[index] = svm.coef_[0], svm.intercept_[0]
            self._fitted, self._rows = self._fitted + 1, self._rows + len(labels_N)
        weights_DC = weights_CR.T if basis_DR is None else basis_DR @ weights_CR.T
        decisions_NC = np.empty((len(self.test_ND), len(weights_CR)))
        for chosen, test_nD in pieces(self.test_ND, _ROWS_TOGETHER):
            decisions_NC[chosen] = test_nD.astype(np.float64) @ weights_DC + intercepts_C
        return decisions_NC

    def _progress(self) -> Progress:
        work = self._rows, self.total_rows - self._rows
        return Progress(done=self._fitted, total=self.total, unit="SVMs fitted", work=work)


def _fitted(features_ND: NDArray[Any], sign_N: NDArray[np.int64], params: Params, seed: int) -> LinearSVC:
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.svm import LinearSVC

    svm = LinearSVC(
        C=params.cost,
        class_weight={1: params.positive_weight, -1: 1},
        penalty="l2",
        loss="squared_hinge",
        dual=True,
        intercept_scaling=1.0,
        tol=params.tolerance,
        max_iter=params.max_iterations,
        random_state=seed,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # as published: what 2,000 iterations reach
        return svm.fit(features_ND, sign_N)


PROTOCOL = Protocol(
    roles=_ROLES,
    params=Params,
    metric_names=metric_names,
    check_sizes=check_sizes,
    run=run,
    memory=memory,
)
