"""Is anything lost while an app goes on writing to the old server, before and after the swap to the new one?"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import pytest
from qdrant_client import QdrantClient, models

from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.domain.phases import Phase
from qdrant_model_migration.domain.points import Point
from qdrant_model_migration.operations.context import OperationContext
from qdrant_model_migration.operations.finish import plan_finish
from qdrant_model_migration.operations.swap_plan import plan_swap
from tests.qdrant.elsewhere import FAR, Move, connections, held, moved, opened
from tests.qdrant.seeds import NEW, OLD, seed, text
from tests.servers import QdrantServer, delete_collections

pytestmark = pytest.mark.timeout(300)

POINTS = 400
OLD_VECTOR = [0.1] * 64


class App:
    """Writes to the old server as an app does that knows nothing of the migration."""

    def __init__(self, context: OperationContext, collection: str) -> None:
        self._context = context
        self._collection = collection
        self._random = random.Random(11)
        self._next = 10_000
        self.deletes = True
        self.writes = 0
        self.pause_s = 0.02
        self._may_write = anyio.Event()
        self._may_write.set()

    def rest(self) -> None:
        """No write until `go_on`."""
        self._may_write = anyio.Event()

    def go_on(self) -> None:
        self._may_write.set()

    async def until_written(self, writes: int) -> None:
        """So many more writes."""
        goal = self.writes + writes
        with anyio.fail_after(60):
            while self.writes < goal:  # noqa: ASYNC110 - a counter, and the app's own pace
                await anyio.sleep(0.05)

    async def write(self) -> None:
        points = (await self._context.gateway()).points
        kind = self._random.choice(["new", "edit", "delete"] if self.deletes else ["new", "edit"])
        if kind == "delete":
            await points.delete_if(self._collection, self._random.randrange(POINTS), observed={})
        else:
            self._next += 1
            point_id = self._next if kind == "new" else self._random.randrange(POINTS // 2, POINTS)
            payload = {"text": text(self._random.randrange(5_000)), "n": self._next}
            await points.write(self._collection, [Point(id=point_id, payload=payload, vectors={"": OLD_VECTOR})])
        self.writes += 1

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async def go_on() -> None:
            while True:
                await self._may_write.wait()
                await self.write()
                await anyio.sleep(self.pause_s)

        async with anyio.create_task_group() as group:
            group.start_soon(go_on)
            yield
            group.cancel_scope.cancel()


async def differing(move: Move, near_name: str) -> list[str]:
    """Ids that are not on both sides with the same payload, or whose vector is not the new model's of their text."""
    near, far = await move.context.gateway(), await move.context.gateway(FAR)
    sources, targets = await held(near, near_name), await held(far, move.made.target.collection, "")
    found = [f"{i} on one side only" for i in sources.keys() ^ targets.keys()]
    both = [i for i in sources if i in targets]
    rows = await (await move.context.catalogue.load(NEW)).embed([sources[i].payload["text"] for i in both], Side.DOCUMENT)
    for row, i in zip(rows, both, strict=True):
        vector = targets[i].vectors.get("")
        if targets[i].payload != sources[i].payload:
            found.append(f"{i} payload")
        elif vector is None or sum(a * b for a, b in zip(vector, row, strict=True)) < 0.9999 * float((row @ row) ** 0.5):
            found.append(f"{i} vector")
    return found


