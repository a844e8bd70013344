"""Does the new model search as well as the old? Two collections after the backfill, or candidates on a sample before it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import anyio

from qdrant_model_migration.domain.collection import Collection
from qdrant_model_migration.domain.comparison import Outcome, check_arguments, compared, fenced
from qdrant_model_migration.domain.metrics import Query, Run, depth
from qdrant_model_migration.domain.migration import Gate, Migration
from qdrant_model_migration.domain.points import PointId, tag
from qdrant_model_migration.domain.queries import GENERATED, QuerySet, known_items
from qdrant_model_migration.domain.texts import TextSource, text_statistics
from qdrant_model_migration.errors import ModelNotUsable, Refused
from qdrant_model_migration.operations.context import OperationContext, now
from qdrant_model_migration.operations.queries import generated, read_queries, sampled, with_points
from qdrant_model_migration.operations.scratch import Report, embedded_queries, run_on_sample
from qdrant_model_migration.operations.sides import SearchedSide, measure_index, search_exactly, texts_of
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.results import ChangedQuery, Comparison, Hit

MAX_MODELS = 6
MAX_SAMPLE = 20_000
_SHOWN = 3


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
    old_model, new_model = await context.catalogue.load(old), await context.catalogue.load(migration.spec.name)
    if new_model.spec.fingerprint != migration.spec.fingerprint or new_model.spec.dimensions != migration.spec.dimensions:
        raise ModelNotUsable(
            f"Nothing was compared: model {migration.spec.name!r} on this machine is not the one that migration {migration.id} was planned with "
            f"(fingerprint {new_model.spec.fingerprint} instead of {migration.spec.fingerprint})."
        )
    labels = _labels([old_model.spec.name, new_model.spec.name])
    sides = [
        SearchedSide(label=labels[0], embedder=old_model, gateway=sources, collection=source, field=migration.dense_field or ""),
        SearchedSide(label=labels[1], embedder=new_model, gateway=targets, collection=target, field=migration.making.field),
    ]
    runs: list[Run] = []
    vectors: list[dict[str, list[float]]] = []
    for side in sides:
        vectors.append(await embedded_queries(side.embedder, side.label, chosen.queries, progress))
        runs.append(await search_exactly(side, vectors[-1], limit, progress))
    latencies, recalls, index_notes = await measure_index(sides, vectors, runs, [q.id for q in chosen.queries], k, progress)
    outcome = await anyio.to_thread.run_sync(
        lambda: compared(chosen.queries, runs[0], runs[1:], basis=chosen.basis, k=k, margin=margin, gate=migration.gate, seed=seed)
    )
    texts = [
        await texts_of(side, [p for c in outcome.changes for p in run.found.get(c.query.id, ())[:_SHOWN]], text)
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
    notes += left_out
    if len(documents) < described.points:
        notes.append(f"Measured on {len(documents):,} of {described.points:,} points: among all of them every model finds less.")
    runs: list[Run] = []
    for label, embedder in zip(labels, embedders, strict=True):
        run, about = await run_on_sample(embedder, label, documents, chosen.queries, limit, progress)
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


def _sides_differ(source: Collection, target: Collection) -> list[str]:
    if source.points == target.points:
        return []
    return [
        f"{source.name!r} holds {source.points:,} points and {target.name!r} {target.points:,}: what is missing cannot be found. Call verify_target."
    ]


async def _likeliest_text_field(gateway: Gateway, collection: Collection) -> str:
    points, _ = await gateway.points.scroll(collection.name, offset=None, limit=min(64, collection.page_limit or 64))
    fields = text_statistics(point.payload for point in points)
    if not fields:
        raise Refused(f"Nothing was compared: no payload field of {collection.name!r} holds texts, so there is nothing to embed.")
    return fields[0].field


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
