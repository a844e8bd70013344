"""Is no query failed and no point lost while a second model is added beside the first, under an app that changes one instance at a time?

384 to 1,152 dimensions, two readers that change at different times, one writer that never writes the new vector, two workers killed.
"""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import numpy.typing as npt
import pytest

from qdrant_model_migration.domain.model import Side
from qdrant_model_migration.environment import read_settings
from qdrant_model_migration.operations.context import OperationContext
from tests.conftest import Cranfield
from tests.faults import apps
from tests.faults.apps import Collection, Raw
from tests.faults.rolling import KINDS, PointId, Queries, Reader, Texts, Vector, Writer, differences, vectors_of
from tests.faults.scene import scene
from tests.mcp.hosts import Answer, Host, end_workers, hosted, until, workers
from tests.mcp.test_next_steps import Person
from tests.servers import QdrantServer
from tests.servers import request as rest

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

OLD, NEW = "minilm-l2", "minilm-1152"
POINTS = 450
PER_SECOND = 20
"""Of which one in six writes a point whole and drops its new vector: a busy machine must be able to fill faster than that."""
EDITS = 40
SAME = 0.97
"""Least cosine of two embeddings of one text by an int8 model, in batches of any size."""


@dataclass(frozen=True)
class Place:
    """The app's collection on a server, and what the models make of its texts and questions."""

    server: QdrantServer
    environment: dict[str, str]
    context: OperationContext
    source: Collection
    alias: Collection
    texts: Texts
    queries: Queries
    made: dict[str, npt.NDArray[np.float32]] = field(default_factory=dict)
    """The new model's vectors, by text."""

    async def embed(self, model: str, texts: list[str], side: Side = Side.DOCUMENT) -> list[Vector]:
        embedder = await self.context.catalogue.load(model)
        return [[float(x) for x in row] for row in await embedder.embed(texts, side)]

    async def stale(self, found: dict[PointId, Raw], field: str) -> set[PointId]:
        """Points whose new vector is not that of their text, as the test embeds it."""
        held = {i: (p["payload"]["title"], vectors_of(p)[field]) for i, p in found.items() if vectors_of(p).get(field)}
        texts = sorted({title for title, _ in held.values()} - self.made.keys())
        if texts:
            self.made.update(zip(texts, np.asarray(await self.embed(NEW, texts), dtype=np.float32), strict=True))
        cosines = {
            i: float(self.made[title] @ np.asarray(v)) / float(np.linalg.norm(self.made[title]) * np.linalg.norm(v))
            for i, (title, v) in held.items()
        }
        return {i for i, cosine in cosines.items() if cosine < SAME}


@asynccontextmanager
async def place(
    server: QdrantServer, name: str, models: str, cranfield: Cranfield, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Place]:
    environment = {
        **server.environment,
        "QDRANT_MIGRATION_LEDGER": f"_{name}_migrations",
        "QDRANT_MIGRATION_MODELS": models,
        "QDRANT_MIGRATION_LEASE_SECONDS": "6",
    }
    for variable, value in environment.items():
        monkeypatch.setenv(variable, value)
    titles = list(dict.fromkeys(d.title for d in cranfield.documents if d.title))[: 2 * POINTS]
    questions = list(cranfield.queries.values())[:12]
    async with OperationContext(read_settings()) as context:
        found = Place(
            server,
            environment,
            context,
            Collection(server, f"{name}-docs"),
            Collection(server, f"{name}-live"),
            Texts([], {}),
            Queries([], []),
        )
        found.texts.texts += titles
        found.texts.vectors.update(zip(titles, await found.embed(OLD, titles), strict=True))
        found.queries.old += await found.embed(OLD, questions, Side.QUERY)
        found.queries.new += await found.embed(NEW, questions, Side.QUERY)
        found.source.call("PUT", "", {"vectors": {"size": 384, "distance": "Cosine"}})
        action = {"create_alias": {"collection_name": found.source.name, "alias_name": found.alias.name}}
        rest(f"{server.url}/collections/aliases", method="POST", body={"actions": [action]})
        try:
            yield found
        finally:
            end_workers()


