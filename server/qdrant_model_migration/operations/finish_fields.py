"""How does a migration end that added a field, or only changed the configuration? A field is removed, or the settings are restored."""

from __future__ import annotations

from typing import Literal

from qdrant_model_migration.domain.collection import Collection
from qdrant_model_migration.domain.cutover import gate_objection
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.domain.quantization import QuantizationSettings
from qdrant_model_migration.domain.target import provenance_without
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.finding import open_migrations_of
from qdrant_model_migration.operations.placing import has_mark
from qdrant_model_migration.operations.requantize import restore
from qdrant_model_migration.operations.work import Work
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.results import FinishPlan

Action = Literal["keep_old", "delete_old", "discard_new"]


def old_field_of(migration: Migration) -> str | None:
    """The old vector field that stands beside the new one and is replaced by it; None where nothing of the kind is there."""
    made = migration.made
    return made.source_field if made is not None and made.kind == "embed" and migration.keeps_old_field else None


async def check_filled(context: OperationContext, migration: Migration) -> None:
    """Nothing old is deleted before the new field is complete.

    Raises:
        Refused: points that have a text lack it, or it was never filled or proven.
    """
    if not migration.has_fill_stage:
        return
    field, verification = migration.making.field, migration.verification
    call = f"start_backfill(migration_id={migration.id!r})"
    if migration.is_fill_due:
        raise Refused(
            f"Nothing was deleted: {field!r} was not filled yet. Call {call} first; until then only the old field can be searched."
        )
    if verification is None or not verification.is_complete or verification.coverage is None or (migration.filled is None):
        raise Refused(
            f"Nothing was deleted: it is not proven that {field!r} is complete. Call verify_target(migration_id={migration.id!r}); if something is missing, {call}."
        )
    targets = await context.gateway(migration.target.connection)
    missing = await targets.vectors.count_missing(migration.target.collection, field)
    known = verification.target_points - round(verification.coverage * verification.target_points)
    if missing > known:
        remedy = (
            f"call {call} and verify_target again."
            if migration.is_open
            else f"the migration is over and fills nothing any more, so let them write {field!r} to these points as well; then call again."
        )
        raise Refused(
            f"Nothing was deleted: {missing:,} points of {migration.target.collection!r} lack {field!r}, and at the verification {known:,} did (without a text). Writers upsert "
            f"without it: {remedy}"
        )


async def check_unused(context: OperationContext, migration: Migration, field: str) -> None:
    """A vector field of the target stays while another open migration reads or makes it.

    Raises:
        Refused: names that one.
    """
    here = migration.target

    def needs(other: Migration) -> bool:
        read = {r.source_field for r in other.recipes} | {other.dense_field} if other.source == here else set[str | None]()
        made = {r.field for r in other.recipes} if other.target == here else set[str]()
        return other.id != migration.id and field in read | made

    for other in await open_migrations_of(context, here.connection, needs):
        raise Refused(
            f"Nothing was deleted: vector {field!r} of {here.collection!r} is needed by the open migration {other.id} ({other.route}). Finish or discard that one first."
        )


def _may_remove(migration: Migration, found: Collection) -> bool:
    """Whether the made field is this migration's: what was planned and never created may be somebody else's by now."""
    return migration.phase is not Phase.PLANNED or has_mark(migration, found)


def end_of_filling(migration: Migration) -> list[str]:
    """What an end means for writers that leave the new field out, and what a gate has against readers that use it."""
    if not migration.has_fill_stage:
        return []
    field = migration.making.field
    found = [f"From then on nothing fills {field!r} any more: what a writer upserts without it stays without it, and is not found by it."]
    # Where no alias moves, or it moved before the field was filled, this is the plan that must say so.
    objection = gate_objection(migration)
    return found if objection is None else [*found, f"Agreeing accepts: {objection}."]


async def old_field_plan(gateway: Gateway, migration: Migration, field: str) -> tuple[list[str], list[str], list[str]]:
    """(what is deleted, what stays, warnings) about the old field of a collection that holds both."""
    label = f"vector {field!r}" if field else "the unnamed vector"
    where = f"{label} of {migration.target.collection!r}"
    described = await gateway.describe(migration.target.collection)
    if described.field(field) is None:
        return [], [], []
    facts = await gateway.facts()
    if not facts.can("create_vector_name"):
        return [], [f"{where}: Qdrant {facts.version} cannot remove a vector field (1.18 can); it goes on taking room"], []
    return [where], [], [f"Every query that still uses {label} fails from that moment: be sure that no reader does."]


