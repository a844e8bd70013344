"""Where is a migration recorded? In a small payload-only collection beside its target; every change is compare-and-set.

A record is one point: {kind, migration_id, key, revision, nonces, body}. Its id is derived from kind, migration and key, so that
two writers of the same record meet at the same point. Each write leaves a nonce, and carries on those of the last writes before it:
whoever finds its own nonce there knows that its write got through, even when others have written since.

In a cluster the ledger is one shard of up to three replicas, and a write has got through when a majority of them show it: were one replica
behind (its peer just restarted and is not known to be so yet; seen on 1.17.0), a record could be won there and elsewhere. With three peers
the ledger outlives any one of them. With two it needs both, as do aliases and new collections; with one down, nothing is lost and migrations wait.
Needs Qdrant >= 1.15.4 (`update_filter`).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

import anyio
from pydantic import BaseModel
from qdrant_client import models

from qdrant_model_migration.domain.collection import Json
from qdrant_model_migration.domain.linear_map import LinearMap
from qdrant_model_migration.domain.map_records import MapIndex, MapPart, assembled, disassembled
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.own_operations import OwnRecord
from qdrant_model_migration.domain.points import Point, PointId
from qdrant_model_migration.domain.ranges import Range
from qdrant_model_migration.domain.records import EventRecord, Evidence, FailedRecord, HeldOut, Lease, Operation, Pace, PlanRecord
from qdrant_model_migration.errors import AlreadyExists, ConnectionFailed, MigrationError, NotFound
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.qdrant.translate import never, struct

R = TypeVar("R", bound=BaseModel)
NAMESPACE = uuid.UUID("6f1c1c52-8c0e-4b3c-9a53-6d0f6a1b7a10")
PAGE = 256
STALE_S = 600.0
"""An outcome that nobody fetched for so long is not given out as fresh."""
NONCES = 16
MOST_REPLICAS = 3
AGREE_LOOKS = 20
AGREE_EVERY_S = 0.05


class Contended(MigrationError):
    """Another writer changed the record first."""


@dataclass(frozen=True, kw_only=True)
class _Stored:
    """A record as read; revision 0 and no body when there is none."""

    revision: int = 0
    body: Json | None = None
    nonces: tuple[str, ...] = ()


class Ledger:
    """The records of one Qdrant's migrations."""

    def __init__(self, gateway: Gateway, collection: str) -> None:
        self.gateway = gateway
        self.collection = collection
        self._call = gateway.call

    def now(self) -> datetime:
        """What is decided by time goes by the clock of the Qdrant that keeps the ledger: it is the same for a host and its worker elsewhere."""
        return self._call.clock.now()

    async def exists(self) -> bool:
        return await self.gateway.exists(self.collection)

    async def create(self) -> None:
        """Create the ledger when there is none.

        Raises:
            Unsupported: the server is older than 1.15.4.
            AlreadyExists: the name is taken by something that is no ledger.
        """
        if not await self.exists():
            await self.gateway.require("update_filter", "a migration (its records are written by compare-and-set)")
            try:
                await self.gateway.create_collection(self.collection, {"vectors": {}, **await self._placement()})
            except AlreadyExists:
                if not await self.exists():
                    raise
            for field in ("kind", "migration_id"):
                await self.gateway.create_payload_index(self.collection, field, {"data_type": "keyword"})
        if (await self.gateway.describe(self.collection)).fields:
            raise AlreadyExists(
                f"Nothing was changed: the ledger's name {self.collection!r} is taken by a collection that holds vectors. Choose another name with QDRANT_MIGRATION_LEDGER."
            )

    async def _placement(self) -> Json:
        """Shard and replicas of a new ledger; nothing to say outside a cluster."""
        if not (await self.gateway.facts()).is_cluster:
            return {}
        replicas = min(MOST_REPLICAS, await self.gateway.shards.peers())
        return {"shard_number": 1, "replication_factor": replicas, "write_consistency_factor": replicas // 2 + 1}

    # --- migrations

    async def migrations(self) -> list[Migration]:
        """All migrations, oldest first; none without a ledger."""
        if not await self.exists():
            return []
        found = [Migration.model_validate(body) for body in await self._scan("migration", None)]
        return sorted(found, key=lambda m: (m.created_at, m.id))

    async def migration(self, migration_id: str) -> Migration:
        """One migration.

        Raises:
            NotFound: unknown; the open ones are listed.
        """
        if not await self.exists():
            raise NotFound(self._no_ledger(f"Nothing was changed: there is no migration {migration_id!r} here"))
        body = (await self._read("migration", migration_id, "")).body
        if body is None:
            open_ones = [m for m in await self.migrations() if m.is_open]
            listed = "; ".join(f"{m.id} ({m.route}, {m.phase.value})" for m in open_ones[:5])
            raise NotFound(f"Nothing was changed: there is no migration {migration_id!r}. Open migrations: {listed or 'none'}.")
        return Migration.model_validate(body)

    def _no_ledger(self, effect: str) -> str:
        return (
            f"{effect}: the ledger, collection {self.collection!r}, does not exist. Either no migration was ever begun on connection "
            f"{self.gateway.connection.name!r} with this QDRANT_MIGRATION_LEDGER, or somebody deleted it, and with it what was known of its migrations. "
            "Sources are untouched and targets hold what was copied: restore the ledger from a snapshot, or delete the unfinished target and call "
            "create_target anew."
        )

    async def explained(self, error: MigrationError) -> MigrationError:
        """The error, or that the whole ledger is gone where that is behind it."""
        if not isinstance(error, NotFound):
            return error
        try:
            is_there = await self.exists()
        except MigrationError:
            return error
        return error if is_there else NotFound(self._no_ledger("The migration cannot be worked any more"))

    async def add_migration(self, migration: Migration) -> bool:
        """Record a new migration; False when one of its id exists."""
        return await self._insert("migration", migration.id, "", migration)

    async def change(self, migration_id: str, change: Callable[[Migration], Migration]) -> Migration:
        """Read, change, write by compare-and-set; repeated while others write in between."""
        return await self._change("migration", migration_id, "", Migration, change)

    # --- ranges

    async def ranges(self, migration_id: str) -> list[Range]:
        return sorted((Range.model_validate(b) for b in await self._scan("range", migration_id)), key=lambda r: r.number)

    async def add_range(self, migration_id: str, drawn: Range) -> bool:
        return await self._insert("range", migration_id, str(drawn.number), drawn)

    async def save_range(self, migration_id: str, drawn: Range) -> None:
        """Store a checkpoint. Only the lease holder does; it never goes backwards."""
        await self._write("range", migration_id, str(drawn.number), drawn)

    # --- our own operations on the target

    async def own(self, migration_id: str) -> OwnRecord:
        body = (await self._read("own", migration_id, "")).body
        return OwnRecord() if body is None else OwnRecord.model_validate(body)

    async def save_own(self, migration_id: str, own: OwnRecord) -> None:
        """Only the lease holder does."""
        await self._write("own", migration_id, "", own)

    # --- pace, lease

    async def pace(self, migration_id: str) -> Pace:
        body = (await self._read("pace", migration_id, "")).body
        return Pace() if body is None else Pace.model_validate(body)

    async def save_pace(self, migration_id: str, pace: Pace) -> None:
        await self._write("pace", migration_id, "", pace)

    async def lease(self, migration_id: str) -> tuple[int, Lease]:
        """(revision, lease); revision 0 when none was ever taken."""
        found = await self._read("lease", migration_id, "")
        return found.revision, Lease() if found.body is None else Lease.model_validate(found.body)

    async def set_lease(self, migration_id: str, expected_revision: int, lease: Lease) -> bool:
        """Compare-and-set of the lease; False when somebody else was first."""
        if expected_revision == 0:
            return await self._insert("lease", migration_id, "", lease)
        return await self._set("lease", migration_id, "", lease, _Stored(revision=expected_revision))

    # --- operations

    async def request(self, migration_id: str, operation: Operation) -> Operation:
        """Record an operation, or give back the one recorded under the key whose outcome nobody was given yet."""

        def renew(found: Operation) -> Operation:
            is_over = found.state in ("done", "failed")
            return operation if is_over and (found.is_delivered or self._age_s(found.finished_at) > STALE_S) else found

        if await self._insert("operation", migration_id, operation.key, operation):
            return operation
        return await self._change("operation", migration_id, operation.key, Operation, renew)

    async def deliver(self, migration_id: str, key: str) -> None:
        """Note that a caller was given the outcome."""
        await self._change("operation", migration_id, key, Operation, lambda o: o.model_copy(update={"is_delivered": True}))

    async def operation(self, migration_id: str, key: str) -> Operation | None:
        body = (await self._read("operation", migration_id, key)).body
        return None if body is None else Operation.model_validate(body)

    async def operations(self, migration_id: str) -> list[Operation]:
        return sorted(
            (Operation.model_validate(b) for b in await self._scan("operation", migration_id)), key=lambda o: (o.requested_at, o.key)
        )

    async def save_operation(self, migration_id: str, operation: Operation) -> None:
        await self._write("operation", migration_id, operation.key, operation)

    # --- plans

    async def add_plan(self, migration_id: str, plan: PlanRecord) -> bool:
        """Keep a new plan; False when its code is taken."""
        return await self._insert("plan", migration_id, plan.code, plan)

    async def plans(self, migration_id: str) -> list[PlanRecord]:
        return [PlanRecord.model_validate(body) for body in await self._scan("plan", migration_id)]

    async def renew_plan(self, migration_id: str, code: str, expires_at: float) -> bool:
        """A plan that is shown again lasts from then on; False when it was carried out meanwhile."""
        renewed = await self._change(
            "plan", migration_id, code, PlanRecord, lambda p: p if p.is_used else p.model_copy(update={"expires_at": expires_at})
        )
        return not renewed.is_used

    async def count_wrong_code(self, migration_id: str) -> None:
        """Note at every open plan of the migration that a code was passed which nobody issued."""

        def counted(plan: PlanRecord) -> PlanRecord:
            return plan.model_copy(update={"wrong_codes": plan.wrong_codes + 1}) if is_open(plan) else plan

        def is_open(plan: PlanRecord) -> bool:
            return not plan.is_used and self.now().timestamp() <= plan.expires_at

        for plan in await self.plans(migration_id):
            if is_open(plan):
                await self._change("plan", migration_id, plan.code, PlanRecord, counted)

    async def plan(self, migration_id: str, code: str) -> PlanRecord | None:
        body = (await self._read("plan", migration_id, code)).body
        return None if body is None else PlanRecord.model_validate(body)

    async def use_plan(self, migration_id: str, code: str) -> bool:
        """Mark a plan as used, whoever else writes it meanwhile; False when it was used already, or there is none. One caller wins."""
        is_ours = False

        def used(plan: PlanRecord) -> PlanRecord:
            nonlocal is_ours
            is_ours = not plan.is_used
            return plan.model_copy(update={"is_used": True})

        try:
            await self._change("plan", migration_id, code, PlanRecord, used)
        except NotFound:
            return False
        return is_ours

    # --- events, accounted points

    async def add_event(self, migration_id: str, event: EventRecord) -> None:
        await self._insert("event", migration_id, f"{event.at}-{uuid.uuid4().hex[:8]}", event)

    async def events(self, migration_id: str) -> list[EventRecord]:
        return sorted((EventRecord.model_validate(b) for b in await self._scan("event", migration_id)), key=lambda e: e.at)

    async def add_failed(self, migration_id: str, failed: list[FailedRecord]) -> None:
        """Account for points; a repetition changes nothing."""
        for start in range(0, len(failed), PAGE):
            page = [self._point("failed", migration_id, f.point_id, f, 1) for f in failed[start : start + PAGE]]
            await self._call(lambda page=page: self._call.rest.upsert(self.collection, [struct(p) for p in page], wait=True))  # type: ignore[misc]

    async def failed(self, migration_id: str) -> list[FailedRecord]:
        return sorted((FailedRecord.model_validate(b) for b in await self._scan("failed", migration_id)), key=lambda f: f.point_id)

    async def remove_failed(self, migration_id: str, point_ids: list[str]) -> None:
        """Points that are in order now are no longer accounted for."""
        ids: list[PointId] = [self._id("failed", migration_id, p) for p in point_ids]
        if ids:
            await self._call(
                lambda: self._call.rest.delete(self.collection, points_selector=models.PointIdsList(points=list(ids)), wait=True)
            )

    # --- evidence: comparisons on a sample, made before there is a migration

    async def save_evidence(self, collection: str, evidence: Evidence) -> None:
        """Keep what a comparison of two models on a sample of a collection found; the last one counts."""
        await self._write("evidence", collection, f"{evidence.baseline}\n{evidence.candidate}", evidence)

    async def evidence(self, collection: str, baseline: str, candidate: str) -> Evidence | None:
        if not await self.exists():
            return None
        body = (await self._read("evidence", collection, f"{baseline}\n{candidate}")).body
        return None if body is None else Evidence.model_validate(body)

    # --- linear maps

    async def save_held_out(self, migration_id: str, point_ids: list[str]) -> None:
        """Keep which points a map was judged on, so that the judgement can be repeated by others."""
        await self._write("held_out", migration_id, "", HeldOut(point_ids=tuple(point_ids)))

    async def held_out(self, migration_id: str) -> list[str]:
        body = (await self._read("held_out", migration_id, "")).body
        return [] if body is None else list(HeldOut.model_validate(body).point_ids)

    async def save_map(self, migration_id: str, found: LinearMap) -> None:
        """Keep a map in parts; it is there once its index is written. Another one kept before stays whole until then."""
        index, parts = disassembled(found)
        for number, part in enumerate(parts):
            await self._write("map_part", migration_id, f"{index.digest}-{number}", part)
        await self._write("map", migration_id, "", index)

    async def load_map(self, migration_id: str) -> LinearMap | None:
        """The map that was kept, or None: there is none, or it was not written to the end.

        Raises:
            MigrationError: it was whole and no longer is.
        """
        body = (await self._read("map", migration_id, "")).body
        if body is None:
            return None
        index = MapIndex.model_validate(body)
        # One by one: together they may exceed what a request may hold.
        bodies = [(await self._read("map_part", migration_id, f"{index.digest}-{number}")).body for number in range(index.parts)]
        return assembled(index, [None if b is None else MapPart.model_validate(b) for b in bodies])

    # --- records

    def _id(self, kind: str, migration_id: str, key: str) -> str:
        return str(uuid.uuid5(NAMESPACE, f"{kind}\n{migration_id}\n{key}"))

    def _point(self, kind: str, migration_id: str, key: str, record: BaseModel, revision: int, nonces: tuple[str, ...] = ()) -> Point:
        body = record.model_dump(mode="json")
        payload = {"kind": kind, "migration_id": migration_id, "key": key, "revision": revision, "nonces": list(nonces), "body": body}
        return Point(id=self._id(kind, migration_id, key), payload=payload)

    async def _read(self, kind: str, migration_id: str, key: str) -> _Stored:
        point_id = self._id(kind, migration_id, key)
        found = (await self.gateway.points.retrieve(self.collection, [point_id])).get(point_id)
        if found is None:
            return _Stored()
        return _Stored(revision=int(found.payload["revision"]), body=found.payload["body"], nonces=tuple(found.payload["nonces"]))

    async def _scan(self, kind: str, migration_id: str | None) -> list[Json]:
        must: list[models.Condition] = [models.FieldCondition(key="kind", match=models.MatchValue(value=kind))]
        if migration_id is not None:
            must.append(models.FieldCondition(key="migration_id", match=models.MatchValue(value=migration_id)))
        found: list[Json] = []
        offset: Any = None
        while True:
            records, offset = await self._call(
                lambda offset=offset: self._call.rest.scroll(  # type: ignore[misc]
                    self.collection, scroll_filter=models.Filter(must=must), offset=offset, limit=PAGE, with_payload=["body"]
                )
            )
            found.extend(r.payload["body"] for r in records if r.payload)
            if offset is None:
                return found

    async def _insert(self, kind: str, migration_id: str, key: str, record: BaseModel) -> bool:
        nonce = uuid.uuid4().hex
        point = self._point(kind, migration_id, key, record, 1, (nonce,))
        return await self._put(point, nonce, never())

    async def _set(self, kind: str, migration_id: str, key: str, record: BaseModel, before: _Stored) -> bool:
        nonce = uuid.uuid4().hex
        point = self._point(kind, migration_id, key, record, before.revision + 1, (nonce, *before.nonces)[:NONCES])
        same = models.FieldCondition(key="revision", match=models.MatchValue(value=before.revision))
        return await self._put(point, nonce, models.Filter(must=[same]))

    async def _put(self, point: Point, nonce: str, guard: models.Filter) -> bool:
        await self._call(
            lambda: self._call.rest.upsert(
                # `strong` would rest on one peer alone: with that one down nothing could be written.
                self.collection,
                [struct(point)],
                wait=True,
                update_filter=guard,
                ordering=models.WriteOrdering.MEDIUM,
            )
        )
        if not (await self.gateway.facts()).is_cluster:
            found = (await self.gateway.points.retrieve(self.collection, [point.id])).get(point.id)
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
                    self.collection, [point_id], with_payload=True, consistency=models.ReadConsistencyType.QUORUM
                )
            )
            if found and found[0].payload:
                return found[0].payload
            await anyio.sleep(AGREE_EVERY_S)
        raise ConnectionFailed(
            f"The replicas of the ledger {self.collection!r} do not agree at the moment, so that it cannot be told whether a record was written. "
            "A peer of the cluster was probably restarted and is being brought up to date; try again in a moment."
        )

    async def _write(self, kind: str, migration_id: str, key: str, record: BaseModel) -> None:
        """Write whatever is there: for records with one writer at a time."""
        for _ in range(20):
            found = await self._read(kind, migration_id, key)
            if found.body is None:
                if await self._insert(kind, migration_id, key, record):
                    return
            elif await self._set(kind, migration_id, key, record, found):
                return
        raise Contended(f"The ledger's {kind} of {migration_id} is being written by others; try again.")

    async def _change(self, kind: str, migration_id: str, key: str, record: type[R], change: Callable[[R], R]) -> R:
        for attempt in range(20):
            found = await self._read(kind, migration_id, key)
            if found.body is None:
                raise NotFound(f"The ledger holds no {kind} of migration {migration_id!r} any more.")
            before = record.model_validate(found.body)
            after = change(before)
            if after == before or await self._set(kind, migration_id, key, after, found):
                return after
            await anyio.sleep(0.02 * (attempt + 1))
        raise Contended(f"The ledger's {kind} of {migration_id} is being written by others; try again.")

    def _age_s(self, at: str | None) -> float:
        return (self.now() - datetime.fromisoformat(at)).total_seconds() if at else 0.0
