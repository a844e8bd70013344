"""Where is the candidate worse? The metrics by the values of a payload field, the worst of them named, and how far to believe it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from qdrant_model_migration.domain.metrics import Query, Run
from qdrant_model_migration.domain.points import PointId
from qdrant_model_migration.domain.significance import CONFIDENCE, MIN_QUERIES, decide, intervals
from qdrant_model_migration.results import Slice

MAX_SLICES = 12
"""Shown, those of most queries first. Each look widens every interval: of many slices none could be judged."""
MAX_VALUE_CHARS = 80


def values_of(value: object) -> list[str]:
    """What a payload field says, as slices: texts, whole numbers and truth values, and each of a list."""
    if isinstance(value, bool):
        return [str(value).lower()]
    if isinstance(value, str | int):
        text = " ".join(str(value).split())
        return [text[:MAX_VALUE_CHARS]] if text else []
    return list(dict.fromkeys(one for inner in value for one in values_of(inner))) if isinstance(value, list) else []


def points_asked(queries: Sequence[Query], baseline: Run, k: int) -> dict[str, list[PointId]]:
    """By query, the points that say to which slice it belongs: its relevant ones, or where none is, the best `k` of the baseline."""
    return {q.id: [p for p, grade in q.relevant.items() if grade > 0] or list(baseline.found.get(q.id, ())[:k]) for q in queries}


def members(
    queries: Sequence[Query], points: Mapping[str, Sequence[PointId]], values: Mapping[PointId, Sequence[str]]
) -> dict[str, list[str]]:
    """By query, its slices: every value among its relevant points; of what the baseline found, the most frequent, the best ranked of equals."""
    found: dict[str, list[str]] = {}
    for query in queries:
        said = [one for point in points[query.id] for one in values.get(point, ())]
        found[query.id] = list(dict.fromkeys(said)) if query.is_judged else [value for value, _ in Counter(said).most_common(1)]
    return found


def sliced(
    belongs: Mapping[str, Sequence[str]],
    ids: Sequence[str],
    base: NDArray[np.float64],
    candidate: NDArray[np.float64],
    *,
    is_judged: bool,
    margin: float,
    looks: int,
    seed: int,
) -> tuple[list[Slice], str | None, list[str]]:
    """The slices, worst first, the name of the worst, and notes.

    Args:
        belongs: By query, its slices.
        ids: Of the queries, in the order of the rows.
        base: The baseline's values, of one metric; of an unjudged comparison ones.
        candidate: The candidate's; of an unjudged comparison the share of the baseline's hits.
        is_judged: A difference is one of quality.
        margin: As of the comparison.
        looks: Candidates that were compared; every one of them could have been the one that is sliced.
        seed: Of the resamples.
    """
    rows: dict[str, list[int]] = {}
    for row, query in enumerate(ids):
        for value in belongs.get(query, ()):
            rows.setdefault(value, []).append(row)
    chosen = sorted(rows, key=lambda value: (-len(rows[value]), value))[:MAX_SLICES]
    large = [value for value in chosen if len(rows[value]) >= MIN_QUERIES]
    confidence = 1 - (1 - CONFIDENCE) / max(1, len(large) * looks)
    found: list[Slice] = []
    for value in chosen:
        places = rows[value]
        difference = candidate[places] - base[places]
        shown = Slice(
            value=value,
            queries=len(places),
            baseline=float(base[places].mean()),
            candidate=float(candidate[places].mean()),
            difference=float(difference.mean()),
        )
        if value in large:
            low, high = (float(x) for x in intervals(difference[:, None], seed=seed, confidence=confidence)[0])
            shown = shown.model_copy(
                update={"ci_low": low, "ci_high": high, "verdict": decide(low, high, margin) if is_judged else "inconclusive"}
            )
        found.append(shown)
    found.sort(key=lambda s: (s.difference, s.value))
    worst = next((s for s in found if s.value in large), None)
    return found, None if worst is None else worst.value, _notes(rows, chosen, large, worst, ids, belongs, confidence, is_judged=is_judged)


def _notes(
    rows: Mapping[str, Sequence[int]],
    chosen: Sequence[str],
    large: Sequence[str],
    worst: Slice | None,
    ids: Sequence[str],
    belongs: Mapping[str, Sequence[str]],
    confidence: float,
    *,
    is_judged: bool,
) -> list[str]:
    by = "the values of their relevant documents" if is_judged else "the most frequent value among what the baseline finds for them"
    notes = [f"Queries are sliced by {by}."]
    if worst is not None:
        # Payload text is never part of a note: the value stands fenced beside it.
        notes.append(
            f"The worst slice with at least {MIN_QUERIES} queries loses or gains {worst.difference:+.4f} over {worst.queries} queries ({confidence:.2%} interval "
            f"{worst.ci_low:+.4f} to {worst.ci_high:+.4f}, which holds for all {len(large)} such slices together). The worst of several looks worse than it is: "
            "believe it only when its interval lies below 0."
        )
    else:
        notes.append(f"No slice has {MIN_QUERIES} queries: none can be called the worst.")
    small = len(chosen) - len(large)
    if small:
        notes.append(
            f"{small} of the slices shown have fewer than {MIN_QUERIES} queries, and therefore no interval: one query more may turn them."
        )
    if len(rows) > len(chosen):
        notes.append(f"The field has {len(rows):,} values among these queries; the {len(chosen)} of most queries are shown.")
    several = sum(len(belongs.get(query, ())) > 1 for query in ids)
    if several:
        notes.append(f"{several} of {len(ids)} queries belong to several slices, and count in each.")
    none = sum(not belongs.get(query) for query in ids)
    if none:
        notes.append(
            f"{none} of {len(ids)} queries belong to no slice: their documents have no text, whole number or truth value in the field."
        )
    return notes
