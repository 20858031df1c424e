"""The training items of few-shot protocols: sampled, or handed in. Shapes: N items, C classes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from massl_bench.core.errors import CellError, RequestError
from massl_bench.core.values import EvaluationData, Score
from massl_bench.core.wording import asked, parameters
from massl_bench.metrics.classification import mean_accuracies
from massl_bench.metrics.intervals import mean_interval
from massl_bench.protocols.shared.labels import class_name


def with_shots(shots: Sequence[int], metric: str) -> str:
    """Returns how these numbers of images are asked for, with a headline that is among their metrics."""
    return parameters(shots=",".join(map(str, shots)), headline=f"{metric}{shots[-1]}")


def check_shots(shots: Sequence[int], count: int, metric: str) -> None:
    """Raises `RequestError` where a training split has fewer items than the largest k; two classes share them.

    `metric` as for `given_draws`.
    """
    if count >= shots[-1]:
        return
    fitting = [k for k in shots if k <= count // 2]
    remedy = with_shots(fitting, metric) if fitting else f"at least {2 * shots[0]} are needed, of two classes"
    raise RequestError(f"{shots[-1]} images of each class asked, but the training split has {count} in all; {remedy}")


def given_draws(
    data: EvaluationData, shots: Sequence[int], num_draws: int, metric: str
) -> Mapping[tuple[int, int], NDArray[np.int64]] | None:
    """Returns the rows that were handed in for every (k, run) asked, or None where there are none at all.

    Args:
        data: holds the draws.
        shots: every k.
        num_draws: runs of each k.
        metric: a metric of k is named this and k; for the error.

    Raises:
        RequestError: Some of the draws that are asked for are not there, or name rows that are not there.
    """
    if not data.draws:
        return None
    missing = [(k, run) for k in shots for run in range(num_draws) if (k, run) not in data.draws]
    if missing:
        found = ", ".join(f"k{k}_run{run}" for k, run in sorted(data.draws)[:3])
        complete = [k for k in shots if all((k, run) in data.draws for run in range(num_draws))]
        advice = with_shots(complete, metric) if complete else "take the draws out, or add these"
        raise RequestError(
            f"the draws are handed in, and k{missing[0][0]}_run{missing[0][1]} is not among them "
            f"({len(missing)} missing; found {found}, … {len(data.draws)} in all); {advice}"
        )
    count = len(data.banks["train"])
    for (k, run), rows in data.draws.items():
        if len(rows) == 0 or rows.min() < 0 or rows.max() >= count:
            raise RequestError(f"k{k}_run{run}: expected training rows from 0 to {count - 1}")
    return data.draws


def check_class_counts(
    counts_C: NDArray[np.int64], shots: Sequence[int], names: tuple[str, ...] | None, metric: str
) -> None:
    """Raises `CellError` where a class has fewer items than the largest k, naming it and the possible numbers.

    `metric` as for `given_draws`.
    """
    smallest = int(counts_C.argmin())
    found = int(counts_C[smallest])
    if found >= shots[-1]:
        return
    fitting = [k for k in shots if k <= found]
    advice = (
        f"allowed up to {found}: {with_shots(fitting, metric)}"
        if fitting
        else f"every class needs at least {shots[0]}: raise {asked('limit', 'train=N')}, or take a split that has them"
    )
    raise CellError(
        f"{shots[-1]} images of each class asked, but {class_name(smallest, names)} has {found} in the "
        f"training split; {advice}"
    )


def draw_up_to(labels_N: NDArray[np.int64], k: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Returns k rows of every class, or all of a class that has fewer, drawn without replacement."""
    order = rng.permutation(len(labels_N))
    order = order[np.argsort(labels_N[order], kind="stable")]
    sorted_labels = labels_N[order]
    place_in_class = np.arange(len(order)) - np.searchsorted(sorted_labels, sorted_labels)
    rows: NDArray[np.int64] = order[place_in_class < k]
    return rows


def sampled_accuracies(
    right_SN: NDArray[np.bool_], labels_N: NDArray[np.int64], details: Mapping[str, Any]
) -> tuple[Score, Score]:
    """Returns (accuracy over items, mean of the classes' accuracies) of several draws.

    Args:
        right_SN: which items each draw's classifier got right.
        labels_N: their classes.
        details: of both scores.
    """
    top1_S, mean_S = np.array([mean_accuracies(right_N, labels_N) for right_N in right_SN]).T
    top1 = sampled_score(top1_S.tolist(), details)
    # An item's part in the mean: the share of draws that got it right.
    return replace(top1, items=right_SN.mean(axis=0)), sampled_score(mean_S.tolist(), details)


def sampled_score(values: Sequence[float], details: Mapping[str, Any]) -> Score:
    """Returns mean, its interval, standard deviation (as the published scripts: divided by their number) and values."""
    return Score(
        value=float(np.mean(values)),
        ci95=mean_interval(values),
        std=float(np.std(values)),
        per_seed=tuple(map(float, values)),
        details=details,
    )
