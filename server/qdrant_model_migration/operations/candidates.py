"""How does each candidate rank the sample, and what does it take? One model or two, embedded in memory and searched exactly."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import anyio
import numpy as np
from numpy.typing import NDArray

from qdrant_model_migration.domain.comparison_sides import PREFETCH, How
from qdrant_model_migration.domain.fusing import SparseIndex, Terms, fused, max_sim
from qdrant_model_migration.domain.metrics import Query, Run
from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.domain.nearest import unit
from qdrant_model_migration.domain.queries import Document
from qdrant_model_migration.embedders.base import (
    AnyEmbedder,
    Dense,
    Embedder,
    Multivector,
    MultivectorEmbedder,
    SparseEmbedder,
    is_multivector,
    is_sparse,
)
from qdrant_model_migration.embedders.retrying import embed_resilient
from qdrant_model_migration.operations.costing import Part, costs_of
from qdrant_model_migration.operations.scratch import Report, embedded, embedded_queries, ranked, say
from qdrant_model_migration.results import CandidateRow

_WINDOW = 256
"""Texts of a sparse or multivector model between two reports; no more multivectors than this are held at a time."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A search that could be had: by a dense model alone, or together with what it is fused with or reranked by."""

    label: str
    dense: Embedder
    how: How = "dense"
    added: SparseEmbedder | MultivectorEmbedder | None = None

    @property
    def embedders(self) -> list[AnyEmbedder]:
        return [self.dense] if self.added is None else [self.dense, self.added]


@dataclass(frozen=True, kw_only=True)
class Tried:
    """One candidate's rankings, its costs (still without quality), and what else was learnt."""

    run: Run
    row: CandidateRow
    notes: list[str]


@dataclass(frozen=True, kw_only=True)
class _DenseField:
    kept: NDArray[np.intp]
    rows: Dense
    ids: list[str]
    """Of the queries that could be embedded, in the order of `asked`."""
    asked: Dense
    part: Part


@dataclass(frozen=True, kw_only=True)
class _SparseField:
    index: SparseIndex
    asked: dict[str, Terms]
    refused: int
    part: Part


