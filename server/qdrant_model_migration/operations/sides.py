"""How do the two sides of a migration answer? Searches for quality, exact or as the app makes them; latency and recall of the indexes beside them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from qdrant_model_migration.domain.collection import Collection
from qdrant_model_migration.domain.comparison_sides import PREFETCH, How
from qdrant_model_migration.domain.metrics import Query, Run, overlap
from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.domain.points import PointId, ServerText
from qdrant_model_migration.domain.search_template import Search
from qdrant_model_migration.domain.texts import Texts
from qdrant_model_migration.embedders.base import AnyEmbedder, is_dense
from qdrant_model_migration.embedders.retrying import embed_resilient
from qdrant_model_migration.embedders.server_side import is_server_side
from qdrant_model_migration.errors import RequestRejected
from qdrant_model_migration.operations.in_parallel import for_each
from qdrant_model_migration.operations.scratch import Report, embedded_queries, say
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.qdrant.points import Found
from qdrant_model_migration.qdrant.points import Query as Searched
from qdrant_model_migration.results import Latency

_TIMED = 200
"""Queries whose latency and index recall are measured, one at a time; more would hardly move a median."""
_WARM_UP = 5
GOOD_INDEX = 0.95
"""Recall below which the index itself is a reason for what users see."""
_WINDOW = 256
"""Sparse and multivector queries between two reports."""


Vector = Searched | NDArray[np.float32]
"""A query to one field; multivectors stay arrays until they are sent, a tenth of the memory of lists."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """A vector field, and the model that makes the queries to it."""

    name: str
    embedder: AnyEmbedder


@dataclass(frozen=True, kw_only=True)
class SearchedSide:
    """One side of a comparison: where it is searched, and how."""

    label: str
    gateway: Gateway
    collection: Collection
    dense: Field
    how: How = "dense"
    added: Field | None = None
    """What a dense search is fused with, or reranked by."""
    template: Search | None = None
    """The app's own search, with the names of this side's fields; it says itself how the fields go together."""

    @property
    def is_fused(self) -> bool:
        """Fused hits tie at every other rank, and a tie would look like a miss of the index."""
        return self.how == "hybrid" if self.template is None else self.template.is_combining

    @property
    def fields(self) -> list[Field]:
        return [self.dense] if self.added is None else [self.dense, self.added]

    async def search(self, vectors: Sequence[Vector], *, limit: int, exact: bool) -> list[Found]:
        """The best points, without payloads; `vectors` are the query's, one for each of `fields` and then of the template's documents."""
        name = self.collection.name
        asked: list[Searched] = [v.tolist() if isinstance(v, np.ndarray) else v for v in vectors]
        if self.template is not None:
            by_field = {field.name: one for field, one in zip(self.fields, asked, strict=False)}
            documents = [one for one in asked[len(self.fields) :] if isinstance(one, ServerText)]
            return await self.gateway.searches.templated(name, self.template, by_field, documents, limit=limit, exact=exact)
        if self.added is None:
            return await self.gateway.points.search(name, asked[0], using=self.dense.name, limit=limit, exact=exact, payload=False)
        # Strict mode bounds what a prefetch may ask for, too.
        depth = max(limit, min(PREFETCH, self.collection.page_limit or PREFETCH))
        searches, using, added = self.gateway.searches, self.dense.name, self.added.name
        if self.how == "hybrid":
            return await searches.hybrid(name, *asked, using=using, sparse_using=added, depth=depth, limit=limit, exact=exact)
        return await searches.rerank(name, *asked, using=using, tokens_using=added, depth=depth, limit=limit, exact=exact)


Questions = Mapping[str, Sequence[Vector]]
"""By query id: a vector for each field of the side. A query that a model refuses is absent."""


async def questions(sides: Sequence[SearchedSide], queries: Sequence[Query], progress: Report | None) -> list[Questions]:
    """The queries as each side asks them; a model that several sides share embeds once."""
    made: dict[int, dict[str, Vector]] = {}
    for field in (field for side in sides for field in side.fields):
        if id(field.embedder) not in made:
            made[id(field.embedder)] = await _asked(field.embedder, queries, progress)
    found: list[Questions] = []
    for side in sides:
        parts = [made[id(field.embedder)] for field in side.fields]
        documents = side.template.documents if side.template is not None else []
        found.append(
            {
                q.id: [*(part[q.id] for part in parts), *(ServerText(text=q.text, model=d.model, options=d.options) for d in documents)]
                for q in queries
                if all(q.id in part for part in parts)
            }
        )
    return found


async def _asked(embedder: AnyEmbedder, queries: Sequence[Query], progress: Report | None) -> dict[str, Vector]:
    if is_server_side(embedder):
        # The server weighs a query otherwise than a document, and shows only some of what it makes of it: the text itself is sent.
        return {q.id: embedder.placeholder(q.text, Side.QUERY) for q in queries}
    name = embedder.spec.name
    if is_dense(embedder):
        return dict(await embedded_queries(embedder, name, queries, progress))
    found: dict[str, Vector] = {}
    for start in range(0, len(queries), _WINDOW):
        part = queries[start : start + _WINDOW]
        rows, _ = await embed_resilient(embedder, [q.text for q in part], Side.QUERY, should_stop=lambda: False)
        found |= {q.id: row for q, row in zip(part, rows, strict=True) if row is not None}
        await say(progress, f"embedding queries with {name}", len(queries), start + len(part))
    return found


async def search_all(side: SearchedSide, asked: Questions, limit: int, progress: Report | None) -> Run:
    """The best points of each query: the nearest whatever the index, or what the app's template finds; the first fault ends it."""
    found: dict[str, tuple[PointId, ...]] = {}
    ties = 0

    async def look(question: tuple[str, Sequence[Vector]]) -> None:
        # A driver that was stopped says so through `progress`.
        nonlocal ties
        query, vectors = question
        hits = await side.search(vectors, limit=limit, exact=side.template is None)
        found[query] = tuple(hit.id for hit in hits)
        ties += any(a.score == b.score for a, b in pairwise(hits))
        if len(found) % 50 == 0 or len(found) == len(asked):
            await say(progress, f"searching {side.collection.name}", len(asked), len(found))

    await for_each(asked.items(), look)
    return Run(model=side.label, found=found, ties=ties)


