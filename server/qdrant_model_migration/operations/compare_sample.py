"""Which search finds best on a sample of this collection, before anything is migrated? Candidates against a baseline, in memory."""

from __future__ import annotations

from collections.abc import Sequence

import anyio

from qdrant_model_migration.domain.candidates import CandidateName, check_kinds, parsed
from qdrant_model_migration.domain.collection import Collection
from qdrant_model_migration.domain.comparison import check_arguments, compared
from qdrant_model_migration.domain.comparison_sides import labelled
from qdrant_model_migration.domain.metrics import depth
from qdrant_model_migration.domain.model import ModelKind
from qdrant_model_migration.domain.queries import GENERATED, known_items
from qdrant_model_migration.domain.recipe import Gate
from qdrant_model_migration.domain.records import Evidence
from qdrant_model_migration.domain.texts import TextSource, text_statistics
from qdrant_model_migration.domain.truncation import is_cut_of
from qdrant_model_migration.embedders.base import Embedder, MultivectorEmbedder, SparseEmbedder, is_dense, is_multivector, is_sparse
from qdrant_model_migration.embedders.server_side import is_server_side
from qdrant_model_migration.errors import MigrationError, Refused
from qdrant_model_migration.operations.candidates import Candidate, Sample
from qdrant_model_migration.operations.compare_answer import comparison_of, distinct
from qdrant_model_migration.operations.context import OperationContext, now
from qdrant_model_migration.operations.overview import resolve_allowed
from qdrant_model_migration.operations.queries import check_sources, past, read_queries, sampled, with_points
from qdrant_model_migration.operations.scratch import Report
from qdrant_model_migration.operations.slicing import check_slice_field, slices_of
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.results import CandidateRow, Comparison

MAX_MODELS = 6
MAX_SAMPLE = 20_000
_STRATEGY = {ModelKind.SPARSE: "add_sparse", ModelKind.MULTIVECTOR: "add_multivector"}


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
    queries_field: str | None = None,
    id_field: str | None = None,
    slice_field: str | None = None,
    sample_size: int = 1000,
    k: int = 10,
    margin: float = 0.01,
    gate: Gate | None = None,
    seed: int = 0,
    progress: Report | None = None,
) -> Comparison:
    """Candidates against the first one, on a sample embedded into memory: dense models, 'dense + sparse' (fused) or 'dense > late' (reranked).

    No collection is written.

    Where a candidate is the baseline's model with its vectors cut (`model@256`), what was found is kept in the ledger as evidence for
    'truncate' (docs/decisions/0008); not in read-only mode.

    Judged documents are always in the sample. Without `text_field` the likeliest field is taken, and named in the notes.

    Raises:
        Refused: an argument cannot be used, or no sampled point has a text.
        MigrationError: Qdrant or a model failed.
    """
    check_arguments(k, margin)
    check_slice_field(slice_field)
    check_sources(queries, queries_file, queries_field)
    limit = depth(k, gate)
    if not 2 <= len(models) <= MAX_MODELS:
        raise Refused(f"Nothing was compared: 'models' names {len(models)}; give 2 to {MAX_MODELS}, the baseline first.")
    if not 1 <= sample_size <= MAX_SAMPLE:
        raise Refused(f"Nothing was compared: sample_size is {sample_size}; it must be between 1 and {MAX_SAMPLE:,}.")
    written = [parsed(model) for model in models]
    raw, notes, origin = await read_queries(context.settings, queries, queries_file, qrels_file)
    gateway = await context.gateway(connection)
    name, _ = await resolve_allowed(context, gateway, collection)
    described = await gateway.describe(name)
    if not described.points:
        raise Refused(f"Nothing was compared: collection {name!r} is empty.")
    if text_field is None:
        text_field = await _likeliest_text_field(gateway, described)
        notes.append(f"The texts are those of {text_field!r}.")
    text = TextSource.parse(text_field)
    # All of them before the first is used: an unusable one is told at once, not after minutes of embedding.
    candidates = await _loaded(context, written, name, connection)
    chosen = None if raw is None else await with_points(gateway, described, raw, origin, id_field)
    if queries_field is not None:
        chosen = await past(context, gateway, described, queries_field, seed)
    required = list(dict.fromkeys(p for q in chosen.queries for p in q.relevant)) if chosen else []
    if len(required) > MAX_SAMPLE:
        raise Refused(f"Nothing was compared: {len(required):,} documents are judged, and a sample holds at most {MAX_SAMPLE:,}.")
    documents, left_out = await sampled(gateway, described, text, max(sample_size, len(required)), seed, required)
    if chosen is None:
        chosen = await anyio.to_thread.run_sync(known_items, documents, GENERATED, seed)
    notes += left_out
    if len(documents) < described.points:
        notes.append(f"Measured on {len(documents):,} of {described.points:,} points: among all of them every model finds less.")
    sample = Sample(documents, chosen.queries, candidates, progress)
    tried = [await sample.tried(candidate, limit) for candidate in candidates]
    runs = [one.run for one in tried]
    notes += list(dict.fromkeys(note for one in tried for note in one.notes))
    final = chosen
    outcome = await anyio.to_thread.run_sync(
        lambda: compared(final.queries, runs[0], runs[1:], basis=final.basis, k=k, margin=margin, gate=gate, seed=seed)
    )
    parts = await slices_of(gateway, described, slice_field, final, runs[0], outcome, k=k, margin=margin, seed=seed)
    notes += parts.pop("notes", [])
    texts = {document.id: document.text for document in documents}
    found = comparison_of(
        outcome,
        chosen,
        runs,
        texts=dict.fromkeys([run.model for run in runs], texts),
        k=k,
        margin=margin,
        documents=len(documents),
        notes=notes,
    )
    kept = await _keep_evidence(context, connection, name, candidates, found)
    rows = [_with_quality(one.row, found) for one in tried]
    return found.model_copy(update={"notes": [*found.notes, *kept], "candidates_table": rows, **parts})


