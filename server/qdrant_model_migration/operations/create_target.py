"""How does a migration begin? Everything is checked first, then recorded, then created, then read back."""

from __future__ import annotations

import hashlib
import json
from typing import Literal

from pydantic import BaseModel, ConfigDict

from qdrant_model_migration.domain.app_changes import app_changes
from qdrant_model_migration.domain.collection import METADATA_KEY, Collection, VectorField, config_differences, fields_of
from qdrant_model_migration.domain.migration import Endpoint, EventRecord, Gate, Migration, Phase
from qdrant_model_migration.domain.observations import IMPLEMENTED, STRATEGIES
from qdrant_model_migration.domain.target import name_problem, plan_target, target_name
from qdrant_model_migration.domain.texts import TextSource, text_statistics
from qdrant_model_migration.embedders.base import Embedder
from qdrant_model_migration.errors import AlreadyExists, MigrationError, NotFound, Refused, Unsupported
from qdrant_model_migration.operations.context import OperationContext, now
from qdrant_model_migration.operations.sampling import sample_points
from qdrant_model_migration.operations.source_match import source_match
from qdrant_model_migration.operations.target_answer import answer, would_create
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.qdrant.ledger import Ledger
from qdrant_model_migration.qdrant.probe import prove_guard, prove_rights
from qdrant_model_migration.results import ConfigDifference, CreateTargetResult, SourceMatch

NOTHING = "Nothing was changed"
LOADING = {"optimizer_config.indexing_threshold": "index building is off during the load and restored after it"}


class Request(BaseModel):
    """The arguments that define a migration; the same ones mean the same migration."""

    model_config = ConfigDict(frozen=True)

    collection: str
    strategy: str
    model: str | None = None
    text_field: str | None = None
    target: str | None = None
    vector: str | None = None
    new_vector: str | None = None
    current_model: str | None = None
    alias: str | None = None
    writes: Literal["frozen", "dual_write", "live"] = "live"
    readers: Literal["one_deploy", "rolling", "self_resolving"] = "one_deploy"
    on_missing_text: Literal["payload_only", "skip", "stop"] = "payload_only"
    on_long_text: Literal["truncate", "stop"] = "truncate"
    on_disk: bool | None = None
    gate: Gate | None = None
    connection: str | None = None

    def digest(self, source: str) -> str:
        """Of the resolved request: an alias and its collection ask for the same."""
        fields = self.model_dump(mode="json") | {"collection": source}
        return hashlib.sha256(json.dumps(fields, sort_keys=True).encode()).hexdigest()[:16]


async def create_target(context: OperationContext, request: Request, *, dry_run: bool = False) -> CreateTargetResult:
    """Record the migration and create its target; repeated with the same arguments, give back the one that exists.

    Raises:
        MigrationError: what stands in the way; nothing half-made is left.
    """
    _check_strategy(request)
    gateway = await context.gateway(request.connection)
    ledger = await context.ledger(request.connection)
    name, _ = await gateway.resolve(request.collection)
    context.settings.check_collection_allowed(name)
    migrations = await ledger.migrations()
    known = _same_request(migrations, request.digest(name))
    if known is not None and known.phase is not Phase.PLANNED:
        return await answer(context, gateway, known, [], is_known=True)
    source = await gateway.describe(name)
    _check_source(source, migrations, ledger)
    replaced = source.field_to_replace(request.vector)
    text = await _text_source(gateway, source, request.text_field)
    embedder = await context.model(request.model or "")
    if request.on_long_text == "stop" and await embedder.count_tokens(["text"]) is None:
        raise Unsupported(
            f"{NOTHING}: the tokens of {embedder.spec.name!r} cannot be counted here, so on_long_text='stop' could not be kept. Leave it out."
        )
    match = await _match(context, gateway, source, replaced, text, request.current_model)
    migration = known or await _plan(context, gateway, source, replaced, text, embedder, match, request, migrations)
    if dry_run:
        return await answer(
            context, gateway, migration, would_create(migration, await ledger.exists(), context.settings.ledger), is_dry_run=True
        )
    await prove_rights(gateway, context.settings.ledger)
    await prove_guard(gateway)
    await ledger.create()
    if known is None and not await ledger.add_migration(migration):
        migration = await ledger.migration(migration.id)
    diff = await _create(gateway, ledger, migration, source)
    extra = {d.path: d.note or "this server does not keep the setting" for d in diff if not d.is_intended}
    created = await ledger.change(
        migration.id,
        lambda m: m.model_copy(
            update={
                "phase": Phase.TARGET_CREATED if m.phase is Phase.PLANNED else m.phase,
                "intent": None,
                "intended": {**m.intended, **extra},
            }
        ),
    )
    await ledger.add_event(created.id, EventRecord(at=now(), event="created", text=f"target {created.target.collection!r} created"))
    return await answer(context, gateway, created, [], diff=diff)