async def test_late_writes_follow_until_every_writer_has_moved(
    server_1_16: QdrantServer, server_1_17: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the swap the old release still writes to the old server, the new one to the new server; each write is found there in the end."""
    async with opened(connections(server_1_16, server_1_17, name), monkeypatch) as context:
        await seed(context, name, points=POINTS)
        await (await context.gateway()).point_alias(f"{name}-live", name)
        move = await moved(context, name, "new_collection", model=NEW, current_model=OLD, writes="live")
        app = App(context, name)
        async with app.running():
            await move.backfilled()
            await app.until_written(60)
            # At this pace a verification cannot but see a write of its own second; what it finds is repaired while the app goes on.
            await move.done("repair", provenance_sample=30)
            app.rest()
            outcome = await move.done("repair", provenance_sample=30)
            found = outcome["verification"]
            assert found["is_complete"], found["problems"]
            assert (found["missing"], found["extra"], found["changed"]) == (0, 0, 0)
            assert await differing(move, name) == []
            app.pause_s = 0.1
            app.go_on()
            plan = await plan_swap(context, await context.ledger(FAR), await move.now(), "forward", None)
            assert any("is carried over while the worker runs" in line for line in plan.breaks)
            app.deletes = False
            await move.swapped(plan.code)
            # The new release writes through the alias on the new server.
            far = await context.gateway(FAR)
            fresh = await (await context.catalogue.load(NEW)).embed(["written on the new server"], Side.DOCUMENT)
            payload = {"text": "written on the new server", "n": -1}
            await far.points.write(f"{name}-live", [Point(id=i, payload=payload, vectors={"": fresh[0].tolist()}) for i in (1, 99_999)])
            await app.until_written(80)
        assert app.writes > 200
        with anyio.fail_after(60):
            while set(await differing(move, name)) != {"1 payload", "99999 on one side only"}:
                # Its looks are some seconds apart.
                await context.ensure_driver(await move.now())
                await anyio.sleep(0.5)
        events = [e.text for e in await (await context.ledger(FAR)).events(move.id) if e.event == "swept"]
        assert events
        code = (await plan_finish(context, await move.now(), "keep_old", snapshot_first=False)).code
        await move.done("finish", action="keep_old", snapshot_first=False, code=code)
        assert (await move.now()).phase is Phase.FINISHED
        assert set(await differing(move, name)) == {"1 payload", "99999 on one side only"}
    for server in (server_1_16, server_1_17):
        delete_collections(server.url, name)


async def test_the_dual_write_snippet_writes_to_both_servers(
    server_1_16: QdrantServer, server_1_17: QdrantServer, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client of each; nothing is left for the catch-up to do, and a new server that is away never fails the app's request."""
    async with opened(connections(server_1_16, server_1_17, name), monkeypatch) as context:
        await seed(context, name, points=30)
        move = await moved(context, name, "new_collection", model=NEW, writes="dual_write", alias=f"{name}-live")
        assert any("No writer connects there before the swap, except by the dual-write snippet" in line for line in move.made.app_changes)
        model = await context.catalogue.load(NEW)
        drawn = {t: v.tolist() for t, v in zip(_TEXTS, await model.embed(_TEXTS, Side.DOCUMENT), strict=True)}
        space: dict[str, object] = {}
        exec(move.made.dual_write_snippet, space)  # noqa: S102 - what a person would paste
        writer_class = space["DualWriter"]
        assert callable(writer_class)
        with_both = {
            "source": QdrantClient(url=server_1_16.url, check_compatibility=False),
            "target": QdrantClient(url=server_1_17.url, check_compatibility=False),
        }
        try:
            writer = writer_class(**with_both, embed_documents=lambda texts: [drawn[t] for t in texts])
            await move.backfilled()
            writer.upsert([models.PointStruct(id=500, vector=OLD_VECTOR, payload={"text": _TEXTS[0], "n": 500})])
            writer.set_payload({"text": _TEXTS[1]}, [3])
            writer.delete([4])
            assert await differing(move, name) == []
            away = QdrantClient(url="http://127.0.0.1:9", check_compatibility=False)
            late = writer_class(source=with_both["source"], target=away, embed_documents=lambda texts: [drawn[t] for t in texts])
            late.upsert([models.PointStruct(id=501, vector=OLD_VECTOR, payload={"text": _TEXTS[0], "n": 501})])
            assert await differing(move, name) == ["501 on one side only"]
        finally:
            for client in with_both.values():
                client.close()
        assert (await move.verified()).is_complete
        assert await differing(move, name) == []
    for server in (server_1_16, server_1_17):
        delete_collections(server.url, name)


_TEXTS = ["a text that both get", "a text that changed"]
