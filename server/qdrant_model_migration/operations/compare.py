"""Does the new model search as well as the old? Two collections after the backfill, or candidates on a sample before it."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass

import anyio
import numpy as np

from qdrant_model_migration.domain.collection import Collection
from qdrant_model_migration.domain.comparison import Outcome, Query, Run, check_arguments, compared, depth, fenced, overlap
from qdrant_model_migration.domain.migration import Gate, Migration
from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.domain.points import PointId, tag
from qdrant_model_migration.domain.queries import GENERATED, Document, QuerySet, known_items
from qdrant_model_migration.domain.texts import TextSource, text_statistics
from qdrant_model_migration.embedders.base import Dense, Embedder
from qdrant_model_migration.errors import MigrationError, ModelNotUsable, Refused
from qdrant_model_migration.operations.context import OperationContext, now
from qdrant_model_migration.operations.queries import generated, read_queries, sampled, with_points
from qdrant_model_migration.operations.scratch import embedded, ranked
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.results import ChangedQuery, Comparison, Hit, Latency, Progress

Report = Callable[[Progress], Awaitable[None]]

MAX_MODELS = 6
MAX_SAMPLE = 20_000
_TIMED = 200
"""Queries whose latency and index recall are measured, one at a time; more would hardly move a median."""
_WARM_UP = 5
_AT_ONCE = 4
_SHOWN = 3
_GOOD_INDEX = 0.95


@dataclass(frozen=True, kw_only=True)
class _Searched:
    """One side of a comparison of two collections."""

    label: str
    embedder: Embedder
    gateway: Gateway
    collection: Collection
    field: str


async def compare_migration(
    context: OperationContext,
    migration: Migration,
    *,
    queries: Sequence[object] | None = None,
    queries_file: str | None = None,
    qrels_file: str | None = None,
    id_field: str | None = None,
    k: int = 10,
    margin: float = 0.01,
    seed: int = 0,
    progress: Report | None = None,
) -> Comparison:
    """The old model on the source against the new one on the target. Reads only.

    Quality is measured by exact search; the index of each side, and its latency, beside it. `id_field` names the payload field that
    holds the ids of the judgements, or says 'point'.

    Raises:
        Refused: the old model is unknown or does not match the source's vectors, or an argument cannot be used.
        MigrationError: Qdrant or a model failed.
    """
    check_arguments(k, margin)
    limit = depth(k, migration.gate)
    old = _baseline_name(migration)
    raw, notes, origin = await read_queries(context.settings, queries, queries_file, qrels_file)
    sources, targets = await context.gateway(migration.source.connection), await context.gateway(migration.target.connection)
    source, target = await sources.describe(migration.source.collection), await targets.describe(migration.target.collection)
    for collection in (source, target):
        if collection.page_limit is not None and collection.page_limit < limit:
            raise Refused(
                f"Nothing was compared: the strict mode of {collection.name!r} returns at most {collection.page_limit} points; {limit} are needed."
            )
    text = TextSource.parse(migration.text_field)
    if raw is None:
        chosen = await generated(sources, source, text, seed)
    else:
        chosen = await with_points(sources, source, raw, origin, id_field)
    old_model, new_model = await context.catalogue.load(old), await context.catalogue.load(migration.model.name)
    if new_model.spec.fingerprint != migration.model.fingerprint or new_model.spec.dimensions != migration.model.dimensions:
        raise ModelNotUsable(
            f"Nothing was compared: model {migration.model.name!r} on this machine is not the one that migration {migration.id} was planned with "
            f"(fingerprint {new_model.spec.fingerprint} instead of {migration.model.fingerprint})."
        )
    labels = _labels([old_model.spec.name, new_model.spec.name])
    sides = [
        _Searched(label=labels[0], embedder=old_model, gateway=sources, collection=source, field=migration.embed.source_field or ""),
        _Searched(label=labels[1], embedder=new_model, gateway=targets, collection=target, field=migration.embed.field),
    ]
    runs: list[Run] = []
    vectors: list[dict[str, list[float]]] = []
    for side in sides:
        vectors.append(await _embedded_queries(side.embedder, side.label, chosen.queries, progress))
        runs.append(await _searched(side, vectors[-1], limit, progress))
    latencies, recalls, index_notes = await _index(sides, vectors, runs, [q.id for q in chosen.queries], k, progress)
    outcome = await anyio.to_thread.run_sync(
        lambda: compared(chosen.queries, runs[0], runs[1:], basis=chosen.basis, k=k, margin=margin, gate=migration.gate, seed=seed)
    )
    texts = [
        await _texts(side, [p for c in outcome.changes for p in run.found.get(c.query.id, ())[:_SHOWN]], text)
        for side, run in zip(sides, runs, strict=True)
    ]
    return _comparison(
        outcome,
        chosen,
        runs,
        texts=dict(zip(labels, texts, strict=True)),
        k=k,
        margin=margin,
        documents=source.points,
        notes=[*notes, *_sides_differ(source, target), *index_notes],
    ).model_copy(update={"latency_ms": latencies, "index_recall": recalls})


async def compare_on_sample(
    context: OperationContext,
    *,
    collection: str,
    models: Sequence[str],
    connection: str | None = None,
    text_field: str | None = None,
    queries: Sequence[object] | None = None,
    queries_file: str | None = None,
    qrels_file: str | None = None,
    id_field: str | None = None,
    sample_size: int = 1000,
    k: int = 10,
    margin: float = 0.01,
    gate: Gate | None = None,
    seed: int = 0,
    progress: Report | None = None,
) -> Comparison:
    """Candidates against the first model, on a sample embedded into memory. Nothing is written to the server.

    Judged documents are always in the sample. Without `text_field` the likeliest field is taken, and named in the notes.

    Raises:
        Refused: an argument cannot be used, or no sampled point has a text.
        MigrationError: Qdrant or a model failed.
    """
    check_arguments(k, margin)
    limit = depth(k, gate)
    if not 2 <= len(models) <= MAX_MODELS:
        raise Refused(f"Nothing was compared: 'models' names {len(models)}; give 2 to {MAX_MODELS}, the baseline first.")
    if not 1 <= sample_size <= MAX_SAMPLE:
        raise Refused(f"Nothing was compared: sample_size is {sample_size}; it must be between 1 and {MAX_SAMPLE:,}.")
    raw, notes, origin = await read_queries(context.settings, queries, queries_file, qrels_file)
    gateway = await context.gateway(connection)
    name, _ = await gateway.resolve(collection)
    for one in {name, collection}:
        context.settings.check_collection_allowed(one)
    described = await gateway.describe(name)
    if not described.points:
        raise Refused(f"Nothing was compared: collection {name!r} is empty.")
    if text_field is None:
        text_field = await _likeliest_text_field(gateway, described)
        notes.append(f"The texts are those of {text_field!r}.")
    text = TextSource.parse(text_field)
    # All of them before the first is used: an unusable one is told at once, not after minutes of embedding.
    embedders = [await context.catalogue.load(model) for model in models]
    labels = _labels([embedder.spec.name for embedder in embedders])
    chosen = None if raw is None else await with_points(gateway, described, raw, origin, id_field)
    required = list(dict.fromkeys(p for q in chosen.queries for p in q.relevant)) if chosen else []
    if len(required) > MAX_SAMPLE:
        raise Refused(f"Nothing was compared: {len(required):,} documents are judged, and a sample holds at most {MAX_SAMPLE:,}.")
    documents, left_out = await sampled(gateway, described, text, max(sample_size, len(required)), seed, required)
    if chosen is None:
        chosen = await anyio.to_thread.run_sync(known_items, documents, GENERATED, seed)
    notes += [f"Measured on {len(documents):,} of {described.points:,} documents; with more, every model finds less.", *left_out]
    runs: list[Run] = []
    for label, embedder in zip(labels, embedders, strict=True):
        run, about = await _run_on_sample(embedder, label, documents, chosen.queries, limit, progress)
        runs.append(run)
        notes += about
    final = chosen
    outcome = await anyio.to_thread.run_sync(
        lambda: compared(final.queries, runs[0], runs[1:], basis=final.basis, k=k, margin=margin, gate=gate, seed=seed)
    )
    texts = {document.id: document.text for document in documents}
    return _comparison(outcome, chosen, runs, texts=dict.fromkeys(labels, texts), k=k, margin=margin, documents=len(documents), notes=notes)


def _baseline_name(migration: Migration) -> str:
    """The old model, when its vectors are known to be those of the source.

    Raises:
        Refused: without it queries cannot be put to the source, judged or not.
    """
    instead = (
        f"Judged queries do not help: without the old model nothing can be asked of {migration.source.collection!r}. "
        f"Compare candidates on a sample instead: compare_models(collection={migration.source.collection!r}, models=[...]), or start over with the right current_model."
    )
    if migration.current_model is None:
        raise Refused(
            f"Nothing was compared: migration {migration.id} was created without current_model, so the baseline is unknown. {instead}"
        )
    match = migration.source_match
    if match is None:
        raise Refused(
            f"Nothing was compared: it was never tested that {migration.current_model!r} made the vectors of the source. {instead}"
        )
    if not match.is_match:
        cosine = (
            "no text to test with"
            if match.mean_cosine is None
            else f"mean cosine {match.mean_cosine:.4f} over {match.sampled} texts, {match.threshold:g} needed"
        )
        causes = f" Likely causes: {'; '.join(match.likely_causes)}." if match.likely_causes else ""
        raise Refused(
            f"Nothing was compared: {migration.current_model!r} does not reproduce the vectors of the source ({cosine}).{causes} {instead}"
        )
    return migration.current_model


def _labels(names: Sequence[str]) -> list[str]:
    """The names, told apart where a model is compared with itself."""
    return [name if name not in names[:i] else f"{name} (#{names[:i].count(name) + 1})" for i, name in enumerate(names)]


async def _say(progress: Report | None, stage: str, total: int, read: int) -> None:
    if progress is not None:
        await progress(Progress(stage=stage, total=total, read=read))


async def _embedded_queries(embedder: Embedder, label: str, queries: Sequence[Query], progress: Report | None) -> dict[str, list[float]]:
    async def tick(done: int) -> None:
        await _say(progress, f"embedding queries with {label}", len(queries), done)

    found = await embedded(embedder, [q.text for q in queries], Side.QUERY, tick)
    return {queries[at].id: row.tolist() for at, row in zip(found.kept, found.rows, strict=True)}


async def _searched(side: _Searched, vectors: Mapping[str, list[float]], limit: int, progress: Report | None) -> Run:
    found: dict[str, tuple[PointId, ...]] = {}
    errors: list[MigrationError] = []
    ties = 0
    pending = iter(vectors.items())

    async def work(scope: anyio.CancelScope) -> None:
        nonlocal ties
        for query, vector in pending:
            try:
                hits = await side.gateway.points.search(
                    side.collection.name, vector, using=side.field, limit=limit, exact=True, payload=False
                )
            except MigrationError as error:
                # Raised outside: a task group would wrap it.
                errors.append(error)
                scope.cancel()
                return
            found[query] = tuple(hit.id for hit in hits)
            ties += any(a.score == b.score for a, b in zip(hits, hits[1:], strict=False))
            if len(found) % 50 == 0 or len(found) == len(vectors):
                await _say(progress, f"searching {side.collection.name}", len(vectors), len(found))

    async with anyio.create_task_group() as group:
        for _ in range(_AT_ONCE):
            group.start_soon(work, group.cancel_scope)
    if errors:
        raise errors[0]
    return Run(model=side.label, found=found, ties=ties)


async def _index(
    sides: Sequence[_Searched],
    vectors: Sequence[Mapping[str, list[float]]],
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
        for side, rows, run in zip(sides, vectors, runs, strict=True):
            begun = time.perf_counter()
            hits = await side.gateway.points.search(
                side.collection.name, rows[query], using=side.field, limit=k, exact=False, payload=False
            )
            spent = time.perf_counter() - begun
            if number >= min(_WARM_UP, len(timed)):
                times[side.label].append(spent * 1000)
                share = overlap(run.found[query], [hit.id for hit in hits], k)
                shares[side.label] += [] if share is None else [share]
        if number % 25 == 0:
            await _say(progress, "timing the indexes", len(timed), min(number, len(timed)))
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
        if recalls.get(side.label, 1.0) < _GOOD_INDEX:
            notes.append(
                f"The index of {side.collection.name!r} finds {recalls[side.label]:.1%} of the exact top {k}. Metrics and verdict rest on exact search; "
                "users would see less until hnsw_ef, m or the quantization's rescoring is raised."
            )
    if any(side.gateway.connection.is_embedded for side in sides):
        notes.append("The embedded database has no index: it always searches exactly, and its latency says nothing about a server.")
    return latencies, recalls, notes


def _sides_differ(source: Collection, target: Collection) -> list[str]:
    if source.points == target.points:
        return []
    return [
        f"{source.name!r} holds {source.points:,} points and {target.name!r} {target.points:,}: what is missing cannot be found. Call verify_target."
    ]


async def _texts(side: _Searched, points: Sequence[PointId], text: TextSource) -> dict[PointId, str]:
    found = await side.gateway.points.retrieve(side.collection.name, list(dict.fromkeys(points)))
    return {point.id: text.extract(point.payload) or "" for point in found.values()}


async def _likeliest_text_field(gateway: Gateway, collection: Collection) -> str:
    points, _ = await gateway.points.scroll(collection.name, offset=None, limit=min(64, collection.page_limit or 64))
    fields = text_statistics(point.payload for point in points)
    if not fields:
        raise Refused(f"Nothing was compared: no payload field of {collection.name!r} holds texts, so there is nothing to embed.")
    return fields[0].field


async def _run_on_sample(
    embedder: Embedder, label: str, documents: Sequence[Document], queries: Sequence[Query], limit: int, progress: Report | None
) -> tuple[Run, list[str]]:
    """One candidate's rankings, and what was learnt about its speed, its price and its limits."""
    texts = [document.text for document in documents]

    async def tick(done: int) -> None:
        await _say(progress, f"embedding documents with {label}", len(texts), done)

    found = await embedded(embedder, texts, Side.DOCUMENT, tick)
    vectors = await _embedded_queries(embedder, label, queries, progress)
    rows: Dense = np.array(list(vectors.values()), dtype=np.float32).reshape(len(vectors), embedder.spec.dimensions or 0)
    order, ties = await ranked(found.rows, rows, embedder.spec.distance, limit)
    ids = [documents[at].id for at in found.kept]
    run = Run(model=label, found={query: tuple(ids[at] for at in best) for query, best in zip(vectors, order, strict=True)}, ties=ties)
    notes = [await _costs(embedder, label, texts[:256], len(set(texts)) / found.seconds if found.seconds > 0 else None)]
    if len(found.kept) < len(texts):
        notes.append(
            f"{len(texts) - len(found.kept)} of {len(texts)} documents could not be embedded by {label!r}, so it cannot find them."
        )
    return run, notes