def _check_strategy(request: Request) -> None:
    if request.strategy not in STRATEGIES:
        raise NotFound.named("strategy", request.strategy, STRATEGIES, NOTHING)
    if request.strategy not in IMPLEMENTED:
        raise Unsupported(
            f"{NOTHING}: strategy '{request.strategy}' is explained by recommend_strategy and read_guidance, but not carried out by this version. "
            f"What works: {', '.join(sorted(IMPLEMENTED))} (a second collection with the new model's vectors, every other field copied)."
        )
    if not request.model:
        raise Refused(f"{NOTHING}: 'model' is missing. recommend_strategy without a model lists the usable ones.")


def _same_request(migrations: list[Migration], digest: str) -> Migration | None:
    return next((m for m in migrations if m.is_open and m.arguments_digest == digest), None)


def _check_source(source: Collection, migrations: list[Migration], ledger: Ledger) -> None:
    if source.name == ledger.collection:
        raise Refused(f"{NOTHING}: {source.name!r} is the ledger of the migrations.")
    if source.points == 0:
        raise Refused(
            f"{NOTHING}: {source.name!r} is empty. Create the new collection directly with the new model's dimensions; there is nothing to migrate."
        )
    if source.config.get("params", {}).get("sharding_method") == "custom":
        raise Unsupported(
            f"{NOTHING}: {source.name!r} uses custom shard keys ({len(source.shard_keys)}), which this version does not carry over."
        )
    for other in migrations:
        if other.is_open and other.target.collection == source.name and other.phase is not Phase.CUT_OVER:
            raise Refused(
                f"{NOTHING}: {source.name!r} is the target of migration {other.id}, which is in phase '{other.phase.value}'. Finish that one first."
            )


async def _text_source(gateway: Gateway, source: Collection, wanted: str | None) -> TextSource:
    """The text to embed: as asked for, or the best field; some sampled point must hold text there."""
    payloads = [p.payload for p in await sample_points(gateway, source, 200)]
    statistics = text_statistics(payloads)
    listed = ", ".join(f"'{s.field}' ({s.coverage:.0%})" for s in statistics[:5]) or "none"
    if wanted is None:
        if not statistics:
            raise Refused(
                f"{NOTHING}: none of {len(payloads)} sampled points of {source.name!r} holds text in its payload, so nothing can be embedded."
            )
        if statistics[0].coverage < 0.5 or (len(statistics) > 1 and statistics[1].coverage >= 0.5):
            raise Refused(
                f"{NOTHING}: which text is embedded must be said with 'text_field'. Fields holding text: {listed}. A template such as '{{title}}\\n{{body}}' joins several."
            )
        wanted = statistics[0].field
    text = TextSource.parse(wanted)
    if not any(text.extract(payload) for payload in payloads):
        raise Refused(
            f"{NOTHING}: none of {len(payloads)} sampled points of {source.name!r} holds text at {wanted!r}. Fields holding text: {listed}."
        )
    return text


async def _match(
    context: OperationContext, gateway: Gateway, source: Collection, replaced: VectorField, text: TextSource, current: str | None
) -> SourceMatch | None:
    return await source_match(context, gateway, source, replaced, text, current) if current else None


