"""Where is a migration recorded? In a small payload-only collection beside its target; every change is compare-and-set.

In a cluster the ledger is one shard of up to three replicas. With three peers it outlives any one of them. With two it needs both, as do
aliases and new collections; with one down, nothing is lost and migrations wait.
Needs Qdrant >= 1.15.4 (`update_filter`).
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import datetime

from qdrant_model_migration.domain.collection import Json
from qdrant_model_migration.domain.linear_map import LinearMap
from qdrant_model_migration.domain.map_records import MapIndex, MapPart, assembled, disassembled
from qdrant_model_migration.domain.migration import Migration
from qdrant_model_migration.domain.own_operations import OwnRecord
from qdrant_model_migration.domain.ranges import Range
from qdrant_model_migration.domain.records import EventRecord, Evidence, FailedRecord, HeldOut, Lease, Operation, Pace, PlanRecord
from qdrant_model_migration.domain.throughput import ThroughputRecord
from qdrant_model_migration.errors import AlreadyExists, MigrationError, NotFound
from qdrant_model_migration.qdrant.gateway import Gateway
from qdrant_model_migration.qdrant.records import Records, Stored

STALE_S = 600.0
"""An outcome that nobody fetched for so long is not given out as fresh."""
MOST_REPLICAS = 3


class Ledger:
    """The records of one Qdrant's migrations."""

    def __init__(self, gateway: Gateway, collection: str) -> None:
        self.gateway = gateway
        self.collection = collection
        self.records = Records(gateway, collection)

    def now(self) -> datetime:
        """What is decided by time goes by the clock of the Qdrant that keeps the ledger: it is the same for a host and its worker elsewhere."""
        return self.gateway.call.clock.now()

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
        found = await self.records.scan("migration", None, Migration)
        return sorted(found, key=lambda m: (m.created_at, m.id))

    async def migration(self, migration_id: str) -> Migration:
        """One migration.

        Raises:
            NotFound: unknown; the open ones are listed.
        """
        if not await self.exists():
            raise NotFound(self._no_ledger(f"Nothing was changed: there is no migration {migration_id!r} here"))
        found = await self.records.get("migration", migration_id, "", Migration)
        if found is None:
            open_ones = [m for m in await self.migrations() if m.is_open]
            listed = "; ".join(f"{m.id} ({m.route}, {m.phase.value})" for m in open_ones[:5])
            raise NotFound(f"Nothing was changed: there is no migration {migration_id!r}. Open migrations: {listed or 'none'}.")
        return found

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
        return await self.records.insert("migration", migration.id, "", migration)

    async def change(self, migration_id: str, change: Callable[[Migration], Migration]) -> Migration:
        """Read, change, write by compare-and-set; repeated while others write in between."""
        return await self.records.change("migration", migration_id, "", Migration, change)

    # --- ranges

    async def ranges(self, migration_id: str) -> list[Range]:
        return sorted(await self.records.scan("range", migration_id, Range), key=lambda r: r.number)

    async def add_range(self, migration_id: str, drawn: Range) -> bool:
        return await self.records.insert("range", migration_id, str(drawn.number), drawn)

    async def save_range(self, migration_id: str, drawn: Range) -> None:
        """Store a checkpoint. Only the lease holder does; it never goes backwards."""
        await self.records.write("range", migration_id, str(drawn.number), drawn)

    # --- our own operations on the target

    async def own(self, migration_id: str) -> OwnRecord:
        return await self.records.get("own", migration_id, "", OwnRecord) or OwnRecord()

    async def save_own(self, migration_id: str, own: OwnRecord) -> None:
        """Only the lease holder does."""
        await self.records.write("own", migration_id, "", own)

    # --- throughput

    async def throughput(self, migration_id: str) -> ThroughputRecord:
        return await self.records.get("throughput", migration_id, "", ThroughputRecord) or ThroughputRecord()

    async def save_throughput(self, migration_id: str, throughput: ThroughputRecord) -> None:
        """Only the lease holder does."""
        await self.records.write("throughput", migration_id, "", throughput)

    # --- pace, lease

    async def pace(self, migration_id: str) -> Pace:
        return await self.records.get("pace", migration_id, "", Pace) or Pace()

    async def save_pace(self, migration_id: str, pace: Pace) -> None:
        await self.records.write("pace", migration_id, "", pace)

    async def lease(self, migration_id: str) -> tuple[int, Lease]:
        """(revision, lease); revision 0 when none was ever taken."""
        found = await self.records.read("lease", migration_id, "")
        return found.revision, Lease() if found.body is None else Lease.model_validate(found.body)

    async def set_lease(self, migration_id: str, expected_revision: int, lease: Lease) -> bool:
        """Compare-and-set of the lease; False when somebody else was first."""
        if expected_revision == 0:
            return await self.records.insert("lease", migration_id, "", lease)
        return await self.records.set("lease", migration_id, "", lease, Stored(revision=expected_revision))

    # --- operations

    async def request(self, migration_id: str, operation: Operation) -> Operation:
        """Record an operation, or give back the one recorded under the key whose outcome nobody was given yet."""

        def renew(found: Operation) -> Operation:
            is_over = found.state in ("done", "failed")
            return operation if is_over and (found.is_delivered or self._age_s(found.finished_at) > STALE_S) else found

        if await self.records.insert("operation", migration_id, operation.key, operation):
            return operation
        return await self.records.change("operation", migration_id, operation.key, Operation, renew)

    async def deliver(self, migration_id: str, key: str) -> None:
        """Note that a caller was given the outcome."""
        await self.records.change("operation", migration_id, key, Operation, lambda o: o.model_copy(update={"is_delivered": True}))

    async def operation(self, migration_id: str, key: str) -> Operation | None:
        return await self.records.get("operation", migration_id, key, Operation)

    async def operations(self, migration_id: str) -> list[Operation]:
        return sorted(await self.records.scan("operation", migration_id, Operation), key=lambda o: (o.requested_at, o.key))

    async def save_operation(self, migration_id: str, operation: Operation) -> None:
        await self.records.write("operation", migration_id, operation.key, operation)

    # --- plans

    async def add_plan(self, migration_id: str, plan: PlanRecord) -> bool:
        """Keep a new plan; False when its code is taken."""
        return await self.records.insert("plan", migration_id, plan.code, plan)

    async def plans(self, migration_id: str) -> list[PlanRecord]:
        return await self.records.scan("plan", migration_id, PlanRecord)

    async def renew_plan(self, migration_id: str, code: str, expires_at: float) -> bool:
        """A plan that is shown again lasts from then on; False when it was carried out meanwhile."""
        renewed = await self.records.change(
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
                await self.records.change("plan", migration_id, plan.code, PlanRecord, counted)

    async def plan(self, migration_id: str, code: str) -> PlanRecord | None:
        return await self.records.get("plan", migration_id, code, PlanRecord)

    async def use_plan(self, migration_id: str, code: str) -> bool:
        """Mark a plan as used, whoever else writes it meanwhile; False when it was used already, or there is none. One caller wins."""
        is_ours = False

        def used(plan: PlanRecord) -> PlanRecord:
            nonlocal is_ours
            is_ours = not plan.is_used
            return plan.model_copy(update={"is_used": True})

        try:
            await self.records.change("plan", migration_id, code, PlanRecord, used)
        except NotFound:
            return False
        return is_ours

    # --- events, accounted points

    async def add_event(self, migration_id: str, event: EventRecord) -> None:
        await self.records.insert("event", migration_id, f"{event.at}-{uuid.uuid4().hex[:8]}", event)

    async def events(self, migration_id: str) -> list[EventRecord]:
        return sorted(await self.records.scan("event", migration_id, EventRecord), key=lambda e: e.at)

    async def add_failed(self, migration_id: str, failed: list[FailedRecord]) -> None:
        """Account for points; a repetition changes nothing."""
        await self.records.put_all("failed", migration_id, {f.point_id: f for f in failed})

    async def failed(self, migration_id: str) -> list[FailedRecord]:
        return sorted(await self.records.scan("failed", migration_id, FailedRecord), key=lambda f: f.point_id)

    async def remove_failed(self, migration_id: str, point_ids: list[str]) -> None:
        """Points that are in order now are no longer accounted for."""
        await self.records.remove("failed", migration_id, point_ids)

    # --- evidence: comparisons on a sample, made before there is a migration

    async def save_evidence(self, collection: str, evidence: Evidence) -> None:
        """Keep what a comparison of two models on a sample of a collection found; the last one counts."""
        await self.records.write("evidence", collection, f"{evidence.baseline}\n{evidence.candidate}", evidence)

    async def evidence(self, collection: str, baseline: str, candidate: str) -> Evidence | None:
        if not await self.exists():
            return None
        return await self.records.get("evidence", collection, f"{baseline}\n{candidate}", Evidence)

    # --- linear maps

    async def save_held_out(self, migration_id: str, point_ids: list[str]) -> None:
        """Keep which points a map was judged on, so that the judgement can be repeated by others."""
        await self.records.write("held_out", migration_id, "", HeldOut(point_ids=tuple(point_ids)))

    async def held_out(self, migration_id: str) -> list[str]:
        found = await self.records.get("held_out", migration_id, "", HeldOut)
        return [] if found is None else list(found.point_ids)

    async def save_map(self, migration_id: str, found: LinearMap) -> None:
        """Keep a map in parts; it is there once its index is written. Another one kept before stays whole until then."""
        index, parts = disassembled(found)
        for number, part in enumerate(parts):
            await self.records.write("map_part", migration_id, f"{index.digest}-{number}", part)
        await self.records.write("map", migration_id, "", index)

    async def load_map(self, migration_id: str) -> LinearMap | None:
        """The map that was kept, or None: there is none, or it was not written to the end.

        Raises:
            MigrationError: it was whole and no longer is.
        """
        index = await self.records.get("map", migration_id, "", MapIndex)
        if index is None:
            return None
        # One by one: together they may exceed what a request may hold.
        parts = [await self.records.get("map_part", migration_id, f"{index.digest}-{number}", MapPart) for number in range(index.parts)]
        return assembled(index, parts)

    def _age_s(self, at: str | None) -> float:
        return (self.now() - datetime.fromisoformat(at)).total_seconds() if at else 0.0