def _with_quality(row: CandidateRow, found: Comparison) -> CandidateRow:
    measured = next((m for m in found.metrics if m.metric == found.primary_metric and m.model == row.model), None)
    quality = {} if measured is None else measured.model_dump(include={"value", "difference", "ci_low", "ci_high"})
    return row.model_copy(update={**quality, "verdict": found.verdicts.get(row.model)})


async def _loaded(context: OperationContext, written: Sequence[CandidateName], collection: str, connection: str | None) -> list[Candidate]:
    """The candidates with their models; what cannot be searched together is refused before any of them is loaded.

    Raises:
        Refused: a sparse or multivector model alone, two models that do not go together, or one whose queries cannot be had.
    """
    for name in written:
        kinds = [await _kind(context, model) for model in name.models]
        if name.added is not None:
            check_kinds(name, *kinds)
        elif kinds[0] is not ModelKind.DENSE:
            raise await _alone(context, name.dense, kinds[0], written, collection)
    made: list[tuple[CandidateName, Embedder, SparseEmbedder | MultivectorEmbedder | None]] = []
    for name in written:
        dense = await context.awaited_model(name.dense, connection)
        if not is_dense(dense):
            raise await _alone(context, name.dense, dense.spec.kind, written, collection)
        added = None if name.added is None else await context.awaited_model(name.added, connection)
        if added is None:
            made.append((name, dense, None))
            continue
        check_kinds(name, dense.spec.kind, added.spec.kind)
        assert is_sparse(added) or is_multivector(added)
        if is_server_side(added) and added.spec.modifier != "idf":
            raise Refused(
                f"Nothing was compared: Qdrant does not show the vector that it makes of a query with {added.spec.name!r}, so {str(name)!r} cannot be "
                f"searched in memory. {_afterwards(added.spec.name, added.spec.kind, collection)}"
            )
        made.append((name, dense, added))
    labels = distinct([labelled(d.spec.name, name.how, None if a is None else a.spec.name) for name, d, a in made])
    return [Candidate(label=label, dense=d, how=name.how, added=a) for label, (name, d, a) in zip(labels, made, strict=True)]


