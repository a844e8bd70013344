"""Does the candidate search as well as the baseline? Metrics a query, paired intervals, a verdict against a margin, the gate.

Metrics come from ir_measures. Intervals are percentile bootstrap intervals of the mean paired difference (Efron and Tibshirani 1993,
chapter 13; for retrieval: Sakai, "Evaluating evaluation metrics based on the bootstrap", SIGIR 2006). Scores are never compared across models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qdrant_model_migration.domain.metrics import MAX_K, Query, Run, gate_metric, measured, metric_names, overlap
from qdrant_model_migration.domain.recipe import Gate
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.results import Metric

Verdict = Literal["better", "worse", "equivalent", "inconclusive"]
Basis = Literal["judged", "generated", "unjudged"]
"""What relevance rests on: a person's judgements, the documents that the queries were made from, or nothing."""

CONFIDENCE = 0.95
RESAMPLES = 10_000
MAX_CHANGED = 5
MIN_QUERIES = 10
"""Below this a percentile interval is far too narrow to found a verdict on."""
_CHUNK_CELLS = 1_000_000


@dataclass(frozen=True, kw_only=True)
class Change:
    """How differently one query was answered; `difference` is of the primary metric."""

    query: Query
    difference: float | None
    overlap: float


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """The findings, still without texts and timings. `leading` is the candidate that verdict, overlap and changes are about."""

    verdict: Verdict
    verdicts: dict[str, Verdict]
    """Of every candidate, by its label."""
    leading: str
    primary_metric: str
    metrics: list[Metric]
    overlap: float | None
    changes: list[Change]
    gate: Literal["pass", "fail", "not_required"]
    notes: list[str]


def check_arguments(k: int, margin: float) -> None:
    """Refuse a k or a margin that no verdict could rest on."""
    if not 1 <= k <= MAX_K:
        raise Refused(f"Nothing was compared: k is {k}; it must be between 1 and {MAX_K}.")
    if not (math.isfinite(margin) and 0 <= margin < 1):
        raise Refused(f"Nothing was compared: margin is {margin}; it must be at least 0 and less than 1, for example 0.01.")


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


def decide(low: float, high: float, margin: float) -> Verdict:
    """The verdict of an interval: equivalent when it lies within the margin, else whether it leaves zero on one side."""
    if -margin <= low and high <= margin:
        return "equivalent"
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


def compared(
    queries: Sequence[Query], baseline: Run, candidates: Sequence[Run], *, basis: Basis, k: int, margin: float, gate: Gate | None, seed: int
) -> Outcome:
    """Everything that follows from the rankings. With several candidates the intervals widen so that all hold together (Bonferroni)."""
    notes: list[str] = _failures(queries, [baseline, *candidates])
    judged = [] if basis == "unjudged" else [q for q in queries if q.is_judged]
    overlaps = {run.model: [overlap(baseline.found.get(q.id, ()), run.found.get(q.id, ()), k) for q in queries] for run in candidates}
    confidence = 1 - (1 - CONFIDENCE) / len(candidates)
    shared = [metric for run in candidates for metric in _shared(run.model, overlaps[run.model], k, confidence, seed)]
    if not judged:
        leading = candidates[0].model
        notes.insert(0, "The queries carry no judgements: this measures how much the results differ, not which model is better.")
        if gate is not None:
            notes.append(f"The gate on {gate_metric(gate, k)} fails: it needs queries with relevant documents.")
        return Outcome(
            verdict="inconclusive",
            verdicts={run.model: "inconclusive" for run in candidates},
            leading=leading,
            primary_metric=f"overlap@{k}",
            metrics=shared,
            overlap=_mean(overlaps[leading]),
            changes=_changes(queries, None, overlaps[leading]),
            gate="not_required" if gate is None else "fail",
            notes=notes,
        )
    if len(judged) < len(queries):
        notes.append(
            f"{len(queries) - len(judged)} of {len(queries)} queries have no relevant document; metrics and verdict leave them out."
        )
    names = metric_names(k, gate)
    primary = f"mrr@{k}" if basis == "generated" else f"ndcg@{k}"
    column = names.index(primary)
    base = measured(judged, baseline, names)
    metrics = [Metric(metric=name, model=baseline.model, value=float(base[:, i].mean())) for i, name in enumerate(names)]
    verdicts: dict[str, Verdict] = {}
    differences: dict[str, NDArray[np.float64]] = {}
    gate_result: Literal["pass", "fail", "not_required"] = "not_required"
    for run in candidates:
        values = measured(judged, run, names)
        difference = values - base
        bounds = intervals(difference, seed=seed, confidence=confidence)
        metrics += [
            Metric(
                metric=name,
                model=run.model,
                value=float(values[:, i].mean()),
                difference=float(difference[:, i].mean()),
                ci_low=float(bounds[i, 0]),
                ci_high=float(bounds[i, 1]),
            )
            for i, name in enumerate(names)
        ]
        can_tell = len(judged) >= MIN_QUERIES and bool(values.any() or base.any())
        verdicts[run.model] = decide(bounds[column, 0], bounds[column, 1], margin) if can_tell else "inconclusive"
        differences[run.model] = difference[:, column]
        notes += _reading(run.model, verdicts[run.model], difference[:, column], bounds[column], primary, margin, confidence)
        if gate is not None and gate_result != "fail":
            low = float(bounds[names.index(gate_metric(gate, k)), 0])
            gate_result = "pass" if can_tell and low >= -gate.margin else "fail"
    if not any(metric.value for metric in metrics):
        notes.append(
            "No model finds a single relevant document: that says nothing about the models. Are the judgements for this collection?"
        )
    if gate is not None:
        name, how = gate_metric(gate, k), "generated" if basis == "generated" else "judged"
        notes.append(f"The gate ({name}, at most {gate.margin:g} lost) was decided by {len(judged)} {how} queries: {gate_result}.")
    if len(candidates) > 1:
        notes.append(
            f"The intervals hold together at {CONFIDENCE:.0%}: each of the {len(candidates)} candidates has one at {confidence:.1%}."
        )
    leading = max(candidates, key=lambda run: float(differences[run.model].mean())).model
    by_query = dict(zip((q.id for q in judged), differences[leading], strict=True))
    return Outcome(
        verdict=verdicts[leading],
        verdicts=verdicts,
        leading=leading,
        primary_metric=primary,
        metrics=[*metrics, *shared],
        overlap=_mean(overlaps[leading]),
        changes=_changes(queries, by_query, overlaps[leading]),
        gate=gate_result,
        notes=notes,
    )


