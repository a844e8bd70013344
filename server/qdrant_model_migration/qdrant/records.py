"""How is a record kept in Qdrant, so that of two who write it one wins? As a point, written by compare-and-set and read back.

A record is one point: {kind, migration_id, key, revision, nonces, body}. Its id is derived from kind, migration and key, so that
two writers of the same record meet at the same point. Each write leaves a nonce, and carries on those of the last writes before it:
whoever finds its own nonce there knows that its write got through, even when others have written since.

In a cluster a write has got through when a majority of the replicas show it: were one replica behind (its peer just restarted and is not
known to be so yet; seen on 1.17.0), a record could be won there and elsewhere.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import anyio
from pydantic import BaseModel
from qdrant_client import models

from qdrant_model_migration.domain.collection import Json
from qdrant_model_migration.domain.points import Point, PointId
from qdrant_model_migration.errors import ConnectionFailed, MigrationError, NotFound
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.qdrant.translate import never, struct

R = TypeVar("R", bound=BaseModel)
NAMESPACE = uuid.UUID("6f1c1c52-8c0e-4b3c-9a53-6d0f6a1b7a10")
PAGE = 256
NONCES = 16
AGREE_LOOKS = 20
AGREE_EVERY_S = 0.05


class Contended(MigrationError):
    """Another writer changed the record first."""


@dataclass(frozen=True, kw_only=True)
class Stored:
    """A record as read; revision 0 and no body when there is none."""

    revision: int = 0
    body: Json | None = None
    nonces: tuple[str, ...] = ()


class Records:
    """Records of any kind in one collection."""

    def __init__(self, gateway: Gateway, collection: str) -> None:
        self._gateway = gateway
        self._collection = collection
        self._call = gateway.call

    def point_id(self, kind: str, migration_id: str, key: str) -> str:
        return str(uuid.uuid5(NAMESPACE, f"{kind}\n{migration_id}\n{key}"))

    def _point(self, kind: str, migration_id: str, key: str, record: BaseModel, revision: int, nonces: tuple[str, ...] = ()) -> Point:
        body = record.model_dump(mode="json")
        payload = {"kind": kind, "migration_id": migration_id, "key": key, "revision": revision, "nonces": list(nonces), "body": body}
        return Point(id=self.point_id(kind, migration_id, key), payload=payload)

    async def read(self, kind: str, migration_id: str, key: str) -> Stored:
        point_id = self.point_id(kind, migration_id, key)
        found = (await self._gateway.points.retrieve(self._collection, [point_id])).get(point_id)
        if found is None:
            return Stored()
        return Stored(revision=int(found.payload["revision"]), body=found.payload["body"], nonces=tuple(found.payload["nonces"]))

    async def get(self, kind: str, migration_id: str, key: str, record: type[R]) -> R | None:
        """A record, or None when there is none."""
        body = (await self.read(kind, migration_id, key)).body
        return None if body is None else record.model_validate(body)

    async def scan(self, kind: str, migration_id: str | None, record: type[R]) -> list[R]:
        """All of a kind, of one migration or of all."""
        must: list[models.Condition] = [models.FieldCondition(key="kind", match=models.MatchValue(value=kind))]
        if migration_id is not None:
            must.append(models.FieldCondition(key="migration_id", match=models.MatchValue(value=migration_id)))
        found: list[R] = []
        offset: Any = None
        while True:
            records, offset = await self._call(
                lambda offset=offset: self._call.rest.scroll(  # type: ignore[misc]
                    self._collection, scroll_filter=models.Filter(must=must), offset=offset, limit=PAGE, with_payload=["body"]
                )
            )
            found.extend(record.model_validate(r.payload["body"]) for r in records if r.payload)
            if offset is None:
                return found

    async def insert(self, kind: str, migration_id: str, key: str, record: BaseModel) -> bool:
        """Write a new record; False when there is one."""
        nonce = uuid.uuid4().hex
        point = self._point(kind, migration_id, key, record, 1, (nonce,))
        return await self._put(point, nonce, never())

    async def set(self, kind: str, migration_id: str, key: str, record: BaseModel, before: Stored) -> bool:
        """Write a record that is still as it was read; False when somebody else was first."""
        nonce = uuid.uuid4().hex
        point = self._point(kind, migration_id, key, record, before.revision + 1, (nonce, *before.nonces)[:NONCES])
        same = models.FieldCondition(key="revision", match=models.MatchValue(value=before.revision))
        return await self._put(point, nonce, models.Filter(must=[same]))

    async def _put(self, point: Point, nonce: str, guard: models.Filter) -> bool:
        await self._call(
            lambda: self._call.rest.upsert(
                # `strong` would rest on one peer alone: with that one down nothing could be written.
                self._collection,
                [struct(point)],
                wait=True,
                update_filter=guard,
                ordering=models.WriteOrdering.MEDIUM,
            )
        )
        if not (await self._gateway.facts()).is_cluster:
            found = (await self._gateway.points.retrieve(self._collection, [point.id])).get(point.id)
            return found is not None and nonce in found.payload["nonces"]
        return nonce in (await self._agreed(point.id))["nonces"]

    async def _agreed(self, point_id: PointId) -> Json:
        """What a majority of the replicas show of a record that exists.

        Where two replicas differ, Qdrant answers as if there were no such point: another write is on its way, or one of them is behind.

        Raises:
            ConnectionFailed: they went on differing, or too few answered.
        """
        for _ in range(AGREE_LOOKS):
            found = await self._call(
                lambda: self._call.rest.retrieve(
                    self._collection, [point_id], with_payload=True, consistency=models.ReadConsistencyType.QUORUM
                )
            )
            if found and found[0].payload:
                return found[0].payload
            await anyio.sleep(AGREE_EVERY_S)
        raise ConnectionFailed(
            f"The replicas of the ledger {self._collection!r} do not agree at the moment, so that it cannot be told whether a record was written. "
            "A peer of the cluster was probably restarted and is being brought up to date; try again in a moment."
        )

    async def write(self, kind: str, migration_id: str, key: str, record: BaseModel) -> None:
        """Write whatever is there: for records with one writer at a time."""
        for _ in range(20):
            found = await self.read(kind, migration_id, key)
            if found.body is None:
                if await self.insert(kind, migration_id, key, record):
                    return
            elif await self.set(kind, migration_id, key, record, found):
                return
        raise Contended(f"The ledger's {kind} of {migration_id} is being written by others; try again.")

    async def change(self, kind: str, migration_id: str, key: str, record: type[R], change: Callable[[R], R]) -> R:
        """Read, change, write by compare-and-set; repeated while others write in between.

        Raises:
            NotFound: there is no such record any more.
        """
        for attempt in range(20):
            found = await self.read(kind, migration_id, key)
            if found.body is None:
                raise NotFound(f"The ledger holds no {kind} of migration {migration_id!r} any more.")
            before = record.model_validate(found.body)
            after = change(before)
            if after == before or await self.set(kind, migration_id, key, after, found):
                return after
            await anyio.sleep(0.02 * (attempt + 1))
        raise Contended(f"The ledger's {kind} of {migration_id} is being written by others; try again.")

    async def put_all(self, kind: str, migration_id: str, records: dict[str, BaseModel]) -> None:
        """Write records by their keys, whatever is there: a repetition changes nothing."""
        points = [self._point(kind, migration_id, key, record, 1) for key, record in records.items()]
        for start in range(0, len(points), PAGE):
            page = [struct(point) for point in points[start : start + PAGE]]
            await self._call(lambda page=page: self._call.rest.upsert(self._collection, page, wait=True))  # type: ignore[misc]

    async def remove(self, kind: str, migration_id: str, keys: list[str]) -> None:
        ids: list[PointId] = [self.point_id(kind, migration_id, key) for key in keys]
        if ids:
            await self._call(
                lambda: self._call.rest.delete(self._collection, points_selector=models.PointIdsList(points=list(ids)), wait=True)
            )
