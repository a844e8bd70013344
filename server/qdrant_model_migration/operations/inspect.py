"""What is there? Collections, aliases and open migrations; or one collection with everything a migration depends on."""

from __future__ import annotations

import uuid
from typing import Any

from qdrant_model_migration.domain.collection import Collection, FieldKind
from qdrant_model_migration.domain.estimates import size_of
from qdrant_model_migration.domain.findings import (
    collection_warnings,
    field_name_is_usable,
    fitted,
    limits_of,
    name_shown,
    provenance_of,
    shown,
)
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.points import Point
from qdrant_model_migration.domain.recipe import Endpoint
from qdrant_model_migration.domain.texts import FieldStatistics, TextSource, framework_of, text_statistics
from qdrant_model_migration.domain.untrusted import fenced
from qdrant_model_migration.errors import MigrationError
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.overview import (
    ResponseFormat,
    connection_argument,
    migration_summary,
    open_migrations,
    overview,
    resolve_allowed,
    status_step,
)
from qdrant_model_migration.operations.sampling import payload_bytes, sample_points
from qdrant_model_migration.qdrant.gateway import Gateway, ServerFacts
from qdrant_model_migration.results import (
    CollectionInfo,
    Estimates,
    Health,
    InspectResult,
    NextStep,
    PayloadIndex,
    ServerInfo,
    TextField,
)

MAX_SAMPLE = 1000
VECTOR_SAMPLE = 64
_FIRST_UUID = str(uuid.UUID(int=0))


async def inspect(
    context: OperationContext,
    *,
    collection: str | None = None,
    connection: str | None = None,
    sample_size: int = 256,
    name_filter: str | None = None,
    response_format: ResponseFormat = "concise",
) -> InspectResult:
    """Describe a Qdrant, or one of its collections. Reads only; the ledger is never created by looking.

    Raises:
        NotFound: no such collection, alias or connection; near misses are listed.
        Refused: the collection is outside the allow-list, or is the ledger.
    """
    gateway = await context.gateway(connection)
    facts = await gateway.facts()
    server = ServerInfo(
        version=facts.version,
        mode="embedded" if facts.is_embedded else "server",
        capabilities=facts.capabilities,
        connection=gateway.connection.name,
    )
    migrations = await open_migrations(context, gateway.connection.name)
    if collection is None:
        return await overview(context, gateway, server, migrations, name_filter, response_format)
    name, alias = await resolve_allowed(context, gateway, collection)
    return await _one(context, gateway, server, facts, migrations, name, alias, max(1, min(sample_size, MAX_SAMPLE)), response_format)


async def _one(
    context: OperationContext,
    gateway: Gateway,
    server: ServerInfo,
    facts: ServerFacts,
    migrations: list[Migration],
    name: str,
    alias: str | None,
    sample_size: int,
    response_format: ResponseFormat,
) -> InspectResult:
    limits = limits_of(response_format)
    found = await gateway.describe(name)
    points = await gateway.points.count(name)
    found = found.model_copy(update={"points": points})
    sample = await sample_points(gateway, found, sample_size) if points else []
    with_vectors = await _with_vectors(gateway, found, sample)
    payloads = [p.payload for p in sample]
    fields = text_statistics(payloads)
    framework = framework_of(payloads)
    provenance = provenance_of(found, framework)
    bare = {f.name: sum(f.name not in p.vectors for p in with_vectors) for f in found.fields}
    size = size_of(points, found.fields, found.config, payload_bytes(payloads), _rows(found, with_vectors), is_embedded=facts.is_embedded)
    params = found.config.get("params") or {}
    here = Endpoint(connection=server.connection, collection=name)
    own = [m for m in migrations if here in (m.source, m.target)]
    usable = [f for f in fields if field_name_is_usable(f.field)]
    info = CollectionInfo(
        name=name,
        alias=alias,
        aliases=list(found.aliases),
        points=points,
        vectors=[f.info() for f in found.fields if f.kind is not FieldKind.SPARSE],
        sparse_vectors=[f.info() for f in found.fields if f.kind is FieldKind.SPARSE],
        payload_indexes=[PayloadIndex(field=name_shown(f), type=str(i.get("data_type"))) for f, i in sorted(found.payload_indexes.items())],
        text_fields=[_text_field(f) for f in usable],
        framework=framework,
        provenance=provenance,
        health=Health(
            status=found.status,
            optimizer_ok=found.optimizer_ok,
            segments=found.segments,
            indexed_vectors=found.indexed_vectors,
            is_writable=found.status != "red",
        ),
        estimates=Estimates(
            vectors_bytes=size.vectors_bytes, payload_bytes=size.payload_bytes, ram_bytes=size.ram_bytes, disk_bytes=size.disk_bytes
        ),
        id_kinds=await _id_kinds(gateway, name) if points else [],
        shards=len({r.shard for r in found.replicas}) or int(params.get("shard_number") or 1),
        replication_factor=int(params.get("replication_factor") or 1),
        omitted={"text_fields": len(fields) - len(usable)} if len(fields) > len(usable) else {},
        config=shown(found.config) if response_format == "detailed" else None,
    )
    result = InspectResult(
        summary=f"{context.notice(server.connection)}{_summary(info)}",
        warnings=collection_warnings(found, fields, bare, len(with_vectors), len(sample), is_embedded=facts.is_embedded),
        server=server,
        migrations=[migration_summary(m) for m in own],
        collection=info,
        next_step=status_step(own[0]) if own else _recommend_step(server, found, alias, info),
    )
    return fitted(result, limits)