async def _costs(embedder: Embedder, label: str, texts: Sequence[str], per_second: float | None) -> str:
    spec = embedder.spec
    parts = [f"{(spec.dimensions or 0) * 4:,} bytes a vector"]
    if per_second is not None:
        parts.insert(0, f"{per_second:,.0f} documents/s")
    tokens = await embedder.count_tokens(texts)
    if tokens:
        if spec.price_per_million is not None:
            parts.append(f"USD {spec.price_per_million * sum(tokens) / len(tokens):,.2f} per million points")
        cut = sum(count > spec.max_tokens for count in tokens) / len(tokens) if spec.max_tokens else 0.0
        if cut:
            parts.append(f"{cut:.0%} of the texts are longer than its {spec.max_tokens} tokens and are cut")
    return f"{label!r}: {', '.join(parts)}."


def _comparison(
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
    leading = next(run for run in runs if run.model == outcome.leading and run is not runs[0])

    def hits(run: Run, query: Query) -> list[Hit]:
        return [
            Hit(
                point_id=tag(point),
                text=fenced(texts[run.model].get(point, "")),
                is_relevant=None if chosen.basis == "unjudged" else query.relevant.get(point, 0) > 0,
            )
            for point in run.found.get(query.id, ())[:_SHOWN]
        ]

    return Comparison(
        verdict=outcome.verdict,
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
        most_changed=[
            ChangedQuery(
                query=fenced(change.query.text),
                difference=change.difference,
                overlap=change.overlap,
                baseline=hits(runs[0], change.query),
                candidate=hits(leading, change.query),
            )
            for change in outcome.changes
        ],
        gate=outcome.gate,
        notes=[*outcome.notes, *chosen.notes, *notes],
        documents=documents,
        at=now(),
    )