async def killed(when: Any, *, within_s: float = 90.0) -> None:
    """Kill the worker with SIGKILL once `when` holds; it must still be at work then."""
    await until(lambda: any(workers()) and when(), within_s=within_s)
    (pid, _), *others = workers()
    assert not others
    os.kill(pid, signal.SIGKILL)
    await until(lambda: not any(workers()))


def count(collection: Collection, body: Raw | None = None) -> int:
    return int(collection.call("POST", "/points/count", {"exact": True, **(body or {})})["count"])


def without(field: str) -> Raw:
    return {"filter": {"must_not": [{"has_vector": field}]}}


async def filled(host: Host, me: str, *, within_s: float = 200.0) -> Answer:
    """The status once it says that the new field is complete, as far as a writer leaves it so."""
    with anyio.fail_after(within_s):
        while True:
            status = await host.call("migration_status", migration_id=me, wait_seconds=10)
            assert status["error"] is None, status["error"]
            if not status["is_filling"]:
                return status


async def test_a_rolling_app_fails_no_query_and_loses_no_point_from_384_to_1152_dimensions(
    server: QdrantServer, name: str, asset_models: str, cranfield: Cranfield, monkeypatch: pytest.MonkeyPatch, home: Path
) -> None:
    """Copy (a worker killed), swap, fill (a worker killed), first reader, verify, repair, compare, second reader, finish."""
    person = Person(agrees_to={"swap_alias", "finish_migration"})
    asked = {
        "collection": f"{name}-live",
        "strategy": "side_by_side",
        "model": NEW,
        "current_model": OLD,
        "text_field": "title",
        "writes": "live",
        "readers": "rolling",
    }
    async with place(server, name, asset_models, cranfield, monkeypatch) as app:
        writer = Writer(app.alias, app.texts, seed=7, per_second=PER_SECOND)
        app.alias.upsert([writer.made(n if n % 3 else f"00000000-0000-4000-8000-{n:012d}") for n in range(1, POINTS + 1)])
        first, second = Reader(server, app.alias.name, app.queries), Reader(server, app.alias.name, app.queries)
        async with hosted(app.environment) as host:
            with writer, first, second:
                made = await person.follow(host, "create_target", asked, until_phase="target_created")
                me, target = made["migration_id"], Collection(server, made["target"]["collection"])
                field = next(r["field"] for r in made["recipes"] if r["kind"] == "embed")

                await host.call("start_backfill", migration_id=me, points_per_second=200)
                await killed(lambda: count(target) >= 128)
                assert (await host.call("migration_status", migration_id=me))["phase"] == "backfilling", "killed too late to mean anything"
                swapped = await person.follow(host, "migration_status", {"migration_id": me}, until_phase="cut_over")
                assert (swapped["previous"], swapped["current"]) == (app.source.name, target.name)
                filled_already = {"filter": {"must": [{"has_vector": field}]}}
                assert count(target, filled_already) == 0, "nothing of the new field is due before the swap"
                step = swapped["next_step"]
                assert step["tool"] == "start_backfill"

                await host.call("start_backfill", migration_id=me, points_per_second=60)
                await killed(lambda: count(target, without(field)) <= count(target) - 80)
                assert count(target, without(field)) > 80, "killed too late to mean anything"
                assert (await host.call("migration_status", migration_id=me))["is_filling"]
                await host.call("start_backfill", migration_id=me, points_per_second=0)
                complete = await filled(host, me)
                # While the writer rests the rest is filled, however slow this machine is.
                writer.pause()
                await until(lambda: count(target, without(field)) == 0, within_s=150)
                writer.go_on()
                first.change(field)
                # From the first reader of the new field on, says app_changes, nobody edits a text alone. The writer goes on upserting without it.
                assert any("edits of the text alone (set_payload) leave a stale vector" in said for said in made["app_changes"])
                writer.kinds = tuple(k for k in KINDS if k != "text")

                step = complete["next_step"]
                assert step["tool"] == "verify_target"
                proven = await host.whole("verify_target", migration_id=me)
                if not proven["is_complete"]:
                    # Texts that were edited after their point was filled.
                    assert proven["provenance"]["wrong"], proven
                    assert proven["next_step"]["tool"] == "repair_target"
                    proven = (await host.whole("repair_target", migration_id=me))["verification"]
                    assert proven["is_complete"], proven
                compared = await host.whole("compare_models", migration_id=me, sample_size=300)
                assert compared["verdict"] is not None
                assert compared["next_step"]["tool"] == "finish_migration"
                second.change(field)

                writer.pause()
                chosen = writer.edit_texts(EDITS)
                await host.whole("repair_target", migration_id=me)
                found = target.points()
                assert differences(writer, found, field) == []
                assert await app.stale(found, field) == set()

                chosen = writer.edit_texts(EDITS)
                found = target.points()
                assert await app.stale(found, field) == set(chosen), (
                    "an edit of the text alone leaves the vector behind: this is what cannot be prevented"
                )
                seen = await host.whole("verify_target", migration_id=me)
                print(
                    f"{server.version}: {EDITS} stale of {len(found)}; the sample of {seen['provenance']['sampled']} found {seen['provenance']['wrong']}"
                )
                assert not seen["is_complete"]
                assert seen["provenance"]["wrong"] > 0
                mended = await host.whole("repair_target", migration_id=me)
                assert mended["verification"]["is_complete"], mended
                assert await app.stale(target.points(), field) == set()

                writer.go_on()
                before = writer.writes
                ended = await person.follow(host, "finish_migration", {"migration_id": me, "action": "keep_old"}, until_phase="finished")
                assert ended["deleted"] == []
                await until(lambda: writer.writes > before + PER_SECOND)
        assert differences(writer, target.points(), None) == []
        print(f"{server.version}: {writer.written}, {writer.writes / writer.busy_s:.0f}/s; {first.answers}, {second.answers}")
        print(f"path: {[tool for tool, _ in itertools.groupby(person.path)]}")
    assert writer.failures == []
    assert first.failures == []
    assert second.failures == []
    assert min(*writer.written.values(), *first.answers.values(), *second.answers.values()) > 20


