"""Are both sides still there, and is the target still the one that was created? Somebody may have deleted or replaced it behind our back."""

from __future__ import annotations

from qdrant_model_migration.domain.collection import METADATA_KEY, Collection, fields_of
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.errors import MigrationError, NotFound, Refused, RequestRejected
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.placing import has_mark
from qdrant_model_migration.qdrant.gateway import Gateway


def is_replaced(migration: Migration, found: Collection) -> bool:
    """Whether the collection of the target's name lacks the mark that the target was created with: another one has its name now."""
    is_marked = METADATA_KEY in (migration.create.get("metadata") or {})
    return is_marked and not migration.is_in_place and not has_mark(migration, found)


async def check_target(target: Gateway, migration: Migration) -> None:
    """Stop before somebody else's collection is made equal to the source.

    Raises:
        NotFound: the target was deleted.
        Refused: a collection that this migration did not create has its name.
    """
    name = migration.target.collection
    if not await target.exists(name):
        raise NotFound(_gone(migration))
    # Servers that keep no metadata cannot tell.
    if (await target.facts()).can("collection_metadata") and is_replaced(migration, await target.describe(name)):
        raise Refused(
            f"Nothing was changed: {name!r} is no longer the collection that migration {migration.id} created; somebody deleted that one and created "
            f"another of its name. {_anew(migration)} It leaves {name!r} alone."
        )


async def told(context: OperationContext, migration: Migration, error: MigrationError) -> MigrationError:
    """The error, or what is behind it where a side of the migration is not as it was."""
    if not isinstance(error, NotFound | RequestRejected) or migration.is_in_place:
        return error
    try:
        sources, targets = await context.gateway(migration.source.connection), await context.gateway(migration.target.connection)
        source, target = migration.source.collection, migration.target.collection
        if not await targets.exists(target):
            return NotFound(_gone(migration))
        if not await sources.exists(source):
            return NotFound(
                f"Nothing was changed: the source {source!r} no longer exists; somebody deleted it. {target!r} keeps the "
                f"{await targets.points.count(target):,} points that were copied. Restore the source, for example from a snapshot, and call "
                f"start_backfill(migration_id={migration.id!r}), or discard the migration with finish_migration(action='discard_new')."
            )
        await check_target(targets, migration)
        changed = _changed_fields(migration, await targets.describe(target))
        if changed:
            return RequestRejected(
                f"Nothing more was written: {target!r} is not as migration {migration.id} created it ({changed}). Somebody changed or replaced it. "
                f"{_anew(migration)}"
            )
    except MigrationError as found:
        return found if isinstance(found, Refused) else error
    return error


def _changed_fields(migration: Migration, found: Collection) -> str:
    there = {f.name: f for f in found.fields}
    changed = []
    for field in fields_of(migration.create):
        held = there.get(field.name)
        if held is None:
            changed.append(f"vector {field.name!r} is missing")
        elif (held.kind, held.size) != (field.kind, field.size):
            changed.append(f"vector {field.name!r} has {held.size} dimensions, planned are {field.size}")
    return "; ".join(changed)


def _gone(migration: Migration) -> str:
    return (
        f"Nothing was changed: the target {migration.target.collection!r} no longer exists; somebody deleted it. The source "
        f"{migration.source.collection!r} is untouched. {_anew(migration)}"
    )


def _anew(migration: Migration) -> str:
    return (
        f"Give this migration up with finish_migration(migration_id={migration.id!r}, action='discard_new'), then call create_target anew."
    )
