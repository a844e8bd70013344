"""How good is a ranking? nDCG, recall and reciprocal rank of each query, by ir_measures; and how much two rankings share."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from qdrant_model_migration.domain.points import PointId, tag
from qdrant_model_migration.domain.recipe import Gate
from qdrant_model_migration.errors import Refused

MAX_K = 100
_GATE_METRIC = re.compile(r"^(ndcg|recall|mrr|r|rr)(?:@(\d{1,3}))?$")


@dataclass(frozen=True, kw_only=True)
class Query:
    """A question and the points that answer it, with grades above 0; without any it is unjudged."""

    id: str
    text: str
    relevant: Mapping[PointId, int] = field(default_factory=dict)

    @property
    def is_judged(self) -> bool:
        return any(grade > 0 for grade in self.relevant.values())


@dataclass(frozen=True, kw_only=True)
class Run:
    """What one model found: the points of each query, best first. A query absent here failed and counts as having found nothing."""

    model: str
    found: Mapping[str, Sequence[PointId]]
    ties: int = 0
    """Queries with two hits of equal score, whose order is arbitrary."""


def gate_metric(gate: Gate, k: int) -> str:
    """The gate's metric by its full name; without '@' it is taken at k.

    Raises:
        Refused: there is no such metric.
    """
    match = _GATE_METRIC.match(gate.metric.strip().lower())
    cutoff = int(match[2]) if match and match[2] else k
    if match is None or not 1 <= cutoff <= MAX_K:
        raise Refused(f"Gate metric {gate.metric!r} is not known. There are 'ndcg@{k}', 'recall@{k}' and 'mrr@{k}', each up to @{MAX_K}.")
    kind = {"r": "recall", "rr": "mrr"}.get(match[1], match[1])
    return f"{kind}@{cutoff}"


def metric_names(k: int, gate: Gate | None) -> list[str]:
    """The metrics that are measured: three at k, and the gate's when it is another."""
    names = [f"ndcg@{k}", f"recall@{k}", f"mrr@{k}"]
    return names if gate is None else list(dict.fromkeys([*names, gate_metric(gate, k)]))


def depth(k: int, gate: Gate | None) -> int:
    """How many hits a search must return."""
    return max(int(name.partition("@")[2]) for name in metric_names(k, gate))


def measured(queries: Sequence[Query], run: Run, names: Sequence[str]) -> NDArray[np.float64]:
    """Shape (queries, metrics); a query that found nothing has zeros. The order of the hits counts, not their scores."""
    import ir_measures
    from ir_measures import RR, Qrel, R, ScoredDoc, nDCG

    makers = {"ndcg": nDCG, "recall": R, "mrr": RR}
    columns = {str(makers[name.partition("@")[0]] @ int(name.partition("@")[2])): i for i, name in enumerate(names)}
    wanted = [makers[name.partition("@")[0]] @ int(name.partition("@")[2]) for name in names]
    rows = {query.id: i for i, query in enumerate(queries)}
    qrels = [Qrel(query.id, tag(point), grade) for query in queries for point, grade in query.relevant.items()]
    scored = [
        ScoredDoc(query.id, tag(point), float(-rank))
        for query in queries
        for rank, point in enumerate(dict.fromkeys(run.found.get(query.id, ())))
    ]
    values = np.zeros((len(queries), len(names)))
    for metric in ir_measures.iter_calc(wanted, qrels, scored):
        values[rows[metric.query_id], columns[str(metric.measure)]] = metric.value
    return values


def overlap(one: Sequence[PointId], other: Sequence[PointId], k: int) -> float | None:
    """Share of the top k that two rankings have in common; None when both are empty."""
    a, b = set(one[:k]), set(other[:k])
    return len(a & b) / max(len(a), len(b)) if a or b else None