async def test_a_field_that_is_filled_before_the_swap_is_complete_when_the_readers_move(
    server: QdrantServer, name: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The source serves and is written to throughout; a worker is killed in the middle of the filling; then everything is compared."""
    async with scene(server, name, home, monkeypatch, points=900, strategy="side_by_side", new_vector="new") as at:
        with apps.App(at.source, seed=8, per_second=40, ids=at.ids) as app:
            await at.start()
            copied = await at.until_phase("backfilled")
            assert copied.is_fill_due
            assert count(at.target, without("new")) == count(at.target)
            await at.start(points_per_second=300)
            pid = await at.until_driven()
            await until(lambda: count(at.target, without("new")) < 700, within_s=60)
            at.signal(pid, signal.SIGKILL)
            assert (await at.migration()).phase.value == "backfilling"
            await at.start(points_per_second=0)
            filled = await at.until_phase("backfilled")
            assert filled.filled is not None
            assert filled.filled.has_converged
            assert filled.filled.share > 0.8
            await at.verify_and_repair()
        assert not app.failures
        await at.verify_and_repair()
        assert apps.differences(at.source, at.target, beside="new") == []
        outcome = await at.swap()
        assert outcome.current == at.target.name
        assert apps.differences(at.source, at.target, beside="new") == []
        after = await at.verify()
        assert (after.is_complete, after.coverage) == (True, 1.0)
