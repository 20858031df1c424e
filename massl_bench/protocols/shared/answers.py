"""What is right for the items of a test split, for a head of its own dataset or of another one.

The classes of another dataset may be some of the head's, or groups of them; an item may show several, any of which is
right; and the items may be the same images under several corruptions.

Shapes: N test items, n of them at a time, C classes of the head, A of them that compete.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.errors import RequestError
from massl_bench.core.values import EvaluationData, FeatureBank, HeadTest, Score
from massl_bench.metrics.classification import accuracy, classification_scores, rank_of_label
from massl_bench.metrics.corruption import corruption_scores, corruption_values
from massl_bench.protocols.shared.draws import sampled_accuracies, sampled_score
from massl_bench.protocols.shared.labels import labels_of, single_labels

_SCORES_AT_A_TIME = 1 << 25
"""128 MB of them: the logits of ImageNet-C would be 15 GB."""

ScoresOf = Callable[[NDArray[np.float32]], NDArray[np.float32]]
"""Features [n, D] to scores [n, C]."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Answers:
    """The labels of a test split, and how they are to be read."""

    labels: NDArray[Any]
    """int64 [N]; int8 [N, C], 1 for each right class, where any of several is right."""
    num_classes: int
    """C."""
    test: HeadTest | None

    @classmethod
    def of(cls, data: EvaluationData, num_classes: int) -> Answers:
        """Returns those of the test split; raises `RequestError` for labels that do not fit."""
        test, bank = data.head_test, data.banks["test"]
        if test is None or not test.any_of_several:
            return cls(labels=single_labels("test", bank), num_classes=num_classes, test=test)
        labels = labels_of("test", bank)
        if labels.ndim != 2 or labels.shape[1] != num_classes or test.members is not None:
            raise RequestError(f"the test split has labels {list(labels.shape)}, expected [N, {num_classes}]")
        return cls(labels=labels, num_classes=num_classes, test=test)

    @property
    def of_the_head(self) -> bool:
        """Whether each item has one right class, the head's own, against which all others compete."""
        return self.test is None or (self.test.members is None and not self.test.any_of_several)

    @property
    def _competing(self) -> NDArray[np.int64]:
        """The classes of the head that may be predicted, ascending, [A]."""
        if self.test is None or self.test.members is None or self.test.others_compete:
            return np.arange(self.num_classes)
        return np.sort(np.concatenate([np.array(classes) for classes in self.test.members]))

    def judged(
        self, scores_nC: NDArray[np.floating], rows: slice
    ) -> tuple[NDArray[np.floating], NDArray[np.int64], NDArray[np.int64]]:
        """Returns what competes for each of the test items `rows`, and what wins.

        Args:
            scores_nC: of the head's classes.
            rows: which of the test items.

        Returns:
            The scores that compete, [n, A]; of the right ones the place of the best, [n]; the class that is predicted,
            [n]: the head's, or the test set's where that has its own, −1 for none of these.
        """
        labels = self.labels[rows]
        if self.of_the_head:
            return scores_nC, labels, scores_nC.argmax(axis=1)
        assert self.test is not None
        if self.test.members is None:
            return scores_nC, _best_right(scores_nC, labels == 1), scores_nC.argmax(axis=1)
        competing_A = self._competing
        own_C = np.full(self.num_classes, -1)
        for label, classes in enumerate(self.test.members):
            own_C[list(classes)] = label
        own_A, scores_nA = own_C[competing_A], scores_nC[:, competing_A]
        right_nA = own_A == labels[:, None]
        return scores_nA, _best_right(scores_nA, right_nA), own_A[scores_nA.argmax(axis=1)]

    def ranks(
        self, scores_of: ScoresOf, features_ND: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Returns (how many classes come before the best right one, the class that is predicted), int64 [N] each."""
        whole = self.test is None  # as ever: another cut could round a score otherwise
        at_a_time = len(features_ND) if whole else max(1, _SCORES_AT_A_TIME // self.num_classes)
        parts = []
        for start in range(0, len(features_ND), at_a_time):
            rows = slice(start, start + at_a_time)
            scores_nA, right_n, predicted_n = self.judged(scores_of(features_ND[rows]), rows)
            parts.append((rank_of_label(scores_nA, right_n), predicted_n))
        return np.concatenate([rank_n for rank_n, _ in parts]), np.concatenate([each for _, each in parts])

    def classification(
        self, scores_of: ScoresOf, bank: FeatureBank, resamples: int, rng: np.random.Generator
    ) -> dict[str, Score]:
        """Returns `top1`, `top5` and what else there is of this test split, with intervals."""
        if self.test is None:
            return classification_scores(scores_of(bank.features), self.labels, resamples, rng)
        rank_N, predicted_N = self.ranks(scores_of, bank.features)
        found = self.scores(rank_N == 0, resamples=resamples, rng=rng)
        top5 = self.scores(rank_N < 5, resamples=resamples, rng=rng)["accuracy"]
        return {"top1": self.with_predicted(found.pop("accuracy"), predicted_N), "top5": top5, **found}

    def with_predicted(self, score: Score, predicted_N: NDArray[np.int64]) -> Score:
        """Returns a score with the classes that were predicted, where each item has one class and one prediction."""
        single = self.test is None or not (self.test.any_of_several or self.test.corruptions)
        return replace(score, predicted=predicted_N) if single else score

    def scores(self, right_N: NDArray[np.bool_], *, resamples: int, rng: np.random.Generator) -> dict[str, Score]:
        """Returns `accuracy` and what else there is: `mean_per_class`, or errors under corruptions."""
        if self.test is not None and self.test.corruptions is not None:
            return corruption_scores(right_N, self.test.corruptions, resamples=resamples, rng=rng)
        several = self.labels.ndim == 2
        classes_N = np.zeros(len(right_N), dtype=np.int64) if several else self.labels
        top, per_class = accuracy(right_N, classes_N, resamples=resamples, rng=rng)
        return {"accuracy": top} if several else {"accuracy": top, "mean_per_class": per_class}

    def sampled(self, right_SN: NDArray[np.bool_], details: Mapping[str, Any]) -> dict[str, Score]:
        """Returns the same of several draws of a head: mean, standard deviation and value of each."""
        if self.labels.ndim == 1 and (self.test is None or self.test.corruptions is None):
            top, per_class = sampled_accuracies(right_SN, self.labels, details)
            return {"accuracy": top, "mean_per_class": per_class}
        if self.test is None or self.test.corruptions is None:
            top = sampled_score(right_SN.mean(axis=1).tolist(), details)
            return {"accuracy": replace(top, items=right_SN.mean(axis=0))}
        values = [corruption_values(right_N, self.test.corruptions) for right_N in right_SN]
        found = {name: sampled_score([float(each[name].mean()) for each in values], details) for name in values[0]}
        items = np.mean([each["accuracy"] for each in values], axis=0)
        return {**found, "accuracy": replace(found["accuracy"], items=items)}


def _best_right(scores_nA: NDArray[np.floating], right_nA: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Returns the place of the largest score among the right ones, the first of equal ones, [n]."""
    best_n: NDArray[np.int64] = np.where(right_nA, scores_nA, -np.inf).argmax(axis=1)
    return best_n
