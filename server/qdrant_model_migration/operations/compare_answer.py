"""How do the findings of a comparison read? Rankings, texts and numbers put together for whoever asked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from qdrant_model_migration.domain.comparison import Outcome
from qdrant_model_migration.domain.metrics import Query, Run
from qdrant_model_migration.domain.points import PointId, tag
from qdrant_model_migration.domain.queries import QuerySet
from qdrant_model_migration.domain.untrusted import fenced
from qdrant_model_migration.operations.context import now
from qdrant_model_migration.results import ChangedQuery, Comparison, Hit

SHOWN = 3
"""Hits of a query that changed."""
TEXT_CHARS = 120


def distinct(names: Sequence[str]) -> list[str]:
    """The names, told apart where a model is compared with itself."""
    return [name if name not in names[:i] else f"{name} (#{names[:i].count(name) + 1})" for i, name in enumerate(names)]


def comparison_of(
    outcome: Outcome,
    chosen: QuerySet,
    runs: Sequence[Run],
    *,
    texts: Mapping[str, Mapping[PointId, str]],
    k: int,
    margin: float,
    documents: int,
    notes: Sequence[str],
) -> Comparison:
    """The answer; `texts` holds those of the hits that are shown, by model and point."""
    leading = next(run for run in runs if run.model == outcome.leading and run is not runs[0])

    def hits(run: Run, query: Query) -> list[Hit]:
        return [
            Hit(
                point_id=tag(point),
                text=fenced(texts[run.model].get(point, ""), TEXT_CHARS),
                is_relevant=None if chosen.basis == "unjudged" else query.relevant.get(point, 0) > 0,
            )
            for point in run.found.get(query.id, ())[:SHOWN]
        ]

    return Comparison(
        verdict=outcome.verdict,
        verdicts=dict(outcome.verdicts),
        is_judged=chosen.basis == "judged",
        queries=len(chosen.queries),
        query_source=chosen.source,
        k=k,
        margin=margin,
        primary_metric=outcome.primary_metric,
        baseline=runs[0].model,
        candidates=[run.model for run in runs[1:]],
        metrics=outcome.metrics,
        overlap_at_k=outcome.overlap,
        overlap_histogram=outcome.histogram,
        most_changed=[
            ChangedQuery(
                query=fenced(change.query.text, TEXT_CHARS),
                difference=change.difference,
                overlap=change.overlap,
                baseline=hits(runs[0], change.query),
                candidate=hits(leading, change.query),
            )
            for change in outcome.changes
        ],
        gate=outcome.gate,
        counts=outcome.counts,
        notes=[*outcome.notes, *chosen.notes, *notes],
        documents=documents,
        at=now(),
    )
