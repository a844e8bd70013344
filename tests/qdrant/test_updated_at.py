"""Do passes by `updated_at` find what changed, leave the rest to the full ones, and is nothing ever proven by them?"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from qdrant_model_migration.domain.catch_up import has_converged
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.domain.points import Payload, Point, PointId
from qdrant_model_migration.domain.updated_at import FULL_EVERY_S, UpdatedAt
from qdrant_model_migration.errors import Refused
from qdrant_model_migration.operations.changed import Passes
from qdrant_model_migration.operations.create_target import Request, create_target
from qdrant_model_migration.operations.work import Work, open_work
from tests.conftest import Backend
from tests.qdrant import cutovers
from tests.qdrant.cutovers import OLD_VECTOR, backend_of, backfilled, impatient
from tests.qdrant.seeds import NEW, opened, seed, text
from tests.qdrant.test_side_by_side import driven, started
from tests.qdrant.works import held
from tests.servers import QdrantServer

POINTS = 600
LONG_AGO = 1_700_000_000
UNITS: dict[str, tuple[str, Any]] = {
    "datetime": ("datetime", lambda s: datetime.fromtimestamp(s, UTC).isoformat()),
    "s": ("integer", int),
    "ns": ("integer", lambda s: int(s * 1_000_000_000)),
}


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    impatient(monkeypatch)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def read_ids(work: Work, monkeypatch: pytest.MonkeyPatch) -> list[PointId]:
    """Every point of the target whose content a pass looks at from now on; "all" for a scroll."""
    found: list[PointId] = []
    retrieve, scroll, target = work.target.points.retrieve, work.target.points.scroll, work.migration.target.collection

    async def noting(collection: str, ids: Any, **options: Any) -> Any:
        found.extend(ids if collection == target else [])
        return await retrieve(collection, ids, **options)

    async def noting_all(collection: str, **options: Any) -> Any:
        found.append("all")
        return await scroll(collection, **options)

    monkeypatch.setattr(work.target.points, "retrieve", noting)
    monkeypatch.setattr(work.target.points, "scroll", noting_all)
    return found


@pytest.mark.parametrize("unit", UNITS)
async def test_between_full_passes_only_what_tells_a_late_time_is_read(
    server: QdrantServer, name: str, unit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    kind, stamp = UNITS[unit]
    told = UpdatedAt(field="meta.at", unit=unit)  # type: ignore[arg-type]

    def payload(n: int, at: float = LONG_AGO) -> Payload:
        return {"text": text(n), "n": n, "meta": {"at": stamp(at)}}

    async with opened(backend_of(server, name), monkeypatch) as context:
        work = await backfilled(context, name, seeded={"points": POINTS, "payload": payload}, updated_at=told)
        source = work.migration.source.collection
        await work.source.create_payload_index(source, "meta.at", {"data_type": kind})

        async def write(n: int, at: float) -> None:
            changed = {**payload(n, at), "text": f"written {n} {at}"}
            await work.source.points.write(source, [Point(id=n, payload=changed, vectors={"": OLD_VECTOR})])

        clock = Clock()
        passes = Passes(clock)
        await write(1, LONG_AGO + 100)
        lag, repaired = await passes.next(work)
        assert (lag.is_full, lag.changed, repaired.changed) == (True, 1, 1)
        # A later time, one within the slack, one that is not told, and a delete.
        await write(2, LONG_AGO + 200)
        await write(900, LONG_AGO + 60)
        await write(3, LONG_AGO + 20)
        await cutovers.delete(work, 4)
        with monkeypatch.context() as patch:
            read = read_ids(work, patch)
            lag, repaired = await passes.next(work)
        assert (lag.is_full, lag.missing, lag.changed, lag.extra) == (False, 1, 1, 0)
        assert (repaired.missing, repaired.changed) == (1, 1)
        assert set(read) == {1, 2, 900}
        # Point 3 states an earlier time, and deletes leave nothing to be read: the full pass is due ten minutes after the last one.
        clock.now += FULL_EVERY_S - 1
        assert (await passes.next(work))[0].is_full is False
        clock.now += 1
        lag, _ = await passes.next(work)
        assert (lag.is_full, lag.changed, lag.extra) == (True, 1, 1)
        assert has_converged([0, lag.missing], POINTS, is_frozen=False)
        targets = await held(work)
        sources, _ = await work.source.points.scroll(source, offset=None, limit=1000)
        assert {i: p.payload for i, p in targets.items()} == {p.id: p.payload for p in sources}


async def test_a_verification_reads_everything_whatever_the_times_say(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A write that does not tell its time, and a delete: found and carried over before anything is proven."""
    told = UpdatedAt(field="at", unit="s")
    async with opened(backend_of(server, name), monkeypatch) as context:
        seeded = {"points": POINTS, "payload": lambda n: {"text": text(n), "at": LONG_AGO + n}}
        work = await backfilled(context, name, seeded=seeded, updated_at=told, writes="frozen")
        source = work.migration.source.collection
        await work.source.create_payload_index(source, "at", {"data_type": "integer"})
        await Passes().next(work)
        await work.source.call(lambda: work.source.call.rest.set_payload(source, {"text": "untold"}, points=[3], wait=True))
        await cutovers.delete(work, 4)
        found = await cutovers.verify(work)
        assert (found.is_complete, found.changed, found.extra) == (False, 1, 1)


