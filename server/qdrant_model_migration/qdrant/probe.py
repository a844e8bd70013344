"""Does this Qdrant, with this key, really do what a migration rests on? Proven on scratch collections, never believed."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio

from qdrant_model_migration.domain.collection import Json
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


async def leftovers(gateway: Gateway) -> list[str]:
    """Scratch collections of a probe that was killed."""
    return [name for name in await gateway.collections() if name.startswith(PREFIX)]
