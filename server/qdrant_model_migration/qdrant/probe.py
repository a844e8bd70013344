"""Does this Qdrant, with this key, really do what a migration rests on? Proven on scratch collections, never believed."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from qdrant_model_migration.domain.collection import FieldKind, Json, VectorField
from qdrant_model_migration.domain.points import Point
from qdrant_model_migration.errors import AccessDenied, MigrationError, Unsupported
from qdrant_model_migration.qdrant.gateway import Gateway

PREFIX = "_model_migration_probe_"


@asynccontextmanager
async def scratch(gateway: Gateway, create: Json | None = None) -> AsyncIterator[str]:
    """A collection of a name nobody else has, payload-only unless `create` says more; removed whatever happens."""
    name = PREFIX + uuid.uuid4().hex[:12]
    await gateway.create_collection(name, create or {"vectors": {}})
    try:
        yield name
    finally:
        with anyio.CancelScope(shield=True):
            await gateway.delete_collection(name)


async def prove_guard(gateway: Gateway) -> bool:
    """Find an insert-only write that holds on this server, by the transport the backfill uses.

    Returns:
        True for `update_mode`, False for the filter that no existing point passes.

    Raises:
        Unsupported: neither keeps an existing point as it is.
    """
    facts = await gateway.facts()
    await gateway.require("update_filter", "a backfill that overwrites nothing")
    async with scratch(gateway) as name:
        for by_mode in (True, False) if facts.can("update_mode") else (False,):
            old, new = (1, 2) if by_mode else (3, 4)
            await gateway.points.write(name, [Point(id=old, payload={"written_by": "app"})])
            await gateway.points.insert(name, [Point(id=i, payload={"written_by": "backfill"}) for i in (old, new)], by_mode=by_mode)
            found = await gateway.points.retrieve(name, [old, new])
            if {i: p.payload["written_by"] for i, p in found.items()} == {old: "app", new: "backfill"}:
                return by_mode
    raise Unsupported(
        f"Nothing was written: this server ({facts.version}) overwrote an existing point although it was told to insert only."
    )


async def prove_rights(gateway: Gateway, ledger: str) -> None:
    """Prove that the key may create and delete collections, write points and move aliases; leaves nothing behind.

    Raises:
        AccessDenied: names the right that is missing.
    """
    step = "create collections"
    alias = PREFIX + uuid.uuid4().hex[:12] + "_alias"
    try:
        async with scratch(gateway) as name:
            step = "write points"
            await gateway.points.write(name, [Point(id=1, payload={})])
            step = "create and delete aliases"
            try:
                await gateway.point_alias(alias, name)
            finally:
                # An alias left behind would keep the scratch collection from being removed as well.
                with anyio.CancelScope(shield=True):
                    await gateway.delete_alias(alias)
            step = "delete collections"
        if await gateway.exists(ledger):
            step = f"write the ledger {ledger!r}"
            await gateway.points.watermark(ledger)
    except AccessDenied as error:
        raise AccessDenied(f"Nothing was changed: the key may not {step}, which a migration needs. {error}") from None
    except MigrationError as error:
        raise type(error)(f"Nothing was changed: this Qdrant did not let us {step}: {error}") from None


async def prove_fill(gateway: Gateway) -> None:
    """Prove that a guarded vector update fills a field where it is missing and nowhere else.

    Raises:
        Unsupported: it overwrote a vector, or filled none.
    """
    await gateway.require("update_filter", "filling a vector field that overwrites nothing")
    fields = {"vectors": {"old": {"size": 1, "distance": "Dot"}, "new": {"size": 1, "distance": "Dot"}}}
    async with scratch(gateway, fields) as name:
        await gateway.points.write(
            name, [Point(id=1, payload={}, vectors={"old": [1.0], "new": [1.0]}), Point(id=2, payload={}, vectors={"old": [1.0]})]
        )
        await gateway.vectors.fill(name, "new", [Point(id=i, payload={}, vectors={"new": [2.0]}) for i in (1, 2)])
        found = await gateway.points.retrieve(name, [1, 2], vectors=["old", "new"])
        if {i: p.vectors for i, p in found.items()} != {1: {"old": [1.0], "new": [1.0]}, 2: {"old": [1.0], "new": [2.0]}}:
            version = (await gateway.facts()).version
            raise Unsupported(f"Nothing was written: this server ({version}) did not keep to the guard of a vector update.")


async def prove_added_field(gateway: Gateway, *, has_unnamed: bool) -> None:
    """Prove that the app's own upserts and queries go on working once a named field was added beside what is there.

    Raises:
        Unsupported: they do not; an unnamed vector is the known trap (embedded database of qdrant-client 1.20).
    """
    vector = {"size": 2, "distance": "Dot"}
    async with scratch(gateway, {"vectors": vector if has_unnamed else {"old": vector}}) as name:
        old = "" if has_unnamed else "old"
        await gateway.add_vector(name, VectorField(name="new", kind=FieldKind.DENSE, config={"size": 2, "distance": "Dot"}))
        try:
            await gateway.points.write(name, [Point(id=1, payload={}, vectors={old: [1.0, 0.0]})])
            hits = await gateway.points.search(name, [1.0, 0.0], using=old, limit=1, exact=True)
        except MigrationError as error:
            hits, why = [], f" ({error})"
        else:
            why = ""
        if [hit.id for hit in hits] != [1]:
            version = (await gateway.facts()).version
            raise Unsupported(
                f"Nothing was changed: on this server ({version}) an app's own upserts no longer work as before once a named field was added{why}. "
                "strategy='side_by_side' reaches the same by a copy."
            )


async def leftovers(gateway: Gateway) -> list[str]:
    """Scratch collections of a probe that was killed."""
    return [name for name in await gateway.collections() if name.startswith(PREFIX)]