async def test_one_point_of_the_far_future_does_not_hide_the_others(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = UpdatedAt(field="at", unit="s")
    here = datetime.now(UTC).timestamp()
    async with opened(backend_of(server, name), monkeypatch) as context:
        seeded = {"points": 40, "payload": lambda n: {"text": text(n), "at": 4_000_000_000 if n == 7 else int(here) - 1000}}
        work = await backfilled(context, name, seeded=seeded, updated_at=told)
        source = work.migration.source.collection
        await work.source.create_payload_index(source, "at", {"data_type": "integer"})
        passes = Passes()
        await passes.next(work)
        await work.source.points.write(source, [Point(id=3, payload={"text": "late", "at": int(here) + 1}, vectors={"": OLD_VECTOR})])
        lag, _ = await passes.next(work)
        assert (lag.is_full, lag.changed) == (False, 1)


async def test_a_migration_by_updated_at_ends_its_backfill_with_a_full_pass(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From create_target on; the app is told what such passes do not see."""
    async with opened(backend_of(server, name), monkeypatch) as context:
        await seed(context, name, points=POINTS, payload=lambda n: {"text": text(n), "at": LONG_AGO + n})
        gateway = await context.gateway()
        await gateway.create_payload_index(name, "at", {"data_type": "integer"})
        request = Request(collection=name, strategy="new_collection", model=NEW, text_field="text", updated_at_field="at")
        made = await create_target(context, request)
        assert any("Writes set 'at' to their time" in line and "Deletes" in line for line in made.app_changes)
        full: list[bool] = []
        real = Passes.next

        async def writing(self: Passes, work: Work, *, is_full: bool = False) -> Any:
            # What is written and deleted during each of the first passes.
            number = len(full)
            if number < 3:
                late = {"text": f"late {number}", "at": LONG_AGO + 10_000 + number}
                await work.source.points.write(name, [Point(id=5000 + number, payload=late, vectors={"": [0.1] * 64})])
                await work.source.points.delete_if(name, number, observed={})
            found = await real(self, work, is_full=is_full)
            full.append(found[0].is_full)
            return found

        monkeypatch.setattr(Passes, "next", writing)
        work = await open_work(context, await (await context.ledger()).migration(made.migration_id), lambda: None)
        await started(work)
        await driven(work)
        migration = work.migration
        assert migration.phase is Phase.BACKFILLED, migration.error
        assert migration.lag is not None
        assert migration.lag.is_full
        assert full[:2] == [True, False]
        assert (len(full) > 2, full[-1]) == (True, True)
        targets, _ = await gateway.points.ids(migration.target.collection, offset=None, limit=2000)
        sources, _ = await gateway.points.ids(name, offset=None, limit=2000)
        assert targets == sources


async def test_without_its_index_passes_read_everything_until_it_is_back(
    server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Somebody drops it while the migration runs, or the server builds it anew: nothing fails, and nothing is missed."""
    told = UpdatedAt(field="at", unit="s")
    async with opened(backend_of(server, name), monkeypatch) as context:
        seeded = {"points": 40, "payload": lambda n: {"text": text(n), "at": LONG_AGO + n}}
        work = await backfilled(context, name, seeded=seeded, updated_at=told)
        source = work.migration.source.collection

        async def late(n: int) -> None:
            await work.source.points.write(
                source, [Point(id=n, payload={"text": "late", "at": LONG_AGO + 1000 * n}, vectors={"": OLD_VECTOR})]
            )

        passes = Passes()
        found: list[tuple[bool, int]] = []
        for number, step in enumerate(["none", "none", "there", "there", "dropped", "there"], start=1):
            if step == "there":
                await work.source.create_payload_index(source, "at", {"data_type": "integer"})
            elif step == "dropped":
                await work.source.call(lambda: work.source.call.rest.delete_payload_index(source, "at", wait=True))
            await late(number)
            lag, _ = await passes.next(work)
            found.append((lag.is_full, lag.changed))
        assert [changed for _, changed in found] == [1] * 6
        assert [is_full for is_full, _ in found] == [True, True, True, False, True, True]


@pytest.mark.parametrize(
    ("index", "payload", "why"),
    [
        (None, lambda n: {"at": LONG_AGO + n}, "'at' of .* has no payload index"),
        ("keyword", lambda n: {"at": "2026-01-01"}, "indexed as 'keyword'"),
        ("integer", lambda n: {"at": n}, "a counter of revisions tells no time"),
    ],
)
async def test_a_field_that_tells_no_time_is_refused_before_anything_is_created(
    server_1_17: QdrantServer, name: str, index: str | None, payload: Any, why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(backend_of(server_1_17, name), monkeypatch) as context:
        await seed(context, name, payload=lambda n: {"text": text(n), **payload(n)})
        gateway = await context.gateway()
        if index is not None:
            await gateway.create_payload_index(name, "at", {"data_type": index})
        request = Request(collection=name, strategy="new_collection", model=NEW, text_field="text", updated_at_field="at")
        with pytest.raises(Refused, match=why):
            await create_target(context, request)
        assert await (await context.ledger()).migrations() == []


async def test_an_index_that_does_not_order_is_refused(server: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async with opened(backend_of(server, name), monkeypatch) as context:
        await seed(context, name, payload=lambda n: {"text": text(n), "at": LONG_AGO + n})
        gateway = await context.gateway()
        await gateway.create_payload_index(name, "at", {"params": {"type": "integer", "lookup": True, "range": False}})
        request = Request(collection=name, strategy="new_collection", model=NEW, text_field="text", updated_at_field="at")
        with pytest.raises(Refused, match="the index of 'at' does not order points by it"):
            await create_target(context, request)


async def test_the_embedded_database_has_no_index_to_read_by(name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = {"QDRANT_PATH": str(tmp_path / "qdrant"), "QDRANT_MIGRATION_LEDGER": f"_{name}_migrations"}
    async with opened(Backend(name="embedded", environment=environment, version=None), monkeypatch) as context:
        await seed(context, name, payload=lambda n: {"text": text(n), "at": LONG_AGO + n})
        request = Request(collection=name, strategy="new_collection", model=NEW, text_field="text", updated_at_field="at")
        with pytest.raises(Refused, match="has no payload index"):
            await create_target(context, request)
