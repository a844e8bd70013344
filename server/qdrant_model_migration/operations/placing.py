"""How does a target come to be? A new collection, or a field added to the one there is; read back, and undone when it failed."""

from __future__ import annotations

from qdrant_model_migration.domain.collection import METADATA_KEY, Collection, VectorField, config_differences, fields_of
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.domain.target import planned_differences
from qdrant_model_migration.errors import AlreadyExists, ConnectionFailed, MigrationError
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.qdrant.ledger import Ledger
from qdrant_model_migration.results import ConfigDifference

LOADING = {"optimizer_config.indexing_threshold": "index building is off during the load and restored after it"}


async def place(gateway: Gateway, ledger: Ledger, migration: Migration, source: Collection) -> list[ConfigDifference]:
    """Create what the migration needs on the target's side and read it back. What could not be finished is removed again.

    Raises:
        AlreadyExists: somebody else took the name; theirs is left alone.
    """
    made: list[str] = []
    try:
        if migration.made is None:
            # A quantization is set by the backfill: nothing appears before it.
            return []
        if migration.is_in_place:
            return await _add_field(gateway, migration, made)
        return await _create(gateway, migration, source, made)
    except MigrationError as error:
        if (await ledger.migration(migration.id)).phase is not Phase.PLANNED:
            # Another call with the same arguments was faster, and its backfill may run already: what it has is not taken away.
            made.clear()
        for what in made:
            await (gateway.delete_vector(migration.target.collection, what) if migration.is_in_place else gateway.delete_collection(what))
        reason, left = str(error), "nothing is left of it" if made else "nothing was removed"

        def abandoned(m: Migration) -> Migration:
            return m.model_copy(update={"phase": Phase.ABANDONED, "error": reason, "intent": None}) if m.phase is Phase.PLANNED else m

        await ledger.change(migration.id, abandoned)
        raise type(error)(f"The target was not created and {left}: {error}") from None


async def _create(gateway: Gateway, migration: Migration, source: Collection, made: list[str]) -> list[ConfigDifference]:
    target = migration.target.collection
    try:
        await gateway.create_collection(target, migration.create)
        made.append(target)
    except AlreadyExists:
        # Ours from before a crash or a lost answer, or somebody else's.
        if not await _is_ours(gateway, migration):
            raise
        await gateway.create_shard_keys(target, migration.create.get("shard_keys") or ())
    for field, index in migration.indexes.items():
        await gateway.create_payload_index(target, field, index)
    return config_differences(source, await gateway.describe(target), {**migration.intended, **LOADING})


async def _add_field(gateway: Gateway, migration: Migration, made: list[str]) -> list[ConfigDifference]:
    """Add the field to the collection, tune it, and say in the metadata what it is.

    Raises:
        AlreadyExists: somebody else added a field of that name since the migration was planned.
    """
    name = migration.target.collection
    for field in fields_of(migration.create):
        if (await gateway.describe(name)).field(field.name) is None:
            try:
                await gateway.add_vector(name, field)
                made.append(field.name)
            except ConnectionFailed:
                # The answer may be lost, and the field be there.
                made.append(field.name)
                raise
            except MigrationError:
                # Another call was faster; of whom it is, is seen next.
                if (await gateway.describe(name)).field(field.name) is None:
                    raise
        if field.name not in made and not await _is_our_field(gateway, migration, field):
            raise AlreadyExists(
                f"{name!r} has a vector {field.name!r} that this migration did not add; it was left alone. Begin anew with another 'new_vector'."
            )
        await gateway.tune_vector(name, field)
    if migration.create.get("metadata"):
        await gateway.update(name, {"metadata": migration.create["metadata"]})
    return planned_differences(migration, await gateway.describe(name))


def has_mark(migration: Migration, found: Collection) -> bool:
    """Whether the collection's metadata says that this migration added its field or created the collection."""
    mark = found.metadata.get(METADATA_KEY)
    return isinstance(mark, dict) and mark.get("migration_id") == migration.id


async def _is_our_field(gateway: Gateway, migration: Migration, field: VectorField) -> bool:
    """Whether a field that is there is the one an earlier try added: by the metadata, before those were written by being just so and empty."""
    found = await gateway.describe(migration.target.collection)
    held = found.field(field.name)
    if held is None or has_mark(migration, found):
        return held is not None
    is_just_so = (held.kind, held.size, held.distance) == (field.kind, field.size, field.distance)
    return is_just_so and await gateway.vectors.count_missing(found.name, field.name) >= await gateway.points.count(found.name)


async def _is_ours(gateway: Gateway, migration: Migration) -> bool:
    """Whether the collection of the target's name is the one this migration created: by its metadata, on old servers by being just so and empty."""
    found = await gateway.describe(migration.target.collection)
    if isinstance(found.metadata.get(METADATA_KEY), dict) or (await gateway.facts()).can("collection_metadata"):
        return has_mark(migration, found)
    return not found.points and {(f.name, f.size) for f in found.fields} == {(f.name, f.size) for f in fields_of(migration.create)}