class Sample:
    """The sampled documents and the queries. A dense or sparse model that several candidates have embeds them once."""

    def __init__(
        self, documents: Sequence[Document], queries: Sequence[Query], candidates: Sequence[Candidate], progress: Report | None
    ) -> None:
        self._documents = documents
        self._texts = [document.text for document in documents]
        self._queries = queries
        self._progress = progress
        uses = Counter(id(embedder) for candidate in candidates for embedder in candidate.embedders)
        self._shared = {key for key, count in uses.items() if count > 1}
        self._fields: dict[int, Any] = {}

    async def tried(self, candidate: Candidate, limit: int) -> Tried:
        """Embed what is not yet embedded, and rank.

        Raises:
            TransientEmbedding: the provider went on failing.
            ModelNotUsable: the model itself is at fault.
        """
        field = await self._dense(candidate.dense)
        parts = [field.part]
        depth = limit if candidate.added is None else max(limit, PREFETCH)
        order, ties = await ranked(field.rows, field.asked, candidate.dense.spec.distance, depth)
        hits = dict(zip(field.ids, field.kept[order], strict=True))
        refused = {candidate.dense.spec.name: len(self._texts) - len(field.kept)}
        found: dict[str, Sequence[int]]
        if candidate.added is None:
            found = {query: positions.tolist() for query, positions in hits.items()}
        elif is_sparse(candidate.added):
            other = await self._sparse(candidate.added)
            parts.append(other.part)
            refused[candidate.added.spec.name] = other.refused
            found, ties = await anyio.to_thread.run_sync(_fused, hits, other, depth, limit)
        else:
            assert is_multivector(candidate.added)
            found, ties, part, refused[candidate.added.spec.name] = await self._reranked(candidate.added, hits, limit)
            parts.append(part)
        row, notes = await costs_of(candidate.label, parts, self._texts)
        for name, count in refused.items():
            if count:
                notes.append(f"{count} of {len(self._texts)} documents could not be embedded by {name!r}, so it cannot find them.")
        run = Run(
            model=candidate.label,
            found={query: tuple(self._documents[at].id for at in positions) for query, positions in found.items()},
            ties=ties,
        )
        return Tried(run=run, row=row, notes=notes)

    async def _dense(self, embedder: Embedder) -> _DenseField:
        known: _DenseField | None = self._fields.get(id(embedder))
        if known is not None:
            return known
        name, size = embedder.spec.name, embedder.spec.dimensions or 0

        async def tick(done: int) -> None:
            await say(self._progress, f"embedding documents with {name}", len(self._texts), done)

        documents = await embedded(embedder, self._texts, Side.DOCUMENT, tick)
        vectors = await embedded_queries(embedder, name, self._queries, self._progress)
        found = _DenseField(
            kept=documents.kept,
            rows=documents.rows,
            ids=list(vectors),
            asked=np.array(list(vectors.values()), dtype=np.float32).reshape(len(vectors), size),
            part=Part(embedder=embedder, seconds=documents.seconds, size=size * 4),
        )
        if id(embedder) in self._shared:
            self._fields[id(embedder)] = found
        return found

    async def _sparse(self, embedder: SparseEmbedder) -> _SparseField:
        known: _SparseField | None = self._fields.get(id(embedder))
        if known is not None:
            return known
        name = embedder.spec.name
        asked = await self._asked(embedder)
        distinct = list(dict.fromkeys(self._texts))
        rows: dict[str, Terms] = {}
        begun = time.perf_counter()
        for start in range(0, len(distinct), _WINDOW):
            part = distinct[start : start + _WINDOW]
            made, _ = await embed_resilient(embedder, part, Side.DOCUMENT, should_stop=lambda: False)
            rows |= {text: (row["indices"], row["values"]) for text, row in zip(part, made, strict=True) if row is not None}
            await say(self._progress, f"embedding documents with {name}", len(distinct), start + len(part))
        seconds = time.perf_counter() - begun
        every = [rows.get(text) for text in self._texts]
        index = await anyio.to_thread.run_sync(lambda: SparseIndex(every, is_idf=embedder.spec.modifier == "idf"))
        sizes = [len(row[0]) * 8 for row in every if row is not None]
        found = _SparseField(
            index=index,
            asked={query: (row["indices"], row["values"]) for query, row in asked.items()},
            refused=every.count(None),
            part=Part(embedder=embedder, seconds=seconds, size=float(np.mean(sizes)) if sizes else 0.0),
        )
        if id(embedder) in self._shared:
            self._fields[id(embedder)] = found
        return found

    async def _reranked(
        self, embedder: MultivectorEmbedder, hits: dict[str, NDArray[np.intp]], limit: int
    ) -> tuple[dict[str, Sequence[int]], int, Part, int]:
        """The hits in the order of their best matching tokens. Documents are scored as they are embedded: all of them would not fit into memory."""
        name, is_cosine = embedder.spec.name, embedder.spec.distance == "Cosine"
        asked: dict[str, Multivector] = await self._asked(embedder)
        asked = {query: unit(rows) if is_cosine else rows for query, rows in asked.items() if query in hits}
        places: dict[str, list[int]] = {}
        for at, text in enumerate(self._texts):
            places.setdefault(text, []).append(at)
        wanted: dict[int, list[str]] = {}
        for query in asked:
            for at in hits[query]:
                wanted.setdefault(int(at), []).append(query)
        scores: dict[str, dict[int, float]] = {query: {} for query in asked}

        def score(made: dict[str, Multivector]) -> None:
            by_query: dict[str, list[int]] = {}
            rows: dict[int, Multivector] = {}
            for text, vectors in made.items():
                for at in places[text]:
                    rows[at] = vectors
                    for query in wanted.get(at, ()):
                        by_query.setdefault(query, []).append(at)
            for query, positions in by_query.items():
                scores[query] |= zip(positions, max_sim(asked[query], [rows[at] for at in positions]).tolist(), strict=True)

        distinct = list(places)
        seconds, tokens, refused = 0.0, 0, 0
        for start in range(0, len(distinct), _WINDOW):
            part = distinct[start : start + _WINDOW]
            begun = time.perf_counter()
            vectors, _ = await embed_resilient(embedder, part, Side.DOCUMENT, should_stop=lambda: False)
            seconds += time.perf_counter() - begun
            made = {text: unit(rows) if is_cosine else rows for text, rows in zip(part, vectors, strict=True) if rows is not None}
            tokens += sum(len(rows) * len(places[text]) for text, rows in made.items())
            refused += sum(len(places[text]) for text in part if text not in made)
            await anyio.to_thread.run_sync(score, made)
            await say(self._progress, f"embedding documents with {name}", len(distinct), start + len(part))
        found: dict[str, Sequence[int]] = {}
        ties = 0
        for query, scored in scores.items():
            best = sorted(scored, key=lambda at: -scored[at])[:limit]
            ties += len({scored[at] for at in best}) < len(best)
            found[query] = best
        mean = tokens / max(1, len(self._texts) - refused)
        size = mean * (embedder.spec.dimensions or 0) * 4
        return found, ties, Part(embedder=embedder, seconds=seconds, size=size), refused

    async def _asked(self, embedder: SparseEmbedder | MultivectorEmbedder) -> dict[str, Any]:
        """Vectors by query id; a query that the model refuses is absent."""
        name = embedder.spec.name
        found: dict[str, Any] = {}
        for start in range(0, len(self._queries), _WINDOW):
            part = self._queries[start : start + _WINDOW]
            rows, _ = await embed_resilient(embedder, [q.text for q in part], Side.QUERY, should_stop=lambda: False)
            found |= {q.id: row for q, row in zip(part, rows, strict=True) if row is not None}
            await say(self._progress, f"embedding queries with {name}", len(self._queries), start + len(part))
        return found


def _fused(hits: dict[str, NDArray[np.intp]], other: _SparseField, depth: int, limit: int) -> tuple[dict[str, Sequence[int]], int]:
    found: dict[str, Sequence[int]] = {}
    ties = 0
    for query, positions in hits.items():
        if query in other.asked:
            found[query], is_tied = fused([positions.tolist(), other.index.best(other.asked[query], depth)], limit)
            ties += is_tied
    return found, ties