async def in_place_facts(context: OperationContext, migration: Migration, action: Action, *, snapshot_first: bool) -> FinishPlan:
    """The plan for a collection that was changed in place, without its code.

    Raises:
        Refused: there is nothing old to delete.
    """
    gateway = await context.gateway(migration.target.connection)
    name = migration.target.collection
    count = await gateway.points.count(name)
    keeps = [f"collection {name!r} ({count:,} points)", f"the records of migration {migration.id} in {context.settings.ledger!r}"]
    deletes: list[str] = []
    warnings = end_of_filling(migration) if action != "discard_new" else []
    undo = "Nothing is deleted."
    if action == "delete_old":
        old = old_field_of(migration)
        if old is None:
            raise Refused(
                f"Nothing was deleted: '{migration.strategy}' replaces nothing, so there is nothing old. End it with action='keep_old'."
            )
        await check_unused(context, migration, old)
        await check_filled(context, migration)
        deletes, kept, told = await old_field_plan(gateway, migration, old)
        keeps, warnings = [*kept, *keeps], [*warnings, *told]
    elif action == "discard_new" and migration.made is not None:
        field = migration.making.field
        await check_unused(context, migration, field)
        described = await gateway.describe(name)
        if described.field(field) is not None and not _may_remove(migration, described):
            keeps.insert(0, f"vector {field!r} of {name!r}: nothing shows that this migration added it")
        elif described.field(field) is not None:
            deletes = [f"vector {field!r} of {name!r}"]
            warnings = [f"Queries that use {field!r} fail from that moment."]
    elif action == "discard_new":
        keeps.insert(0, "the points; their quantization is set as it was before")
        undo = "Begin the migration again."
    else:
        keeps.insert(0, "both vector fields" if old_field_of(migration) is not None else "what was added or set")
    if deletes:
        has_snapshots = snapshot_first and not gateway.connection.is_embedded
        undo = (
            f"The snapshot of {name!r} that is made first stays in the server's snapshot folder; recovering it takes the whole collection back."
            if has_snapshots
            else "None: the vectors are gone for good; they would have to be embedded again."
        )
        if not has_snapshots:
            warnings.append(
                f"No snapshot is made first: {'the embedded database has none' if gateway.connection.is_embedded else 'snapshot_first=false'}."
            )
    return FinishPlan(
        code="", action=action, deletes=deletes, keeps=keeps, counts={name: count}, warnings=warnings, undo=undo, expires_at=""
    )


async def carry_out_in_place(work: Work, action: Action, *, snapshot_first: bool) -> tuple[list[str], str | None]:
    """Remove the field that is to go, or restore the settings; what was deleted, and the snapshot made before. Safe to repeat."""
    migration, name = work.migration, work.migration.target.collection
    if action == "keep_old":
        return [], None
    if migration.made is None:
        if migration.phase is not Phase.TARGET_CREATED and migration.phase is not Phase.PLANNED:
            field = work.source_collection.field(migration.dense_field or "")
            if field is not None:
                work.progress.stage = "restoring the quantization"
                await restore(work.target, work.source_collection, field, QuantizationSettings.model_validate(migration.previous))
        return [], None
    doomed = migration.making.field if action == "discard_new" else old_field_of(migration)
    described = await work.target.describe(name)
    if doomed is None or described.field(doomed) is None or (action == "discard_new" and not _may_remove(migration, described)):
        return [], None
    snapshot: str | None = None
    if snapshot_first:
        work.progress.stage = f"snapshot of {name}"
        snapshot = await work.target.snapshot(name)
        if snapshot is not None:
            await work.record("snapshot", snapshot)
    return await remove_old_field(work, doomed), snapshot


async def remove_old_field(work: Work, field: str) -> list[str]:
    """Remove one vector field where the server can; what was removed."""
    name = work.migration.target.collection
    if not (await work.target.facts()).can("create_vector_name") or (await work.target.describe(name)).field(field) is None:
        return []
    work.check()
    await work.target.delete_vector(name, field)
    await _forget(work, field)
    return [f"vector {field!r} of {name!r}"]


async def _forget(work: Work, field: str) -> None:
    """The metadata no longer describes a field that is gone; what stands beside it becomes what self-resolving readers find at the top.

    After the field, never before it: until it is gone, the mark tells that it is ours.
    """
    name = work.migration.target.collection
    told = provenance_without((await work.target.describe(name)).metadata, field, new=work.migration.making.field)
    if told is not None:
        await work.target.update(name, {"metadata": told})