async def _plan(
    context: OperationContext,
    gateway: Gateway,
    source: Collection,
    replaced: VectorField,
    text: TextSource,
    embedder: Embedder,
    match: SourceMatch | None,
    request: Request,
    migrations: list[Migration],
) -> Migration:
    """The migration as it would be recorded; nothing is written."""
    aliases, collections = await gateway.aliases(), await gateway.collections()
    taken = {*aliases, *collections}
    target = request.target or target_name(source.name, embedder.spec.name, taken)
    context.settings.check_collection_allowed(target)
    for new in (target, request.alias):
        problem = name_problem(new) if new is not None and new not in taken else None
        if problem is not None:
            raise Refused(f"{NOTHING}: {new!r} cannot be the name of a collection or alias: {problem}.")
    if target in taken:
        what = f"an alias of {aliases[target]!r}" if target in aliases else "a collection"
        raise AlreadyExists(
            f"{NOTHING}: the target {target!r} exists already ({what}). Choose another name with 'target', or leave it out for {target_name(source.name, embedder.spec.name, taken)!r}."
        )
    if request.alias is not None and aliases.get(request.alias, source.name) != source.name:
        raise Refused(f"{NOTHING}: alias {request.alias!r} points to {aliases[request.alias]!r}, not to the source {source.name!r}.")
    if request.alias is not None and request.alias in collections:
        raise Refused(
            f"{NOTHING}: {request.alias!r} is a collection, so no alias can have that name. Choose another alias, and have the app use it."
        )
    new_name = replaced.name if request.new_vector is None else request.new_vector
    if new_name != replaced.name and source.field(new_name) is not None:
        raise Refused(f"{NOTHING}: {source.name!r} has a vector {new_name!r} already, which is copied. Choose another 'new_vector'.")
    digest = request.digest(source.name)
    # A number for each earlier try with the same arguments: two callers at once then meet at the same id.
    tries = sum(m.arguments_digest == digest for m in migrations)
    migration_id = "m-" + hashlib.sha256(f"{digest}-{tries}".encode()).hexdigest()[:6]
    facts = await gateway.facts()
    plan = plan_target(
        source,
        replaced,
        embedder.spec,
        new_name=new_name,
        text_field=text.expression,
        migration_id=migration_id,
        has_metadata=facts.can("collection_metadata"),
        on_disk=request.on_disk,
    )
    connection = gateway.connection.name
    migration = Migration(
        id=migration_id,
        arguments_digest=digest,
        created_at=now(),
        intent="creating",
        strategy=request.strategy,
        source=Endpoint(connection=connection, collection=source.name),
        target=Endpoint(connection=connection, collection=target),
        recipes=plan.recipes,
        model=embedder.spec,
        current_model=match.model if match else None,
        source_match=match,
        text_field=text.expression,
        writes=request.writes,
        readers=request.readers,
        on_missing_text=request.on_missing_text,
        on_long_text=request.on_long_text,
        alias=request.alias,
        gate=request.gate,
        create=plan.create,
        restore=plan.restore,
        on_cutover=plan.on_cutover,
        indexes=plan.indexes,
        intended=plan.intended,
        total_points=source.points,
    )
    changes = app_changes(migration, list(source.aliases), replaced.size)
    return migration.model_copy(update={"app_changes": tuple(changes)})


async def _create(gateway: Gateway, ledger: Ledger, migration: Migration, source: Collection) -> list[ConfigDifference]:
    """Create the target with its indexes and read it back. A target of ours that could not be finished is removed again.

    Raises:
        AlreadyExists: somebody else took the name; theirs is left alone.
    """
    target = migration.target.collection
    is_ours = False
    try:
        try:
            await gateway.create_collection(target, migration.create)
            is_ours = True
        except AlreadyExists:
            # Ours from before a crash or a lost answer, or somebody else's.
            if not await _is_ours(gateway, migration):
                raise
        for field, index in migration.indexes.items():
            await gateway.create_payload_index(target, field, index)
        return config_differences(source, await gateway.describe(target), {**migration.intended, **LOADING})
    except MigrationError as error:
        if is_ours:
            await gateway.delete_collection(target)
        reason, left = str(error), "nothing is left of it" if is_ours else "nothing was removed"

        def abandoned(m: Migration) -> Migration:
            # Another call with the same arguments may have been faster, and its backfill may run already.
            return m.model_copy(update={"phase": Phase.ABANDONED, "error": reason, "intent": None}) if m.phase is Phase.PLANNED else m

        await ledger.change(migration.id, abandoned)
        raise type(error)(f"The target was not created and {left}: {error}") from None


async def _is_ours(gateway: Gateway, migration: Migration) -> bool:
    """Whether the collection of the target's name is the one this migration created: by its metadata, on old servers by being just so and empty."""
    found = await gateway.describe(migration.target.collection)
    mark = found.metadata.get(METADATA_KEY)
    if isinstance(mark, dict) or (await gateway.facts()).can("collection_metadata"):
        return isinstance(mark, dict) and mark.get("migration_id") == migration.id
    return not found.points and {(f.name, f.size) for f in found.fields} == {(f.name, f.size) for f in fields_of(migration.create)}
