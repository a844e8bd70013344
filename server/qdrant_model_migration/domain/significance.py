"""How sure is a difference? Paired bootstrap intervals, a paired randomisation test, corrections for several looks, a verdict.

Intervals are percentile bootstrap intervals of the mean paired difference (Efron and Tibshirani 1993, chapter 13; for retrieval: Sakai,
"Evaluating evaluation metrics based on the bootstrap", SIGIR 2006). The test exchanges the two models' values at random, query by query
(Fisher 1935; Smucker, Allan and Carterette, "A comparison of statistical significance tests for information retrieval evaluation", CIKM
2007). Bonferroni for intervals, Holm for the test's p values.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Verdict = Literal["better", "worse", "equivalent", "inconclusive"]

CONFIDENCE = 0.95
RESAMPLES = 10_000
MIN_QUERIES = 10
"""Below this a percentile interval is far too narrow to found a verdict on."""
_CHUNK_CELLS = 1_000_000


def intervals(
    differences: NDArray[np.float64], *, seed: int, confidence: float = CONFIDENCE, resamples: int = RESAMPLES
) -> NDArray[np.float64]:
    """Bootstrap intervals of the column means of `differences` (queries, metrics): shape (metrics, 2). Memory is bounded by chunks."""
    count, columns = differences.shape
    random = np.random.default_rng(seed)
    means = np.empty((resamples, columns))
    step = max(1, _CHUNK_CELLS // count)
    for start in range(0, resamples, step):
        drawn = random.integers(0, count, size=(min(step, resamples - start), count), dtype=np.int32)
        for column in range(columns):
            means[start : start + len(drawn), column] = differences[:, column][drawn].mean(axis=1)
    tail = (1 - confidence) / 2
    found: NDArray[np.float64] = np.quantile(means, [tail, 1 - tail], axis=0).T
    return found


def p_values(differences: NDArray[np.float64], *, seed: int, resamples: int = RESAMPLES) -> NDArray[np.float64]:
    """Two-sided p of the column means of `differences` (queries, metrics), were the two models exchangeable in every query.

    The observed assignment counts as one of the random ones, so that no p is 0 (Phipson and Smyth 2010). Queries that score the same
    weigh nothing. Memory is bounded by chunks.
    """
    count, columns = differences.shape
    random = np.random.default_rng(seed)
    observed = np.abs(differences.sum(axis=0))
    as_large = np.ones(columns)
    step = max(1, _CHUNK_CELLS // count)
    for start in range(0, resamples, step):
        signs = random.integers(0, 2, size=(min(step, resamples - start), count), dtype=np.int8) * 2.0 - 1.0
        # Sums that are equal but for rounding are equal.
        as_large += (np.abs(signs @ differences) >= observed - 1e-9 * (1 + observed)).sum(axis=0)
    found: NDArray[np.float64] = as_large / (resamples + 1)
    return found


def corrected(values: Sequence[float]) -> list[float]:
    """P values of several tests, raised so that together they are wrong no more often than one (Holm 1979)."""
    found = [0.0] * len(values)
    highest = 0.0
    for rank, place in enumerate(sorted(range(len(values)), key=lambda i: values[i])):
        highest = max(highest, min(1.0, (len(values) - rank) * values[place]))
        found[place] = highest
    return found


def decide(low: float, high: float, margin: float, p: float = 0.0) -> Verdict:
    """The verdict of an interval: equivalent when it lies within the margin, else whether it leaves zero on one side.

    Better or worse needs the test's agreement as well: of few queries a percentile interval is too narrow, the test never wrong too often.
    """
    if -margin <= low and high <= margin:
        return "equivalent"
    if p > 1 - CONFIDENCE:
        return "inconclusive"
    if low > 0:
        return "better"
    return "worse" if high < 0 else "inconclusive"


def needed_queries(differences: NDArray[np.float64], margin: float, confidence: float = CONFIDENCE) -> int | None:
    """About how many queries would decide, if mean and spread stayed as they are; None when nothing varies.

    The interval must shrink until it clears zero, or until it fits within the margin, whichever comes first.
    """
    spread = float(differences.std(ddof=1)) if len(differences) > 1 else 0.0
    mean = abs(float(differences.mean()))
    reach = max(mean, margin - mean)
    if spread == 0 or reach <= 0:
        return None
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    return max(MIN_QUERIES, math.ceil((z * spread / reach) ** 2))
