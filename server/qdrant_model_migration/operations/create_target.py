"""How does a migration begin? Everything is checked first, then recorded, then created, then read back."""

from __future__ import annotations

import anyio

from qdrant_model_migration.domain.collection import Collection
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.domain.records import EventRecord
from qdrant_model_migration.domain.strategies import STRATEGY, Strategy
from qdrant_model_migration.errors import MigrationError, NotFound, Refused, Unsupported
from qdrant_model_migration.operations.context import OperationContext, now
from qdrant_model_migration.operations.overview import resolve_allowed
from qdrant_model_migration.operations.placing import place
from qdrant_model_migration.operations.planning import NOTHING, Request, Sides, plan_migration
from qdrant_model_migration.operations.requests import WAIT_S, Report, carry_out, no_report
from qdrant_model_migration.operations.target_answer import answer, fitting, would_create
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.qdrant.ledger import Ledger
from qdrant_model_migration.qdrant.probe import prove_added_field, prove_fill, prove_guard, prove_rights
from qdrant_model_migration.results import CreateTargetResult

__all__ = ["Request", "create_target"]

ANSWER_S = 36.0


async def create_target(
    context: OperationContext, request: Request, *, dry_run: bool = False, report: Report = no_report
) -> CreateTargetResult:
    """Record the migration and create its target; repeated with the same arguments, give back the one that exists.

    Raises:
        MigrationError: what stands in the way; nothing half-made is left.
    """
    begun = anyio.current_time()
    strategy = STRATEGY.get(request.strategy)
    if strategy is None:
        raise NotFound.named("strategy", request.strategy, STRATEGY, NOTHING)
    gateway = await context.gateway(request.connection)
    target_gateway = await context.gateway(request.target_connection or request.connection)
    _check_servers(gateway, target_gateway)
    ledger = await context.ledger(target_gateway.connection.name)
    name, _ = await resolve_allowed(context, gateway, request.collection)
    migrations = await ledger.migrations()
    known = _same_request(migrations, request.digest(name))
    if known is not None and known.phase is not Phase.PLANNED:
        return await answer(context, gateway, known, [], is_known=True)
    source = await gateway.describe(name)
    # What is created on a server is recorded there.
    here = await (await context.ledger(gateway.connection.name)).migrations()
    # In place a migration that was interrupted is the one whose target the source is: it is gone on with.
    _check_source(source, [m for m in here if known is None or m.id != known.id])
    is_in_place = await _placement(strategy, gateway, target_gateway, source)
    sides = Sides(source_gateway=gateway, target_gateway=target_gateway, source=source, strategy=strategy, is_in_place=is_in_place)
    await _check_sharding(sides)
    migration = known or await plan_migration(context, sides, request, migrations)
    if dry_run:
        listed = would_create(migration, await ledger.exists(), context.settings.ledger)
        return await answer(context, gateway, migration, listed, is_dry_run=True)
    await _prove(context, sides, migration)
    await ledger.create()
    if known is None and not await ledger.add_migration(migration):
        migration = await ledger.migration(migration.id)
    if migration.made is not None and migration.made.kind == "linear_map":
        # Testing and loading two models took their part of the time that a call has.
        left_s = min(WAIT_S, ANSWER_S - (anyio.current_time() - begun))
        if not await _fitted(context, ledger, migration, report, wait_s=max(1.0, left_s)):
            return await fitting(context, gateway, migration, request)
        migration = await ledger.migration(migration.id)
    diff = await place(target_gateway, ledger, migration, source)
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
    what = f"{migration.source.collection!r} is changed in place" if is_in_place else f"target {created.target.collection!r} created"
    await ledger.add_event(created.id, EventRecord(at=now(), event="created", text=what))
    return await answer(context, gateway, created, [], diff=diff)


def _check_servers(source: Gateway, target: Gateway) -> None:
    """Refuse two names of one server: what is said of a target elsewhere (its own aliases, nothing moves by a swap) would be wrong."""
    a, b = source.connection, target.connection
    if a.name != b.name and (a.url, a.path) == (b.url, b.path):
        raise Refused(f"{NOTHING}: connections {a.name!r} and {b.name!r} are one server. Leave 'target_connection' out.")


