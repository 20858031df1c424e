"""Landmark retrieval and copy detection over large databases."""

from __future__ import annotations

import numpy as np

import massl_bench as mb
from benchmarks.measure import Bar, Comparison, take_turns
from massl_bench.core.arrays import pieces
from massl_bench.core.values import CopyTruth, QueryTruth
from massl_bench.metrics.micro_average import micro_average_precision
from massl_bench.protocols.shared.landmarks import roles_of_rows

SUMMARY = "mAP of 70 queries over a million images, micro-AP with its interval"


def published_scores(queries_QD, database_ND, truth, kappas=(1, 5, 10)):
    """The published evaluation written plainly: a full sort, then a loop over settings and queries."""
    ranks_NQ = np.argsort(-(database_ND @ queries_QD.T), axis=0)
    found = {}
    for setting in ("easy", "medium", "hard"):
        aps, precisions = [], []
        for query, each in enumerate(truth):
            wanted, junk = roles_of_rows(each, setting)
            position = np.arange(len(ranks_NQ))[np.isin(ranks_NQ[:, query], wanted)]
            ignored = np.arange(len(ranks_NQ))[np.isin(ranks_NQ[:, query], junk)]
            position = position - np.searchsorted(ignored, position)
            before = np.where(position == 0, 1.0, np.arange(len(position)) / np.maximum(position, 1))
            aps.append(((before + (np.arange(len(position)) + 1) / (position + 1)) / 2).mean())
            depth = [min(k, position.max() + 1) for k in kappas]
            precisions.append([(position < k).sum() / k for k in depth])
        found[f"map_{setting}"] = float(np.mean(aps))
        for k, values in zip(kappas, np.array(precisions).T, strict=True):
            found[f"mp@{k}_{setting}"] = float(values.mean())
    return found


def run(quick: bool) -> list[Comparison]:
    """Returns both comparisons."""
    return [_retrieval(20_000 if quick else 1_000_000), _micro(*((500, 200) if quick else (9_500, 1_000)))]


def _unit(rows_ND):
    return rows_ND / np.linalg.norm(rows_ND, axis=1, keepdims=True)


def _retrieval(count: int) -> Comparison:
    rng = np.random.default_rng(0)
    database = _unit(rng.standard_normal((count, 128), dtype=np.float32))
    queries = _unit(rng.standard_normal((70, 128), dtype=np.float32))
    truth = []
    for _ in range(70):
        rows = rng.choice(count, 150, replace=False)
        truth.append(QueryTruth(easy=rows[:50], hard=rows[50:100], junk=rows[100:]))
    banks = {"database": mb.FeatureBank.from_arrays(database), "queries": mb.FeatureBank.from_arrays(queries)}
    calls = {
        "ours": lambda: mb.evaluate("retrieval", banks, ground_truth=truth),
        "published loop": lambda: published_scores(queries, database, truth),
    }
    ours, theirs = calls["ours"](), calls["published loop"]()
    apart = max(abs(score.value - theirs[name]) for name, score in ours.items())
    return Comparison(
        what=f"mAP and mP@k of 70 queries over {count:,} × 128, three settings",
        times=take_turns(calls, 2),
        bars=(Bar(call="published loop", ratio=10, kind="faster"),),
        notes=(f"largest difference of a score from the published loop: {apart:.1e}",),
    )


def _micro(num_queries: int, num_rows: int) -> Comparison:
    rng = np.random.default_rng(0)
    scores = rng.standard_normal((num_queries, num_rows), dtype=np.float32)
    original = rng.integers(0, num_rows, num_queries)
    scores[np.arange(num_queries), original] += 2
    truth = CopyTruth(original=original, block=np.full(num_queries, "strong"))
    own = scores[np.arange(num_queries), original]

    def ap(resamples: int) -> object:
        return micro_average_precision(
            own, truth.original >= 0, pieces(scores, 512), resamples=resamples, rng=np.random.default_rng(0)
        )

    return Comparison(
        what=f"micro-AP of {num_queries:,} queries × {num_rows:,} rows, 1,000 resamples",
        times=take_turns({"ours": lambda: ap(1000), "without an interval": lambda: ap(1)}, 2),
        bars=(Bar(call="without an interval", ratio=1.5),),
    )