def _shared(model: str, overlaps: Sequence[float | None], k: int, confidence: float, seed: int) -> list[Metric]:
    """Share of the baseline's top k that a candidate finds, with the interval of the share itself; none where both found nothing.

    Of vectors that are cut or mapped against those they come from this is the recall, whatever is judged.
    """
    mean = _mean(overlaps)
    if mean is None:
        return []
    known = np.array([[one] for one in overlaps if one is not None])
    low, high = intervals(known, seed=seed, confidence=confidence)[0]
    return [Metric(metric=f"overlap@{k}", model=model, value=mean, ci_low=float(low), ci_high=float(high))]


def _failures(queries: Sequence[Query], runs: Sequence[Run]) -> list[str]:
    notes: list[str] = []
    for run in runs:
        failed = sum(q.id not in run.found for q in queries)
        if failed:
            notes.append(f"{failed} of {len(queries)} queries could not be embedded by {run.model!r}; they count as having found nothing.")
        if run.ties:
            notes.append(
                f"In {run.ties} of {len(queries)} queries {run.model!r} gives several hits the same score; their order is arbitrary."
            )
    return notes


def _reading(
    model: str,
    verdict: Verdict,
    differences: NDArray[np.float64],
    bounds: NDArray[np.float64],
    primary: str,
    margin: float,
    confidence: float,
) -> list[str]:
    """One candidate's verdict in words: how sure, how many ties, and what would decide."""
    count = len(differences)
    equal = int((np.abs(differences) < 1e-12).sum())
    text = (
        f"{model!r} is {verdict} on {primary}: {differences.mean():+.4f} ({confidence:.0%} interval {bounds[0]:+.4f} to {bounds[1]:+.4f}, "
        f"margin {margin:g}) over {count} queries, {equal} of which score the same."
    )
    if count < MIN_QUERIES:
        return [text, f"{count} judged queries are too few for a verdict; give at least {MIN_QUERIES}."]
    if verdict == "inconclusive":
        needed = needed_queries(differences, margin, confidence)
        if needed is not None:
            more = f"about {needed:,} judged queries" if needed > count else f"somewhat more than {count:,} judged queries"
            return [text, f"To decide, {more} would be needed if the difference stayed as it is, or a wider margin."]
    return [text]


def _changes(queries: Sequence[Query], differences: Mapping[str, float] | None, overlaps: Sequence[float | None]) -> list[Change]:
    """The queries that lost and gained most, or have least in common when nothing is judged. Losses come first: they cost users."""
    shared = {q.id: o for q, o in zip(queries, overlaps, strict=True) if o is not None}
    if differences is None:
        ordered = sorted((q for q in queries if shared.get(q.id, 1.0) < 1.0), key=lambda q: shared[q.id])
        return [Change(query=q, difference=None, overlap=shared[q.id]) for q in ordered[:MAX_CHANGED]]
    moved = sorted((q for q in queries if abs(differences.get(q.id, 0.0)) > 1e-12), key=lambda q: differences[q.id])
    losers = [q for q in moved if differences[q.id] < 0]
    gainers = [q for q in reversed(moved) if differences[q.id] > 0]
    lost = losers[: max(3, MAX_CHANGED - len(gainers))]
    chosen = lost + gainers[: MAX_CHANGED - len(lost)]
    return [Change(query=q, difference=float(differences[q.id]), overlap=shared.get(q.id, 0.0)) for q in chosen]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