def _same_request(migrations: list[Migration], digest: str) -> Migration | None:
    return next((m for m in migrations if m.is_open and m.arguments_digest == digest), None)


def _check_source(source: Collection, migrations: list[Migration]) -> None:
    if source.points == 0:
        raise Refused(
            f"{NOTHING}: {source.name!r} is empty. Create the new collection directly with the new model's dimensions; there is nothing to migrate."
        )
    for other in migrations:
        if other.is_open and other.target.collection == source.name and other.phase is not Phase.CUT_OVER:
            raise Refused(
                f"{NOTHING}: {source.name!r} is the target of migration {other.id}, which is in phase '{other.phase.value}'. Finish that one first."
            )


async def _placement(strategy: Strategy, source: Gateway, target: Gateway, described: Collection) -> bool:
    """Whether the strategy changes the source in place here.

    Raises:
        Unsupported: this server cannot add a vector field; names what does.
        Refused: in place and on another server exclude each other.
    """
    is_across = source.connection.name != target.connection.name
    facts = await source.facts()
    adds_field = strategy.made is not None
    if strategy.placement == "in_place":
        if is_across:
            raise Refused(f"{NOTHING}: '{strategy.name}' changes a collection in place; it has no target on another connection.")
        if adds_field and not facts.can("create_vector_name"):
            raise Unsupported(
                f"{NOTHING}: '{strategy.name}' adds a vector field to a collection, which needs Qdrant 1.18 or later; this server is {facts.version}. "
                "strategy='side_by_side' reaches the same by a copy."
            )
        if adds_field and facts.is_embedded and described.field("") is not None:
            raise Unsupported(
                f"{NOTHING}: the embedded database no longer takes the app's unnamed vectors once a named field was added to {described.name!r}. "
                "strategy='side_by_side' reaches the same by a copy."
            )
        return True
    if is_across:
        await source.require("random_sample", "reading a source")
    if strategy.placement == "new_collection" or is_across:
        return False
    is_trap = facts.is_embedded and described.field("") is not None
    return facts.can("create_vector_name") and not is_trap


async def _check_sharding(sides: Sides) -> None:
    """Custom shard keys are carried over, to a cluster, where each id lies under one of them.

    Raises:
        Unsupported: the target's Qdrant is no cluster.
        Refused: an id lies under several keys: which of its points is meant cannot be told.
    """
    if not sides.source.shard_keys:
        return
    await sides.source_gateway.shards.check_single_keys(sides.source)
    if not sides.is_in_place:
        await sides.target_gateway.require_cluster(
            f"a copy of {sides.source.name!r}, which has {len(sides.source.shard_keys)} custom shard keys"
        )


async def _prove(context: OperationContext, sides: Sides, migration: Migration) -> None:
    """The rights of the key and the guards that the migration rests on, on scratch collections."""
    gateway = sides.target_gateway
    await prove_rights(gateway, context.settings.ledger)
    if not sides.is_in_place:
        await prove_guard(gateway)
    if migration.has_fill_stage:
        await prove_fill(gateway)
    if sides.is_in_place and migration.has_fill_stage:
        await prove_added_field(gateway, has_unnamed=sides.source.field("") is not None)


async def _fitted(context: OperationContext, ledger: Ledger, migration: Migration, report: Report, *, wait_s: float) -> bool:
    """Have the linear map fitted and judged; False while that goes on.

    Raises:
        Refused: it finds too little, or there are too few pairs; the migration is given up, and nothing is left.
    """
    if migration.fitted is not None:
        return True
    try:
        operation = await carry_out(context, migration, "fit", {}, wait_s=wait_s, report=report)
    except MigrationError as error:
        reason = str(error)

        def given_up(m: Migration) -> Migration:
            return m.model_copy(update={"phase": Phase.ABANDONED, "error": reason, "intent": None}) if m.phase is Phase.PLANNED else m

        await ledger.change(migration.id, given_up)
        raise
    return operation.state == "done"
