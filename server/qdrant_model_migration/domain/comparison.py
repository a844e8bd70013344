"""Does the candidate search as well as the baseline? Metrics a query, paired intervals, a verdict against a margin, the gate.

Metrics come from ir_measures, what they prove from significance.py. Scores are never compared across models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from qdrant_model_migration.domain.metrics import MAX_K, Query, Run, gate_metric, measured, metric_names, overlap
from qdrant_model_migration.domain.recipe import Gate
from qdrant_model_migration.domain.significance import (
    CONFIDENCE,
    MIN_QUERIES,
    Verdict,
    corrected,
    decide,
    intervals,
    needed_queries,
    p_values,
)
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.results import Metric, QueryCounts

Basis = Literal["judged", "generated", "unjudged"]
"""What relevance rests on: a person's judgements, the documents that the queries were made from, or nothing."""

MAX_CHANGED = 5
_SAME = 1e-12
"""Differences below this are rounding."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """How differently one query was answered; `difference` is of the primary metric."""

    query: Query
    difference: float | None
    overlap: float


@dataclass(frozen=True, kw_only=True)
class PerQuery:
    """What each query scored on the primary metric, of the baseline and of the leading candidate; unjudged: 1, and the share of hits."""

    ids: list[str]
    baseline: NDArray[np.float64]
    candidate: NDArray[np.float64]


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
    counts: QueryCounts
    per_query: PerQuery
    histogram: list[int]
    """Queries by the share of the top k that the leading candidate has in common with the baseline, as `overlap_histogram`."""


def check_arguments(k: int, margin: float) -> None:
    """Refuse a k or a margin that no verdict could rest on."""
    if not 1 <= k <= MAX_K:
        raise Refused(f"Nothing was compared: k is {k}; it must be between 1 and {MAX_K}.")
    if not (math.isfinite(margin) and 0 <= margin < 1):
        raise Refused(f"Nothing was compared: margin is {margin}; it must be at least 0 and less than 1, for example 0.01.")


def compared(
    queries: Sequence[Query], baseline: Run, candidates: Sequence[Run], *, basis: Basis, k: int, margin: float, gate: Gate | None, seed: int
) -> Outcome:
    """Everything that follows from the rankings. With several candidates the intervals widen so that all hold together (Bonferroni)."""
    runs = [baseline, *candidates]
    notes: list[str] = _failures(queries, runs)
    judged = [] if basis == "unjudged" else [q for q in queries if q.is_judged]
    overlaps = {run.model: [overlap(baseline.found.get(q.id, ()), run.found.get(q.id, ()), k) for q in queries] for run in candidates}
    confidence = 1 - (1 - CONFIDENCE) / len(candidates)
    shared = [metric for run in candidates for metric in _shared(run.model, overlaps[run.model], k, confidence, seed)]
    counts = QueryCounts(
        asked=len(queries),
        judged=len(judged),
        without_relevant=0 if basis == "unjudged" else len(queries) - len(judged),
        failed={run.model: sum(q.id not in run.found for q in queries) for run in runs},
        tied={run.model: run.ties for run in runs},
    )
    if not judged:
        leading = candidates[0].model
        found = [(q.id, share) for q, share in zip(queries, overlaps[leading], strict=True) if share is not None]
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
            counts=counts,
            per_query=PerQuery(
                ids=[one for one, _ in found], baseline=np.ones(len(found)), candidate=np.array([share for _, share in found])
            ),
            histogram=overlap_histogram(overlaps[leading], k),
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
    measurements = {run.model: measured(judged, run, names) for run in candidates}
    tests = [p_values(values - base, seed=seed) for values in measurements.values()]
    proofs = {
        run.model: p for run, p in zip(candidates, np.array([corrected(column) for column in np.array(tests).T.tolist()]).T, strict=True)
    }
    for run in candidates:
        values, proof = measurements[run.model], proofs[run.model]
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
                p_value=float(proof[i]),
            )
            for i, name in enumerate(names)
        ]
        can_tell = len(judged) >= MIN_QUERIES and bool(values.any() or base.any())
        verdicts[run.model] = decide(bounds[column, 0], bounds[column, 1], margin, proof[column]) if can_tell else "inconclusive"
        differences[run.model] = difference[:, column]
        counts.equal[run.model] = int((np.abs(difference[:, column]) < _SAME).sum())
        if verdicts[run.model] == "inconclusive":
            counts.needed[run.model] = needed_queries(difference[:, column], margin, confidence)
        notes += _reading(
            run.model, verdicts[run.model], difference[:, column], bounds[column], proof[column], primary, margin, confidence, counts
        )
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
            f"The intervals hold together at {CONFIDENCE:.0%}: each of the {len(candidates)} candidates has one at {confidence:.1%}; p values are Holm's."
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
        counts=counts,
        per_query=PerQuery(ids=[q.id for q in judged], baseline=base[:, column], candidate=measurements[leading][:, column]),
        histogram=overlap_histogram(overlaps[leading], k),
    )


def overlap_histogram(shares: Sequence[float | None], k: int) -> list[int]:
    """Queries by the share of their top k that is common: from less than one step of 1/k (at most ten steps) to all of it, which has a place of its own.

    Queries for which neither side found anything are left out.
    """
    steps = min(k, 10)
    counts = [0] * (steps + 1)
    for share in shares:
        if share is not None:
            counts[int(share * steps + _SAME)] += 1
    return counts


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
    p: float,
    primary: str,
    margin: float,
    confidence: float,
    counts: QueryCounts,
) -> list[str]:
    """One candidate's verdict in words: how sure, how many ties, and what would decide."""
    count = len(differences)
    notes = [
        f"{model!r} is {verdict} on {primary}: {differences.mean():+.4f} ({confidence:.0%} interval {bounds[0]:+.4f} to {bounds[1]:+.4f}, "
        f"p {p:.4f} by a paired randomisation test, margin {margin:g}) over {count} queries, {counts.equal[model]} of which score the same."
    ]
    if count < MIN_QUERIES:
        return [*notes, f"{count} judged queries are too few for a verdict; give at least {MIN_QUERIES}."]
    if verdict == "inconclusive" and (bounds[0] > 0 or bounds[1] < 0):
        notes.append(f"The interval leaves 0 aside, the randomisation test does not (p {p:.4f} > {1 - CONFIDENCE:.2f}): too close to call.")
    needed = counts.needed.get(model)
    if verdict == "inconclusive" and needed is not None:
        more = f"about {needed:,} judged queries" if needed > count else f"somewhat more than {count:,} judged queries"
        notes.append(f"To decide, {more} would be needed if the difference stayed as it is, or a wider margin.")
    return notes


def _changes(queries: Sequence[Query], differences: Mapping[str, float] | None, overlaps: Sequence[float | None]) -> list[Change]:
    """The queries that lost and gained most, or have least in common when nothing is judged. Losses come first: they cost users."""
    shared = {q.id: o for q, o in zip(queries, overlaps, strict=True) if o is not None}
    if differences is None:
        ordered = sorted((q for q in queries if shared.get(q.id, 1.0) < 1.0), key=lambda q: shared[q.id])
        return [Change(query=q, difference=None, overlap=shared[q.id]) for q in ordered[:MAX_CHANGED]]
    moved = sorted((q for q in queries if abs(differences.get(q.id, 0.0)) >= _SAME), key=lambda q: differences[q.id])
    losers = [q for q in moved if differences[q.id] < 0]
    gainers = [q for q in reversed(moved) if differences[q.id] > 0]
    lost = losers[: max(3, MAX_CHANGED - len(gainers))]
    chosen = lost + gainers[: MAX_CHANGED - len(lost)]
    return [Change(query=q, difference=float(differences[q.id]), overlap=shared.get(q.id, 0.0)) for q in chosen]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