async def _kind(context: OperationContext, model: str) -> ModelKind:
    resolved = await anyio.to_thread.run_sync(context.catalogue.resolve, model)
    return await anyio.to_thread.run_sync(context.catalogue.kind, resolved)


async def _alone(context: OperationContext, model: str, kind: ModelKind, written: Sequence[CandidateName], collection: str) -> Refused:
    resolved = str(await anyio.to_thread.run_sync(context.catalogue.resolve, model))
    sign = "+" if kind is ModelKind.SPARSE else ">"
    beside = next((name.dense for name in written if name.dense != model), "dense model")
    return Refused(
        f"Nothing was compared: {resolved!r} is a {kind.value} model, which is searched together with dense vectors: write '{beside} {sign} {resolved}'. "
        + _afterwards(resolved, kind, collection)
    )


def _afterwards(model: str, kind: ModelKind, collection: str) -> str:
    return (
        f"Or add it with create_target(collection={collection!r}, strategy={_STRATEGY[kind]!r}, model={model!r}, current_model=...); "
        "compare_models(migration_id=...) then measures dense search alone against both, before any reader changes."
    )


async def _keep_evidence(
    context: OperationContext,
    connection: str | None,
    collection: str,
    candidates: Sequence[Candidate],
    found: Comparison,
) -> list[str]:
    """Record what was found about the baseline's own vectors cut; returns notes."""
    baseline = candidates[0].dense.spec
    # Of searches by the vectors alone: a second model would hide what the cut loses.
    alone = [candidate for candidate in candidates[1:] if candidate.added is None and candidates[0].added is None]
    cuts = [(one.dense.spec, one.label) for one in alone if is_cut_of(one.dense.spec, baseline)]
    if not cuts or context.settings.is_read_only:
        return []
    names = ", ".join(repr(spec.name) for spec, _ in cuts)
    try:
        ledger = await context.ledger(connection)
        await ledger.create()
        for spec, label in cuts:
            evidence = Evidence(
                baseline=baseline.name, candidate=spec.name, verdict=found.verdicts[label], text=_told(found, label), at=found.at or now()
            )
            await ledger.save_evidence(collection, evidence)
    except MigrationError as error:
        # A key that may only read, a server without conditional writes, a ledger's name that is taken: the comparison itself stands.
        return [f"What was found about {names} could not be kept for strategy 'truncate': {error}"]
    return [f"Kept as evidence for strategy 'truncate' in {context.settings.ledger!r}: {names}."]


def _told(found: Comparison, label: str) -> str:
    """One candidate's numbers in one line, for whoever asks later whether its vectors may be cut."""
    values = {m.metric: m for m in found.metrics if m.model == label}
    parts = []
    primary, shared = values.get(found.primary_metric), values.get(f"overlap@{found.k}")
    if primary is not None and primary.difference is not None:
        parts.append(
            f"{primary.metric} {primary.value:.3f} ({primary.difference:+.3f}, interval {primary.ci_low:+.3f} to {primary.ci_high:+.3f}, margin {found.margin:g})"
        )
    if shared is not None:
        parts.append(f"{shared.metric} {shared.value:.3f} ({shared.ci_low:.3f} to {shared.ci_high:.3f})")
    return f"{', '.join(parts) or 'nothing was found'} on {found.queries} queries ({found.query_source}) and {found.documents:,} documents"


async def _likeliest_text_field(gateway: Gateway, collection: Collection) -> str:
    points, _ = await gateway.points.scroll(collection.name, offset=None, limit=min(64, collection.page_limit or 64))
    fields = text_statistics(point.payload for point in points)
    if not fields:
        raise Refused(f"Nothing was compared: no payload field of {collection.name!r} holds texts, so there is nothing to embed.")
    return fields[0].field