async def measure_index(
    sides: Sequence[SearchedSide],
    asked: Sequence[Questions],
    runs: Sequence[Run],
    ids: Sequence[str],
    k: int,
    progress: Report | None,
) -> tuple[list[Latency], dict[str, float], list[str]]:
    """Latency and recall of each side's index, the sides taking turns so that both meet the same load."""
    timed = [one for one in ids[:: max(1, len(ids) // _TIMED)] if all(one in run.found for run in runs)][:_TIMED]
    times: dict[str, list[float]] = {side.label: [] for side in sides}
    shares: dict[str, list[float]] = {side.label: [] for side in sides}
    for number, query in enumerate([*timed[:_WARM_UP], *timed]):
        for side, rows, run in zip(sides, asked, runs, strict=True):
            begun = time.perf_counter()
            hits = await side.search(rows[query], limit=k, exact=False)
            spent = time.perf_counter() - begun
            if number >= min(_WARM_UP, len(timed)):
                times[side.label].append(spent * 1000)
                if side.is_fused:
                    continue
                nearest = run.found[query] if side.template is None else await _nearest(side, rows[query], k)
                share = None if nearest is None else overlap(nearest, [hit.id for hit in hits], k)
                shares[side.label] += [] if share is None else [share]
        if number % 25 == 0:
            await say(progress, "timing the indexes", len(timed), min(number, len(timed)))
    if not timed:
        return [], {}, []
    latencies = [Latency(model=label, p50=float(np.percentile(ms, 50)), p95=float(np.percentile(ms, 95))) for label, ms in times.items()]
    recalls = {label: float(np.mean(found)) for label, found in shares.items() if found}
    notes: list[str] = []
    for side in sides:
        if side.collection.status != "green":
            notes.append(
                f"Collection {side.collection.name!r} is {side.collection.status}: its index is still being built, so its latency will change."
            )
        if recalls.get(side.label, 1.0) < GOOD_INDEX:
            notes.append(
                f"The index of {side.collection.name!r} finds {recalls[side.label]:.1%} of the exact top {k} of {side.label!r}. "
                + (
                    "Metrics and verdict rest on exact search; users would see less until hnsw_ef, m or the quantization's rescoring is raised."
                    if side.template is None
                    else "Metrics and verdict rest on what search_template finds: part of the difference may be the index's and not the model's."
                )
            )
    unknown = [repr(side.label) for side in sides if side.label not in recalls and not side.is_fused]
    if unknown:
        notes.append(f"How much the index costs {' and '.join(unknown)} was not measured: strict mode forbids exact searches.")
    if any(side.gateway.connection.is_embedded for side in sides):
        notes.append("The embedded database has no index: it always searches exactly, and its latency says nothing about a server.")
    return latencies, recalls, list(dict.fromkeys(notes))


async def _nearest(side: SearchedSide, vectors: Sequence[Vector], k: int) -> list[PointId] | None:
    """What the side's template would find without an index; None where strict mode forbids that."""
    try:
        return [hit.id for hit in await side.search(vectors, limit=k, exact=True)]
    except RequestRejected:
        return None


async def texts_of(side: SearchedSide, points: Sequence[PointId], text: Texts) -> dict[PointId, str]:
    """Texts of the points that exist; untrusted."""
    found = await side.gateway.points.retrieve(side.collection.name, list(dict.fromkeys(points)))
    return {point.id: text.of(point) or "" for point in found.values()}