def _recommend_step(server: ServerInfo, found: Collection, alias: str | None, info: CollectionInfo) -> NextStep | None:
    if not found.points or not found.fields:
        return None
    arguments: dict[str, Any] = {"collection": alias or found.name, "goal": "replace_model"}
    if info.provenance and info.provenance.model:
        arguments["current_model"] = info.provenance.model
    paths = {f.field for f in info.text_fields}
    if info.provenance and info.provenance.text_field and paths.issuperset(TextSource.parse(info.provenance.text_field).fields):
        arguments["text_field"] = info.provenance.text_field
    elif info.text_fields:
        arguments["text_field"] = info.text_fields[0].field
    why = "It lists the usable models; with the one the person chose as 'model' it ranks the strategies. Ask for the goal first if it is another."
    return NextStep(tool="recommend_strategy", arguments={**arguments, **connection_argument(server.connection)}, why=why)


async def _with_vectors(gateway: Gateway, found: Collection, sample: list[Point]) -> list[Point]:
    """Some of the sampled points with their vectors."""
    if not found.fields or not sample:
        return []
    ids = [p.id for p in sample[:VECTOR_SAMPLE]]
    return list((await gateway.points.retrieve(found.name, ids, payload=False, vectors=[f.name for f in found.fields])).values())


def _rows(found: Collection, points: list[Point]) -> dict[str, float]:
    """Mean rows of multivectors and entries of sparse vectors, as sampled."""
    means: dict[str, float] = {}
    for field in found.fields:
        if field.kind is FieldKind.DENSE or not points:
            continue
        vectors = [p.vectors.get(field.name) for p in points]
        lengths = [len(v["indices"]) if isinstance(v, dict) else len(v) if v else 0 for v in vectors]
        means[field.name] = sum(lengths) / len(lengths)
    return means


async def _id_kinds(gateway: Gateway, name: str) -> list[str]:
    """Integers sort before UUIDs, so one look at each beginning tells."""
    kinds = []
    first, _ = await gateway.points.ids(name, offset=None, limit=1)
    if first and isinstance(first[0], int):
        kinds.append("integer")
    try:
        last, _ = await gateway.points.ids(name, offset=_FIRST_UUID, limit=1)
    except MigrationError:
        # The embedded database of some clients cannot compare a UUID with integers; then the sample's first id must do.
        last = [i for i in first if isinstance(i, str)]
    return [*kinds, "uuid"] if last else kinds


def _text_field(statistics: FieldStatistics) -> TextField:
    return TextField(
        field=statistics.field,
        coverage=round(statistics.coverage, 3),
        mean_chars=round(statistics.mean_chars, 1),
        p95_tokens=max(1, round(statistics.p95_chars / 4)),
        example=fenced(statistics.example),
    )


def _summary(info: CollectionInfo) -> str:
    texts = info.text_fields
    name = f"'{info.name}'" + (f" (alias '{info.alias}')" if info.alias else "")
    dense = [f"{v.name or 'unnamed'} {v.size} {v.distance}" for v in info.vectors] + [f"{v.name} sparse" for v in info.sparse_vectors]
    vectors = "; ".join(dense[:3]) + (f" and {len(dense) - 3} more" if len(dense) > 3 else "") or "none"
    text = f"text in '{texts[0].field}' ({texts[0].coverage:.0%} of the sample)" if texts else "no text found"
    written = f", written by {info.framework}" if info.framework else ""
    return f"{name}: {info.points:,} points, vectors: {vectors}, {text}{written}, status {info.health.status}."
